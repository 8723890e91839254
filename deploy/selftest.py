"""One layer through CROWN: shows that the installed engine works. One sentence when it does not."""

from __future__ import annotations

import sys

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from certify import Model
from certify.bounds.engine import LirpaEngine
from certify.errors import AssayError
from certify.norms import Norm


def one_layer() -> bytes:
    """logits = (x0, -x0): the distance of x0 = 1 from the boundary is 1."""
    weight = numpy_helper.from_array(np.array([[1, 0], [-1, 0]], dtype=np.float32), "weight")
    bias = numpy_helper.from_array(np.zeros(2, dtype=np.float32), "bias")
    graph = helper.make_graph(
        [helper.make_node("Gemm", ["x", "weight", "bias"], ["logits"], transB=1)],
        "selftest",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 2])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 2])],
        [weight, bias],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()


def main() -> int:
    import torch

    try:
        engine = LirpaEngine(Model.from_onnx(one_layer()).graph, Norm.L2)
        x = torch.tensor([1.0, 0.0])
        inside, outside = engine.margin(x, 0, 0.999, "crown"), engine.margin(x, 0, 1.001, "crown")
    except AssayError as error:
        sys.stderr.write(f"assay: {error}\n")
        return 1
    if not inside.proved or outside.proved:
        sys.stderr.write("assay: the self-test of the bound engine gave a wrong answer; do not use this installation\n")
        return 1
    sys.stdout.write(f"CROWN self-test passed ({engine.version}).\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
