"""Our reading of a file against onnxruntime's, and each row against its neighbours (soundness rule 5)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import onnx
import torch
from torch import Tensor

from certify.errors import ModelRejected
from certify.facts import RuntimeFact
from certify.graph.proto import parse
from certify.model import Model
from certify.text import printable
from workers.runtime import VERSION, CannotRun, Session, apart

Range = tuple[float, float]

# Rows in one call on which an answer was seen to depend, or might: few, odd, those of a worker, those of a user.
CROWDS = (2, 33, 64, 100, 128, 200, 256)
# Where no range is declared: what networks are fed with, and far beyond, on both sides of zero.
SCALES = (1.0, 255.0, 10.0, 1e-3, 1e4)
# What a large network may cost in all rows together: values held at once, values made, floating-point operations.
LIVE_VALUES, _VALUES, _FLOPS = 2**26, 2**28, 2**36
_CROWD_FLOPS = 2**37
_COPIES = 4
_NEAR = 1e-4
_SEARCHED = 2**26  # weights, once for each operator, up to which the tensor that the optimiser changes is looked for
_MEND_ROWS = "remove layers that work across the batch"


@dataclass(frozen=True)
class Difference:
    """An input that a session answers otherwise than our module, in a call of so many rows; `value_range` is where it was drawn from."""

    x: Tensor  # (1, *input), float32
    rows: int
    value_range: Range

    @property
    def where(self) -> str:
        low, high = self.value_range
        return f"on inputs from {low:g} to {high:g}" + ("" if self.rows == 1 else f" in a batch of {self.rows} rows")


def check_agreement(model: Model, data: bytes, crowds: Sequence[int] = CROWDS, default: Session | CannotRun | None = None) -> RuntimeFact:
    """Our reading of the file must compute what the file says to onnxruntime, for every row alone, whatever stands beside it.

    Random inputs of the declared range, one at a time and among others, in our module and (where the file takes several) in onnxruntime
    without its optimiser; without a declared range, inputs of several scales and both signs too. The optimiser, which is on by default,
    is then compared with the file: what it changes is told, and so is that onnxruntime cannot run the file.

    Args:
        model: our reading.
        data: the bytes it was read from.
        crowds: rows in one call; large networks are compared in smaller ones.
        default: onnxruntime on the bytes as users start it, where that was done already.

    Raises:
        ModelRejected: the outputs differ (the first tensor that does is named), are not finite, or a row depends on its neighbours.
    """
    _check_alone(model)
    default = default or started(model, data, optimised=True)
    literal = started(model, data, optimised=False)
    # The optimised one stands in where there is no other.
    reading = literal if isinstance(literal, Session) else default
    if isinstance(reading, Session) and (found := _difference(model, reading, crowds)):
        if found.rows > 1:
            raise ModelRejected.at("model", "answers an input differently among other inputs in onnxruntime", _MEND_ROWS)
        detail = _named(model, data, found.x)
        raise ModelRejected.at("model", detail, "report this model: it cannot be certified soundly")
    if not isinstance(default, Session):
        return RuntimeFact(version=VERSION, refused=str(default))
    if reading is default:
        return RuntimeFact(version=VERSION)
    return RuntimeFact(version=VERSION, differs=_told(model, data, _difference(model, default, crowds)))


def check_range(model: Model, data: bytes, default: Session, value_range: Range) -> str:
    """How the optimiser departs from the file on inputs of a dataset's range, in words; empty where it does not.

    Args:
        model: our reading.
        data: the bytes it was read from.
        default: onnxruntime on them, as users run it.
        value_range: the least and the largest value of the dataset.

    Raises:
        ModelRejected: it is our reading that is wrong there.
    """
    found = _on_range(model, default, value_range, ())
    if found is None:
        return ""
    literal = started(model, data, optimised=False)
    if isinstance(literal, Session) and _on_range(model, literal, value_range, ()) is not None:
        detail = f"{_named(model, data, found.x)}, {found.where}, as this dataset has them"
        raise ModelRejected.at("model", detail, "report this model: it cannot be certified soundly")
    return _told(model, data, found)


def started(model: Model, data: bytes, *, optimised: bool, threads: int = 1) -> Session | CannotRun:
    """onnxruntime on the file; its own words where it cannot answer a single input."""
    try:
        session = Session(data, optimised=optimised, threads=threads)
        session.try_once(model.input_shape)
    except CannotRun as error:
        return error
    return session


def _check_alone(model: Model) -> None:
    """In our module: finite logits, the same ones among hostile neighbours."""
    x = _inputs(model, model.value_range or (0.0, 1.0))
    ours = torch.cat([_ours(model, row.unsqueeze(0)) for row in x])
    if not bool(ours.isfinite().all()):
        raise ModelRejected.at("model", "answers NaN or infinity on inputs of its range", "check the weights and the declared range")
    if bool(_apart(model, x, ours, _ours(model, _among(x))[: len(x)]).any()):
        raise ModelRejected.at("model", "answers an input differently among other inputs", _MEND_ROWS)


def _difference(model: Model, session: Session, crowds: Sequence[int]) -> Difference | None:
    found = _on_range(model, session, model.value_range or (0.0, 1.0), crowds)
    if found is not None or model.value_range is not None:
        return found
    # A large network is asked on fewer scales: three calls each, of two sessions and our module.
    affordable = max(3, _FLOPS // max(1, 4 * model.graph.flops()))
    ranges = [value_range for scale in SCALES for value_range in ((-scale, scale), (0.0, scale), (-scale, 0.0))]
    for value_range in ranges[:affordable]:
        # Far outside of what it was made for, a network may jump where rounding decides: most rows must differ.
        if found := _on_range(model, session, value_range, (), most=True):
            return found
    return None


def _on_range(model: Model, session: Session, value_range: Range, crowds: Iterable[int], *, most: bool = False) -> Difference | None:
    """The first call of a session whose answers are not ours; with `most`, one row of it may be."""
    x = _inputs(model, value_range)
    ours = _ours(model, x)
    alone = torch.stack([session.logits(row.unsqueeze(0)) for row in x])
    if alone.shape != ours.shape:
        return Difference(x[:1], 1, value_range)
    differ = _apart(model, x, ours, alone)
    if int(differ.sum()) > (int(ours.isfinite().all(dim=1).sum()) // 2 if most else 0):
        return Difference(x[int(differ.nonzero()[0])].unsqueeze(0), 1, value_range)
    if most:
        return None
    for crowd in (_among(x), *(_repeated(x, rows) for rows in _affordable(model, crowds))):
        together = session.together(crowd)
        kept = min(len(x), len(crowd))
        if together is not None and bool(_apart(model, x[:kept], ours[:kept], together[:kept]).any()):
            return Difference(x[:1], len(crowd), value_range)
    return None


def _affordable(model: Model, crowds: Iterable[int]) -> list[int]:
    graph = model.graph
    most = min(LIVE_VALUES // graph.live_elements(), _CROWD_FLOPS // max(1, graph.flops()))
    return sorted({rows if rows <= most else most for rows in crowds} - {0, 1})


def _repeated(x: Tensor, rows: int) -> Tensor:  # x: (copies, *input); (rows, *input)
    return x.repeat(-(-rows // len(x)), *(1 for _ in x.shape[1:]))[:rows]


def _among(x: Tensor) -> Tensor:  # x: (copies, *input); (3 * copies, *input)
    """The same inputs followed by neighbours far outside of their range."""
    return torch.cat([x, torch.full_like(x, 1e3), -x * 50])


def _inputs(model: Model, value_range: Range) -> Tensor:
    """A few inputs of a range, (copies, *input), float32."""
    low, high = value_range
    graph = model.graph
    copies = max(1, min(_COPIES, LIVE_VALUES // (3 * graph.live_elements()), _VALUES // graph.values(), _FLOPS // max(1, graph.flops())))
    generator = torch.Generator().manual_seed(0)
    return low + (high - low) * torch.rand((copies, *model.input_shape), generator=generator)


def _apart(model: Model, x: Tensor, ours: Tensor, theirs: Tensor) -> Tensor:  # x: (rows, *input); logits: (rows, classes); (rows,)
    """Which rows differ, measured against the largest logit of all of them."""
    finite = ours[ours.isfinite()]
    largest = max(1e-3, float(finite.abs().max())) if len(finite) else 1e-3
    return apart(ours, theirs, lambda: _exactly(model, x), largest=largest)


def _ours(model: Model, x: Tensor) -> Tensor:  # x: (rows, *input); (rows, classes)
    with torch.no_grad():
        logits: Tensor = model.module()(x)
    return logits


def _exactly(model: Model, x: Tensor) -> Tensor:  # x: (rows, *input); (rows, classes), float64
    with torch.no_grad():
        return torch.cat([model.module(dtype=torch.float64)(row.double().unsqueeze(0)) for row in x])


def _named(model: Model, data: bytes, x: Tensor) -> str:  # x: (1, *input), float32
    """A sentence that names the first tensor on which the two readings differ."""
    names = {operator.output for operator in model.graph.operators}
    file = parse(data)  # with the names that our reading has
    shown = {value.name for value in file.graph.output}
    file.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names - shown)
    theirs = dict(Session(file.SerializeToString(), optimised=False).tensors(x))
    for kind, name, output, value in _steps(model, x):
        other = theirs.get(output)
        if other is not None and _far(value, other):
            return printable(f"differs from onnxruntime's reading from the tensor {output!r} on, made by {kind} {name!r}", 300)
    return "computes something else here than in onnxruntime"


def _told(model: Model, data: bytes, found: Difference | None) -> str:
    """What the optimiser changes, in words; empty where nothing was found."""
    if found is None:
        return ""
    graph = model.graph
    # Each tensor in turn is the only output: to show two of them would keep the optimiser from merging what is between.
    searched = found.rows == 1 and len(graph.operators) * (graph.parameters() + graph.flops()) <= _SEARCHED
    for kind, name, output, value in _steps(model, found.x) if searched else ():
        file = parse(data)
        del file.graph.output[:]
        file.graph.output.append(onnx.ValueInfoProto(name=output))
        try:
            other = Session(file.SerializeToString(), optimised=True).logits(found.x)
        except CannotRun:
            continue
        if _far(value, other):
            return printable(f"from the tensor {output!r} on, made by {kind} {name!r}, {found.where}", 300)
    return found.where


def _steps(model: Model, x: Tensor) -> Iterator[tuple[str, str, str, Tensor]]:  # x: (1, *input), float32
    """Type, name, output and value of every operator, in order."""
    with torch.no_grad():
        for operator, value in model.module().steps(x):
            yield operator.type, operator.name, operator.output, value


def _far(a: Tensor, b: Tensor) -> bool:
    """Whether two readings of a tensor differ, whatever axis the file keeps its batch of one on."""
    a = a.reshape(-1)
    b = b.reshape(-1)
    return a.shape != b.shape or not bool((a - b).abs().max() <= _NEAR * max(1e-3, float(b.abs().max())))
