"""Our reading of a file against onnxruntime's, and each row against its neighbours (soundness rule 5)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from torch import Tensor

from certify.attacks.refutation import decoded
from certify.certificate import Certificate
from certify.errors import ModelRejected
from certify.findings import AttackResult, counterexample_of
from certify.graph.proto import parse
from certify.model import Model
from certify.verdict import Verdict

_AGREE = 1e-4
_COPIES = 4
# What a large network may cost in all rows together: values held at once, values made, floating-point operations.
_LIVE_VALUES, _VALUES, _FLOPS = 2**26, 2**28, 2**36
_MEND_ROWS = "remove layers that work across the batch"

onnxruntime.set_default_logger_severity(4)


def check_agreement(model: Model, data: bytes) -> None:
    """Our reading of the file must compute what onnxruntime computes, for every row alone, whatever stands beside it.

    Random inputs of the declared range, one at a time and among hostile neighbours, in our module and (where the file takes
    several) in onnxruntime. Agreement is to 1e-4 of the largest logit.

    Raises:
        ModelRejected: the outputs differ (the first tensor that does is named), are not finite, or a row depends on its neighbours.
    """
    x, crowd = _inputs(model)
    with torch.inference_mode():
        alone = torch.cat([model.module()(row.unsqueeze(0)) for row in x])
        among = model.module()(crowd)[: len(x)]
    if not bool(alone.isfinite().all()):
        raise ModelRejected.at("model", "answers NaN or infinity on inputs of its range", "check the weights and the declared range")
    if _differs(among, alone):
        raise ModelRejected.at("model", "answers an input differently among other inputs", _MEND_ROWS)
    reference = _Reference(data)
    if _differs(alone, torch.cat([reference.logits(row.unsqueeze(0)) for row in x]).reshape(alone.shape)):
        raise ModelRejected.at("model", _difference(model, data, x[:1]), "report this model: it cannot be certified soundly")
    together = reference.together(crowd)
    if together is not None and _differs(together[: len(x)], alone):
        raise ModelRejected.at("model", "answers an input differently among other inputs in onnxruntime", _MEND_ROWS)


def recheck(model: Model, data: bytes, findings: Iterable[Certificate | AttackResult]) -> Iterator[Certificate | AttackResult]:
    """The findings; a counterexample that onnxruntime does not confirm is no longer one: a claim is then unknown, nothing was found.

    Args:
        model: the network.
        data: the bytes it was read from.
        findings: of this model.
    """
    reference: _Reference | None = None
    for finding in findings:
        text, kept = counterexample_of(finding), finding
        if text is not None:
            reference = reference or _Reference(data)
            x = decoded(text, model.input_shape)
            against = finding.prediction if isinstance(finding, AttackResult) else finding.label
            logits = reference.logits(x.unsqueeze(0)).reshape(-1)
            if int(logits.argmax()) == against or not bool(logits.isfinite().all()):
                kept = _unconfirmed(finding)
        yield kept


def _unconfirmed(finding: Certificate | AttackResult) -> Certificate | AttackResult:
    seen = "An attack found an input that gets another answer here but not in onnxruntime"
    nothing = {"counterexample": None, "distance_upper": None}
    if isinstance(finding, AttackResult):
        return finding.model_copy(update={**nothing, "found": False, "answer": None, "reason": f"{seen}: it is not counted."})
    kept = finding.evidence.model_copy(update=nothing) if finding.evidence else None
    return finding.model_copy(update={"verdict": Verdict.UNKNOWN, "reason": f"{seen}: neither proved nor refuted.", "evidence": kept})


def _inputs(model: Model) -> tuple[Tensor, Tensor]:
    """A few inputs of the range, and the same ones followed by neighbours far outside it."""
    low, high = model.value_range or (0.0, 1.0)
    graph = model.graph
    copies = max(1, min(_COPIES, _LIVE_VALUES // (3 * graph.live_elements()), _VALUES // graph.values(), _FLOPS // max(1, graph.flops())))
    generator = torch.Generator().manual_seed(0)
    x = low + (high - low) * torch.rand((copies, *model.input_shape), generator=generator)
    return x, torch.cat([x, torch.full_like(x, 1e3), -x * 50])


class _Reference:
    """onnxruntime on the bytes, one thread, without its optimiser (which fuses a zero Pad into a MaxPool, where padding never wins)."""

    def __init__(self, data: bytes) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 4
        options.enable_mem_pattern = False
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        try:
            self._session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise _refused(error) from None
        self._source = self._session.get_inputs()[0]

    def logits(self, x: Tensor) -> Tensor:  # x: (1, *input), float32
        try:
            return torch.from_numpy(self._run(x)[0])
        except Exception as error:
            raise _refused(error) from None

    def together(self, x: Tensor) -> Tensor | None:  # x: (batch, *input), float32
        """Logits of many rows at once; null when the file takes only one."""
        if self._source.shape[0] == 1:
            return None
        try:
            return torch.from_numpy(self._run(x)[0])
        except Exception:
            return None  # it reads well and answers a batch of one: some layer has the batch of the export built in

    def tensors(self, x: Tensor) -> Iterator[tuple[str, Tensor]]:  # x: (1, *input), float32
        names = [output.name for output in self._session.get_outputs()]
        for name, value in zip(names, self._run(x), strict=True):
            yield name, torch.from_numpy(np.asarray(value, dtype=np.float32))

    def _run(self, x: Tensor) -> list[Any]:  # x: (batch, *input), float32
        return list(self._session.run(None, {self._source.name: x.numpy()}))


def _refused(error: Exception) -> ModelRejected:
    # onnxruntime raises plain RuntimeErrors of its own making; whatever it refuses has no independent check.
    reason = "".join(c if c.isprintable() else " " for c in str(error)[:300])
    return ModelRejected.at("model", f"cannot be run by onnxruntime ({reason})", "export the model again")


def _difference(model: Model, data: bytes, x: Tensor) -> str:  # x: (1, *input), float32
    """A sentence that names the first tensor on which the two readings differ."""
    names = {operator.output for operator in model.graph.operators}
    file = parse(data)  # with the names that our reading has
    shown = {value.name for value in file.graph.output}
    file.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names - shown)
    theirs = dict(_Reference(file.SerializeToString()).tensors(x))
    with torch.inference_mode():
        for operator, value in model.module().steps(x):
            other = theirs.get(operator.output)
            # The same order of values, whatever axis the file keeps its batch of one on.
            if other is not None and _differs(value.reshape(-1), other.reshape(-1)):
                return (
                    f"differs from onnxruntime's reading from the tensor {operator.output!r} on, made by {operator.type} {operator.name!r}"
                )
    return "computes something else here than in onnxruntime"


def _differs(a: Tensor, b: Tensor) -> bool:  # a, b: of one shape
    return a.shape != b.shape or not bool((a - b).abs().max() <= _AGREE * max(1e-3, float(b.abs().max())))
