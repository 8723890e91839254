"""Random small networks of all sorts of operators, for comparison with onnxruntime and with sampled truth."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx

from tests.support.onnx_models import Array, model_bytes

FUNCTIONS: dict[str, Callable[[np.random.Generator], dict[str, float]]] = {
    **{
        kind: lambda rng: {}
        for kind in ("Relu", "Sigmoid", "Tanh", "Abs", "Neg", "Softplus", "Softsign", "Sin", "Atan", "HardSwish", "Erf")
    },
    "Elu": lambda rng: {"alpha": float(rng.uniform(-3, 3))},
    "Celu": lambda rng: {"alpha": float(rng.choice([-2.0, -0.7, 0.4, 1.5]))},
    "Selu": lambda rng: {"alpha": float(rng.uniform(-2, 2)), "gamma": float(rng.uniform(-2, 2))},
    "LeakyRelu": lambda rng: {"alpha": float(rng.uniform(-2, 2))},
    "HardSigmoid": lambda rng: {"alpha": float(rng.uniform(-1, 1)), "beta": float(rng.uniform(-1, 2))},
    "ThresholdedRelu": lambda rng: {"alpha": float(rng.choice([0.0, 0.5, -0.5]))},
    "Shrink": lambda rng: {"lambd": float(rng.choice([0.3, -0.3])), "bias": float(rng.choice([0.0, 0.3]))},
}


class Net:
    """A network of one image or vector that grows node by node; only tensors of the same shape are combined."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.shape: tuple[int, ...] = (int(self.rng.integers(1, 4)), int(self.rng.integers(2, 6)), int(self.rng.integers(2, 6)))
        self.first = self.shape
        self.name = "x"
        self.nodes: list[onnx.NodeProto] = []
        self.weights: dict[str, Array] = {}
        self.made: list[tuple[str, tuple[int, ...]]] = [("x", self.shape)]

    def constant(self, value: Array) -> str:
        name = f"c{len(self.weights)}"
        self.weights[name] = value
        return name

    def number(self, *shape: int, scale: float = 0.7) -> str:
        return self.constant((scale * self.rng.normal(size=shape)).astype(np.float32))

    def integers(self, *values: int) -> str:
        return self.constant(np.array(values, np.int64))

    def put(self, kind: str, inputs: list[str], shape: tuple[int, ...], **attributes: object) -> None:
        self.name = f"t{len(self.nodes)}"
        self.nodes.append(onnx.helper.make_node(kind, inputs, [self.name], name=f"n{len(self.nodes)}", **attributes))
        self.shape = shape
        self.made.append((self.name, shape))

    def grow(self) -> None:
        ways = [self.function, self.function, self.scale, self.choose, self.combine, self.clip, self.reduce, self.moved, self.reshaped]
        ways += [self.convolve, self.pool, self.normal] if len(self.shape) == 3 else []
        ways += [self.dense] if len(self.shape) == 1 else []
        ways[int(self.rng.integers(len(ways)))]()

    def function(self) -> None:
        kind = str(self.rng.choice(list(FUNCTIONS)))
        self.put(kind, [self.name], self.shape, **FUNCTIONS[kind](self.rng))

    def scale(self) -> None:
        kind = str(self.rng.choice(["Add", "Sub", "Mul", "Max", "Min", "Div"]))
        rank = int(self.rng.integers(0, len(self.shape) + 1))
        tail = tuple(size if self.rng.random() < 0.6 else 1 for size in self.shape[len(self.shape) - rank :])
        # One number may have as many axes as the tensor and its batch.
        tail = (1,) * (len(self.shape) + 1) if self.rng.random() < 0.2 else tail
        given = self.number(*tail)
        if kind == "Div":
            self.weights[given] = (np.sign(self.weights[given] + 1e-9) * (0.5 + np.abs(self.weights[given]))).astype(np.float32)
        self.put(kind, [self.name, given], self.shape)

    def choose(self) -> None:
        mask = self.constant(self.rng.random(self.shape) < 0.5)
        self.put("Where", [mask, self.name, self.number(1)], self.shape)

    def combine(self) -> None:
        fits = [name for name, shape in self.made if shape == self.shape]
        other = fits[int(self.rng.integers(len(fits)))]
        kind = str(self.rng.choice(["Add", "Sub", "Max", "Min", "Sum", "Mean"]))
        self.put(kind, [self.name, other], self.shape)

    def clip(self) -> None:
        low = float(self.rng.normal())
        ends = [self.constant(np.float32(low)), self.constant(np.float32(low + abs(self.rng.normal())))]
        self.put("Clip", [self.name, *ends], self.shape)

    def reduce(self) -> None:
        if len(self.shape) < 2:
            return
        axis = int(self.rng.integers(1, len(self.shape) + 1))
        kind = str(self.rng.choice(["ReduceMean", "ReduceMax", "ReduceL2", "ReduceMin", "ReduceL1"]))
        shape = tuple(1 if i == axis - 1 else size for i, size in enumerate(self.shape))
        self.put(kind, [self.name], shape, axes=[axis], keepdims=1)

    def moved(self) -> None:
        kind = int(self.rng.integers(4))
        axis = int(self.rng.integers(1, len(self.shape) + 1))
        size = self.shape[axis - 1]
        before, after = self.shape[: axis - 1], self.shape[axis:]
        if kind == 0:
            order = [int(v) for v in self.rng.permutation(len(self.shape))]
            self.put("Transpose", [self.name], tuple(self.shape[i] for i in order), perm=[0, *(i + 1 for i in order)])
        elif kind == 1:
            places = [int(v) for v in self.rng.integers(-size, size, int(self.rng.integers(1, 5)))]
            self.put("Gather", [self.name, self.integers(*places)], (*before, len(places), *after), axis=axis)
        elif kind == 2:
            pads = [0] * (2 * len(self.shape) + 2)
            pads[axis], pads[axis + len(self.shape) + 1] = (int(v) for v in self.rng.integers(0, 3, 2))
            longer = size + pads[axis] + pads[axis + len(self.shape) + 1]
            self.put("Pad", [self.name, self.integers(*pads), self.constant(np.float32(0.3))], (*before, longer, *after))
        elif size > 1:
            start = int(self.rng.integers(0, size))
            given = [self.integers(start), self.integers(2**40), self.integers(axis)]
            self.put("Slice", [self.name, *given], (*before, size - start, *after))

    def reshaped(self) -> None:
        total = int(np.prod(self.shape))
        ways = [(total,), (1, total, 1), (total, 1, 1)] + [(k, total // k, 1) for k in range(2, total) if total % k == 0]
        shape = ways[int(self.rng.integers(len(ways)))]
        self.put("Reshape", [self.name, self.integers(-1, *shape)], shape)

    def convolve(self) -> None:
        made, kernel = int(self.rng.integers(1, 4)), [int(self.rng.integers(1, min(3, size) + 1)) for size in self.shape[1:]]
        pads = [int(self.rng.integers(0, k)) for k in kernel * 2]
        sizes = tuple(size + pads[i] + pads[i + 2] - kernel[i] + 1 for i, size in enumerate(self.shape[1:]))
        weights = [self.number(made, self.shape[0], *kernel, scale=0.4), self.number(made)]
        self.put("Conv", [self.name, *weights], (made, *sizes), pads=pads)

    def pool(self) -> None:
        kernel = [int(self.rng.integers(1, min(3, size) + 1)) for size in self.shape[1:]]
        pads = [int(self.rng.integers(0, k)) for k in kernel * 2]
        sizes = tuple(size + pads[i] + pads[i + 2] - kernel[i] + 1 for i, size in enumerate(self.shape[1:]))
        kind = str(self.rng.choice(["MaxPool", "AveragePool"]))
        self.put(kind, [self.name], (self.shape[0], *sizes), kernel_shape=kernel, pads=pads)

    def normal(self) -> None:
        given = [self.number(self.shape[0]) for _ in range(3)]
        variance = self.constant((0.3 + self.rng.random(self.shape[0])).astype(np.float32))
        epsilon = float(self.rng.choice([1e-5, 1.0]))
        self.put("BatchNormalization", [self.name, *given, variance], self.shape, epsilon=epsilon)

    def dense(self) -> None:
        made = int(self.rng.integers(1, 6))
        weights = [self.number(self.shape[0], made, scale=0.5), self.number(made)]
        self.put("Gemm", [self.name, *weights], (made,), alpha=float(self.rng.choice([1.0, -0.5])))

    def done(self) -> bytes:
        total = int(np.prod(self.shape))
        self.put("Flatten", [self.name], (total,))
        self.put("Gemm", [self.name, self.number(total, 3, scale=0.5), self.number(3)], (3,))
        self.nodes[-1].output[0] = "logits"
        return model_bytes(self.nodes, self.weights, input_shape=("batch", *self.first), opset=14 if self.rng.random() < 0.5 else 17)


def random_graph(seed: int) -> bytes:
    net = Net(seed)
    for _ in range(int(net.rng.integers(3, 9))):
        net.grow()
        if np.prod(net.shape) > 400:
            break
    return net.done()
