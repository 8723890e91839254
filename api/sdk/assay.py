"""What users hold: models straight from torch, inspected and ready."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from api.sdk.client import Client, ServiceError
from certify.errors import ModelRejected, Problem


class Assay(Client):
    """One service, one key: `Assay("http://127.0.0.1:8000", key)`."""

    def upload(
        self,
        model: Any,
        *,
        name: str,
        input_shape: Sequence[int] | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        class_names: Sequence[str] | None = None,
        range: tuple[float, float] | None = None,
    ) -> dict[str, Any]:
        """Upload a classifier and wait until a worker has inspected it; the answer is the model with its facts.

        Args:
            model: a torch module (exported and checked on this machine), the path of an ONNX file, or its bytes.
            name: what to call it; the same name again is its next version.
            input_shape: shape of one input, without the batch axis; needed for a module.
            mean, std: put (x - mean) / std for each channel in front of a module, so that radii are in raw-input units.
            class_names: kept in the file of a module.
            range: the raw input values, (low, high).

        Raises:
            ExportError: the module cannot be exported; what to change.
            ModelRejected: the worker refuses the file; why.
            ServiceError: the service refused or cannot be reached.
        """
        extras = {"input_shape": input_shape, "mean": mean, "std": std, "class_names": class_names}
        if isinstance(model, (str, Path)):
            _refuse(extras)
            return self._added(name, Path(model), range)
        if isinstance(model, bytes):
            _refuse(extras)
            data = model
        else:
            data = _exported(model, input_shape, mean, std, class_names)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            path.write_bytes(data)
            return self._added(name, path, range)

    def _added(self, name: str, path: Path, value_range: tuple[float, float] | None) -> dict[str, Any]:
        found = self.inspected("models", self.add_model(name, path, value_range)["id"])
        if found["state"] == "rejected":
            raise ModelRejected(*(Problem(**problem) for problem in found["rejection"]))
        return found


def _refuse(extras: dict[str, Any]) -> None:
    for field, value in extras.items():
        if value is not None:
            raise ServiceError.at(field, "is for torch modules; an ONNX file has its own", "leave it out, or give the module")


def _exported(
    module: Any,
    input_shape: Sequence[int] | None,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    class_names: Sequence[str] | None,
) -> bytes:
    # Only here, so that a client without torch works; who holds a module has torch.
    try:
        from certify.export import to_onnx
    except ImportError as error:
        detail = f"cannot be exported here: {error}"
        raise ServiceError.at("model", detail, "pip install 'assay[worker]', or give an ONNX file") from None
    if input_shape is None:
        raise ServiceError.at("input_shape", "is needed to export a module", "give the shape of one input: (3, 32, 32)")
    return to_onnx(module, input_shape, mean=mean, std=std, class_names=class_names)
