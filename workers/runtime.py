"""onnxruntime on the bytes of a model: the independent reading that ours is compared with, and the one that users run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import onnxruntime
import torch
from torch import Tensor

VERSION: str = onnxruntime.__version__
# How far logits may lie apart, as a share of the row's largest one ...
_AGREE = 1e-4
# ... or in multiples of what float32 does to our own: some networks cancel large numbers, and then every runtime is off by more.
_ROUNDING = 64.0
_MEMORY = ("bad_alloc", "out of memory", "failed to allocate memory")

onnxruntime.set_default_logger_severity(4)


class CannotRun(Exception):
    """onnxruntime refuses a model, or fails on inputs of its shape; the message says how, in words after "which"."""


class Session:
    """A model in onnxruntime, one thread.

    Args:
        data: the file.
        optimised: with the default options, as users run it; otherwise without any rewriting of the graph, as the file says.
        threads: how many; 0 is one for each core.

    Raises:
        CannotRun: it refuses the file.
        MemoryError: there was none left, which says nothing about the file.
    """

    def __init__(self, data: bytes, *, optimised: bool, threads: int = 1) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = threads
        options.log_severity_level = 4
        options.enable_mem_pattern = False
        if not optimised:
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        self.optimised = optimised
        try:
            self._session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise _refused(error) from None
        self._source = self._session.get_inputs()[0]

    @property
    def takes_one(self) -> bool:
        """Whether the file says that a batch has one row."""
        return bool(self._source.shape[0] == 1)

    def try_once(self, shape: tuple[int, ...]) -> None:
        """
        Raises:
            CannotRun: it fails on an input of that shape.
        """
        self.logits(torch.zeros((1, *shape)))

    def logits(self, x: Tensor) -> Tensor:  # x: (1, *input), float32
        """(classes,), float32.

        Raises:
            CannotRun: it fails.
        """
        try:
            return torch.from_numpy(self._run(x)[0]).reshape(-1)
        except Exception as error:
            raise _refused(error) from None

    def together(self, x: Tensor) -> Tensor | None:  # x: (batch, *input), float32
        """(batch, classes), float32; null when the file takes only one row, though it may not say so."""
        if self.takes_one or len(x) == 1:
            return None
        try:
            found = torch.from_numpy(self._run(x)[0])
        except Exception as error:
            _refused(error)  # some layer has the batch of the export built in; no memory is another matter
            return None
        return found if found.shape[:1] == x.shape[:1] else None

    def tensors(self, x: Tensor) -> Iterator[tuple[str, Tensor]]:  # x: (1, *input), float32
        """Every output by name."""
        names = [output.name for output in self._session.get_outputs()]
        for name, value in zip(names, self._run(x), strict=True):
            yield name, torch.from_numpy(np.asarray(value, dtype=np.float32))

    def _run(self, x: Tensor) -> list[Any]:  # x: (batch, *input), float32
        return list(self._session.run(None, {self._source.name: x.contiguous().numpy()}))


def apart(
    ours: Tensor,  # (rows, classes), float32
    theirs: Tensor,  # (rows, classes), float32
    exact: Callable[[], Tensor],  # (rows, classes), float64
    *,
    largest: float | None = None,
) -> Tensor:
    """(rows,), bool: where their logits are further from ours than rounding explains.

    That is by more than 1e-4 of the row's largest logit, and by more than 64 times what float32 does to ours. Rows in which ours are
    not finite have an error of their own and are never apart.

    Args:
        ours: the certified classifier's.
        theirs: of the same rows.
        exact: ours again in float64; only called where the first measure is exceeded.
        largest: the logit to measure against, in place of each row's own.
    """
    gap = (theirs.double() - ours.double()).abs().amax(dim=1)
    finite = ours.isfinite().all(dim=1)
    scale = ours.abs().amax(dim=1).double() if largest is None else largest
    found = finite & ~(gap <= _AGREE * scale)  # NaN and infinity are not near
    if not bool(found.any()):
        return found
    moved = (ours.double() - exact()).abs().amax(dim=1)
    return found & ~(gap <= _ROUNDING * moved)


def _refused(error: Exception) -> CannotRun:
    # onnxruntime raises plain RuntimeErrors of its own making.
    text = str(error)
    if isinstance(error, MemoryError) or any(word in text.lower() for word in _MEMORY):
        raise MemoryError("onnxruntime had no memory left") from None
    reason = "".join(c if c.isprintable() else " " for c in text[:200])
    return CannotRun(f"cannot run it ({reason})")
