"""Which class serves which kind. Adding a certificate family adds one line."""

from __future__ import annotations

from typing import Any

from certify.attacks.certifier import Attacker
from certify.bounds.certifier import BoundsCertifier
from certify.certifier import Finder
from certify.dual_prediction import DualPredictCertifier
from certify.instance_smoothing import InstanceSmoothingCertifier
from certify.lipschitz.certifier import LipschitzCertifier
from certify.memory_prediction import MemoryPredictCertifier
from certify.prediction import PredictCertifier
from certify.smoothing import LatentSmoothingCertifier, SmoothingCertifier
from certify.splitting import SplittingCertifier

CERTIFIERS: dict[str, type[Finder[Any, Any]]] = {
    "smoothing": SmoothingCertifier,
    "instance-smoothing": InstanceSmoothingCertifier,
    "latent-smoothing": LatentSmoothingCertifier,
    "predict": PredictCertifier,
    "dual-predict": DualPredictCertifier,
    "memory-predict": MemoryPredictCertifier,
    "dssn": SplittingCertifier,
    "bounds": BoundsCertifier,
    "lipschitz": LipschitzCertifier,
    "attack": Attacker,
}
