"""What a worker finds out about a model, beyond reading it."""

from __future__ import annotations

import numpy as np
import onnxruntime
import torch
from torch import Tensor

from certify.bounds.support import support as bounds_support
from certify.errors import ModelRejected
from certify.facts import ModelFacts, OperatorFact, Support, TensorFact
from certify.model import Model

_AGREE = 1e-4
_COPIES = 4


def model_facts(model: Model) -> ModelFacts:
    """Facts of a model, for the API to validate specs against."""
    graph = model.graph
    smoothing = Support(kind="smoothing", method=None, norm="l2", supported=True)
    return ModelFacts(
        input_shape=graph.input_shape,
        classes=graph.classes,
        parameters=graph.parameters(),
        operators=tuple(OperatorFact(type=o.type, name=o.name, output=TensorFact(name=o.output, shape=o.shape)) for o in graph.operators),
        support=(smoothing, *bounds_support(graph)),
        largest_tensor=graph.largest_tensor(),
    )


def check_agreement(model: Model, data: bytes) -> None:
    """Our reading of the file must compute what onnxruntime computes, each row alone.

    Random inputs of the declared range; then the same rows among hostile neighbours.

    Raises:
        ModelRejected: the outputs differ, are not finite, or a row depends on its neighbours.
    """
    low, high = model.value_range or (0.0, 1.0)
    generator = torch.Generator().manual_seed(0)
    x = low + (high - low) * torch.rand((_COPIES, *model.input_shape), generator=generator)
    with torch.inference_mode():
        ours = model.module()(x)
        neighbours = torch.cat([x, torch.full_like(x, 1e3), -x * 50])
        among = model.module()(neighbours)[:_COPIES]
        alone = torch.cat([model.module()(row.unsqueeze(0)) for row in x])
    if not bool(ours.isfinite().all()):
        raise ModelRejected.at("model", "answers NaN or infinity on inputs of its range", "check the weights and the declared range")
    if _differs(alone, among):
        raise ModelRejected.at("model", "answers an input differently among other inputs", "remove layers that work across the batch")
    if _differs(ours, _reference(data, x)):
        raise ModelRejected.at(
            "model", "computes something else here than in onnxruntime", "report this model: it cannot be certified soundly"
        )


def _reference(data: bytes, x: Tensor) -> Tensor:  # x: (batch, *input), float32
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        name = session.get_inputs()[0].name
        # Row by row: the file may fix the batch to 1.
        rows = [session.run(None, {name: row.unsqueeze(0).numpy()})[0] for row in x]
    except Exception as error:
        # onnxruntime raises plain RuntimeErrors of its own making; whatever it refuses has no independent check.
        raise ModelRejected.at("model", f"cannot be run by onnxruntime ({str(error)[:200]})", "export the model again") from None
    return torch.from_numpy(np.concatenate(rows))


def _differs(a: Tensor, b: Tensor) -> bool:  # a: (batch, classes); b: (batch, classes)
    return a.shape != b.shape or not bool((a - b).abs().max() <= _AGREE * max(1e-3, float(b.abs().max())))
