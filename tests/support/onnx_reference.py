"""onnxruntime as the independent reading of a file."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import torch

from certify.graph.graph import Graph
from certify.graph.module import GraphModule
from certify.graph.reader import read_onnx
from tests.support.onnx_models import Array


def reference(data: bytes, x: Array) -> Array:
    """The logits of onnxruntime, one example at a time where the file fixes the batch to 1."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    # Its optimiser is not always right: a zero Pad before a MaxPool is fused into the pool, where padding never wins.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    source = session.get_inputs()[0]
    parts = [x[i : i + 1] for i in range(len(x))] if source.shape[0] == 1 else [x]
    return np.concatenate([session.run(None, {source.name: part})[0] for part in parts])


def ours(graph: Graph, x: Array, dtype: torch.dtype = torch.float32) -> Array:
    with torch.no_grad():
        return GraphModule(graph).to(dtype)(torch.from_numpy(x).to(dtype)).numpy()


def assert_agrees(data: bytes, *, batches: tuple[int, ...] = (1, 5), seed: int = 0, scale: float = 1.0) -> Graph:
    """Our reading equals onnxruntime's to 1e-4 of the largest logit, in shape and in value, and so does the bounds rewrite's source."""
    graph = read_onnx(data)
    rng = np.random.default_rng(seed)
    for batch in batches:
        x = (scale * rng.normal(size=(batch, *graph.input_shape))).astype(np.float32)
        expected = reference(data, x)
        assert expected.shape == (batch, graph.classes)
        tolerance = 1e-4 * max(1.0, float(np.abs(expected).max()))
        assert np.isfinite(expected).all()
        np.testing.assert_allclose(ours(graph, x), expected, rtol=1e-4, atol=tolerance)
        np.testing.assert_allclose(ours(graph, x, torch.float64), expected, rtol=1e-4, atol=tolerance)
    return graph


def refixed(data: bytes, batch: int | str) -> bytes:
    """The same file with another first axis of its input."""
    model = onnx.load_model_from_string(data)
    axis = model.graph.input[0].type.tensor_type.shape.dim[0]
    axis.Clear()
    if isinstance(batch, int):
        axis.dim_value = batch
    else:
        axis.dim_param = batch
    return model.SerializeToString()
