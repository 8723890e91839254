"""Which class serves which kind. Adding a certificate family adds one line."""

from __future__ import annotations

from typing import Any

from certify.bounds.certifier import BoundsCertifier
from certify.certifier import Certifier
from certify.prediction import PredictCertifier
from certify.smoothing import SmoothingCertifier
from certify.splitting import SplittingCertifier

CERTIFIERS: dict[str, type[Certifier[Any]]] = {
    "smoothing": SmoothingCertifier,
    "predict": PredictCertifier,
    "dssn": SplittingCertifier,
    "bounds": BoundsCertifier,
}
