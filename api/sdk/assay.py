"""What users hold: models straight from torch, inspected and ready."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console

from api.sdk.client import Client, ServiceError
from api.sdk.progress import shown
from api.sdk.run import Run
from certify.errors import Problem


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
        with _as_file(data, "model.onnx") as path:
            return self._added(name, path, range)

    def upload_data(self, x: Any, y: Any = None, *, name: str, class_names: Sequence[str] | None = None) -> dict[str, Any]:
        """Upload a dataset and wait until a worker has inspected it.

        Args:
            x: inputs (N, *input) in raw-input units, numpy or torch; or, without `y`, the path of a `.npz` or `.safetensors` file.
            y: labels (N,).
            name: what to call it; the same name again is its next version.
            class_names: in the order of the labels.

        Raises:
            InputError: the arrays do not fit together.
            DatasetRejected: the worker refuses the file; why.
            ServiceError: it could not be inspected, the service refused, or it cannot be reached.
        """
        if y is None:
            return self.inspected("datasets", self.add_dataset(name, Path(x))["id"])
        try:
            from certify.arrays import to_npz
        except ImportError as error:
            raise ServiceError.at("x", f"cannot be packed here: {error}", "pip install numpy, or give the path of a file") from None
        with _as_file(to_npz(x, y, class_names), "data.npz") as path:
            return self.inspected("datasets", self.add_dataset(name, path)["id"])

    def certify(
        self,
        model: Any,
        x: Any,
        y: Any,
        spec: Mapping[str, Any] | Sequence[Mapping[str, Any]],
        *,
        name: str = "model",
        data_name: str = "data",
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        class_names: Sequence[str] | None = None,
        range: tuple[float, float] | None = None,
        progress: bool | None = None,
    ) -> Run:
        """Certify a model on inputs and wait for the answer; a lost connection is waited out, and asking the same again costs nothing.

        Args:
            model: a torch module (exported and checked on this machine), the path of an ONNX file, its bytes, or the id of a model that
                is there already.
            x: inputs (N, *input) in raw-input units, numpy or torch; or the path of a dataset file, or the id of a dataset, with `y=None`.
            y: labels (N,).
            spec: a spec, or its list of certifiers.
            name, data_name: what to call model and dataset.
            mean, std, class_names, range: see `upload`.
            progress: a bar on stderr; only on a terminal when None.

        Raises:
            ExportError, ModelRejected, InputError: the model or the data cannot be used; what to change.
            ServiceError: the service refused, or the job failed; why.
        """
        data = x if _is_id(x, "dat_") else self.upload_data(x, y, name=data_name, class_names=class_names)["id"]
        if not _is_id(model, "mdl_"):
            module = not isinstance(model, (str, Path, bytes))
            shape = self.get(f"/v1/datasets/{data}")["facts"]["input_shape"] if module else None
            names = class_names if module else None
            model = self.upload(model, name=name, input_shape=shape, mean=mean, std=std, class_names=names, range=range)["id"]
        asked = dict(spec) if isinstance(spec, Mapping) else {"certifiers": [dict(entry) for entry in spec]}
        return self.run(self.submit(model, data, asked)["id"], progress=progress)

    def run(self, job_id: str, *, progress: bool | None = None) -> Run:
        """Wait for a job, with its results.

        Raises:
            ServiceError: it failed or was cancelled; why.
        """
        console = Console(stderr=True, soft_wrap=True)
        if console.is_terminal if progress is None else progress:
            with shown(console) as tell:
                job = self.watch(job_id, tell)
        else:
            job = self.watch(job_id, lambda job: None)
        if job["state"] != "succeeded":
            unsaid = Problem(field="", detail=f"{job['id']} {job['state']}", mend="submit it again")
            raise ServiceError(*([Problem(**problem) for problem in job["error"]] or [unsaid]))
        return Run(self, job)

    def _added(self, name: str, path: Path, value_range: tuple[float, float] | None) -> dict[str, Any]:
        return self.inspected("models", self.add_model(name, path, value_range)["id"])


@contextmanager
def _as_file(data: bytes, name: str) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(data)
        yield path


def _is_id(value: Any, prefix: str) -> bool:
    return isinstance(value, str) and value.startswith(prefix) and not Path(value).exists()


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
