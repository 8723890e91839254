"""What computes: written on every certificate."""

from __future__ import annotations

from importlib import metadata

import numpy as np
import torch

from certify.certificate import Versions


def versions() -> Versions:
    return Versions(assay=metadata.version("assay"), torch=torch.__version__, numpy=np.__version__)
