"""The mathematics of certificates: `certify(model, examples, spec, run)`, and `predict(model, x, ...)` for answers without a radius.

Importing this package loads nothing heavy, so that the API and the command line can use the light half
(`spec`, `certificate`, `verdict`, `errors`, `norms`, `rounding`, `facts`, `run`) without torch. The names below arrive on first use.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from certify.model import Examples as Examples
    from certify.model import Model as Model
    from certify.prediction import Prediction as Prediction
    from certify.prediction import predict as predict
    from certify.verb import certify as certify

__all__ = ["Examples", "Model", "Prediction", "certify", "predict"]

_HOMES = {
    "certify": "certify.verb",
    "predict": "certify.prediction",
    "Prediction": "certify.prediction",
    "Examples": "certify.model",
    "Model": "certify.model",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'certify' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
