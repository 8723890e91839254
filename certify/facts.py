"""What a worker found in a model and a dataset, and the check of a spec against both, at submission time."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from typing import Protocol

from pydantic import Field

from certify.errors import InputError, Problem
from certify.spec import CopiesSpec, Frozen, OtherModel, RadiusSpec, Spec

_SHOWN_CUTS = 12


class TensorFact(Frozen):
    """A tensor of one example. Of a cut, `lipschitz` is at least the l2 Lipschitz constant from the raw input to it; null when unknown."""

    name: str
    shape: tuple[int, ...]
    lipschitz: float | None = None


class OperatorFact(Frozen):
    """One operator of the graph: its name, ONNX type, output tensor (shape without the batch axis), and cost for one example."""

    type: str
    name: str
    output: TensorFact
    flops: int = 0


class LayerFact(Frozen):
    """How one operator stretches distances: its own l2 Lipschitz constant and that from the raw input to its tensor, rounded up.

    `how` says how the constant was found. Where there is none, the numbers are null and `reason` says why.
    """

    name: str
    type: str
    tensor: str
    constant: float | None
    total: float | None
    how: str = ""
    reason: str = ""


class Support(Frozen):
    """Whether a certifier kind, method and norm can be used on a model, and why not."""

    kind: str
    method: str | None
    norm: str
    supported: bool
    reason: str = ""


class RuntimeFact(Frozen):
    """How onnxruntime runs a model. `refused` says why it cannot with its default options: then nothing is compared with it.

    `differs` says where its default optimiser computes something else than the file says; certificates speak of the file.
    """

    version: str
    refused: str = ""
    differs: str = ""

    @property
    def sentence(self) -> str:
        """What a reader of the model's page and of its reports must know; empty when there is nothing."""
        if self.refused:
            return f"Not compared with onnxruntime {self.version}, which {self.refused}."
        if self.differs:
            return (
                f"onnxruntime {self.version} with its default options computes something else than the file says: {self.differs}."
                " Rows on which it answers otherwise are errors; the certificates are about the file."
            )
        return ""


class ModelFacts(Frozen):
    """What inspection found in a model. Shapes are those of one example, without the batch axis."""

    input_shape: tuple[int, ...]
    classes: int
    parameters: int
    operators: tuple[OperatorFact, ...]
    support: tuple[Support, ...]
    largest_tensor: int = Field(description="elements of the largest intermediate tensor of one example")
    flops: int = Field(default=0, description="floating-point operations of one forward pass of one example")
    cuts: tuple[TensorFact, ...] = Field(default=(), description="tensors that every path from input to logits goes through, in order")
    layers: tuple[LayerFact, ...] = Field(default=(), description="how each operator stretches distances, in order")
    opset: int = 0
    class_names: tuple[str, ...] | None = Field(default=None, description="as the file names them, one for each logit")
    runtime: RuntimeFact | None = Field(default=None, description="how onnxruntime runs it; null where nobody looked")

    @property
    def inspected_for_splits(self) -> bool:
        """Older inspections knew no Lipschitz bounds; then a worker finds out."""
        return bool(self.layers)

    def reason_before(self, split: str) -> str:
        """Why there is no Lipschitz bound up to that tensor."""
        names = [operator.output.name for operator in self.operators]
        before = set(names[: names.index(split) + 1])
        return next(
            (f"{layer.name}: {layer.reason}" for layer in self.layers if layer.reason and layer.tensor in before), "it is not known"
        )

    def cut(self, name: str) -> TensorFact | None:
        """The cut of that name."""
        return next((cut for cut in self.cuts if cut.name == name), None)

    def sampled(self, split: str | None) -> tuple[int, int]:
        """What one noisy copy made at that cut, or at the input, costs: its elements, and those of the largest tensor from there on."""
        if split is None or (cut := self.cut(split)) is None:
            return math.prod(self.input_shape), self.largest_tensor
        names = [operator.output.name for operator in self.operators]
        behind = self.operators[names.index(split) + 1 :]
        elements = math.prod(cut.shape)
        return elements, max(elements, *(math.prod(operator.output.shape) for operator in behind))


class DatasetFacts(Frozen):
    """What inspection found in a dataset. `low`, `high` are the extremes of all values."""

    count: int
    input_shape: tuple[int, ...]
    low: float
    high: float
    label_low: int
    label_high: int
    class_names: tuple[str, ...] | None = Field(default=None, description="as the file names them, in the order of the labels")
    rounded: bool = Field(default=False, description="float64 values were rounded to float32")
    on_grid: bool = Field(default=False, description="all values are 8-bit values divided by 255, as far as float32 can say")


def check(spec: Spec, model: ModelFacts, dataset: DatasetFacts, value_range: tuple[float, float] | None) -> None:
    """Refuse a job that cannot succeed, before it is queued.

    Raises:
        InputError: every problem found, each with its field and mend.
    """
    problems = [
        *_match(model, dataset, value_range),
        *_selection(spec, dataset),
        *_clip(spec, value_range),
        *_grid(spec, dataset),
        *_split(spec, model),
        *_reach(spec, len(spec.examples.indices(dataset.count)), model),
        *_supported(spec, model),
    ]
    if problems:
        raise InputError(*problems)


def _match(model: ModelFacts, dataset: DatasetFacts, value_range: tuple[float, float] | None) -> list[Problem]:
    found = []
    if dataset.input_shape != model.input_shape:
        found.append(
            Problem(
                field="dataset",
                detail=f"examples have shape {list(dataset.input_shape)} but the model takes {list(model.input_shape)}",
                mend=f"save x with shape (N, {', '.join(map(str, model.input_shape))})",
            )
        )
    if dataset.label_low < 0 or dataset.label_high >= model.classes:
        wrong = dataset.label_low if dataset.label_low < 0 else dataset.label_high
        found.append(
            Problem(
                field="dataset",
                detail=f"label {wrong} is out of range: the model has {model.classes} classes",
                mend=f"use labels 0 to {model.classes - 1} in y",
            )
        )
    if value_range and (dataset.low < value_range[0] or dataset.high > value_range[1]):
        found.append(
            Problem(
                field="dataset",
                detail=f"values from {dataset.low:g} to {dataset.high:g} leave the model's declared range"
                f" [{value_range[0]:g}, {value_range[1]:g}]",
                mend="scale x to the raw input range of the model, or declare the right range",
            )
        )
    return [*found, *_names(model, dataset)]


def _names(model: ModelFacts, dataset: DatasetFacts) -> list[Problem]:
    """Classes in another order would make every `correct` wrong without a sound."""
    if dataset.class_names is None:
        return []
    ours, theirs = dataset.class_names, model.class_names
    if len(ours) != model.classes:
        mend = "use the dataset that the model was made for, or save it with one name for each logit"
        return [Problem(field="dataset", detail=f"names {len(ours)} classes but the model has {model.classes}", mend=mend)]
    differ = [i for i, (our, their) in enumerate(zip(ours, theirs or ours, strict=False)) if our != their]
    if not differ:
        return []
    at = differ[0]
    detail = f"class {at} is named {ours[at]!r} but the model names it {(theirs or ours)[at]!r}"
    return [Problem(field="dataset", detail=detail, mend="bring the classes and labels into the model's order and spelling")]


def _selection(spec: Spec, dataset: DatasetFacts) -> list[Problem]:
    if len(spec.examples.indices(dataset.count)):
        return []
    return [
        Problem(
            field="examples.start",
            detail=f"selects no example: the dataset has {dataset.count}",
            mend=f"choose start below {dataset.count}",
        )
    ]


def _clip(spec: Spec, value_range: tuple[float, float] | None) -> list[Problem]:
    if not spec.clip or value_range:
        return []
    return [
        Problem(field="clip", detail="the model declares no value range to clip to", mend="declare the model's range or set clip to false")
    ]


def _grid(spec: Spec, dataset: DatasetFacts) -> list[Problem]:
    detail = "proves statements about inputs on the 1/255 grid in [0, 1], and this dataset has others"
    mend = "save 8-bit values divided by 255 as x, or use gaussian or uniform noise"
    return [
        Problem(field=f"certifiers.{index}.{field}", detail=f"{getattr(certifier, field)} {detail}", mend=mend)
        for index, certifier in enumerate(spec.certifiers)
        if (field := certifier.grid_field) and not dataset.on_grid
    ]


def _split(spec: Spec, model: ModelFacts) -> list[Problem]:
    """A tensor to add noise at must be on every path, and what is before it must have a known Lipschitz constant."""
    found = []
    for index, certifier in enumerate(spec.certifiers):
        split = certifier.noisy_tensor if isinstance(certifier, CopiesSpec) else None
        if split is None or not model.inspected_for_splits:
            continue
        cut = model.cut(split)
        if cut is None or cut.lipschitz is None:
            detail = _no_cut(split, model) if cut is None else f"{split!r} has no Lipschitz bound: {model.reason_before(split)}"
            found.append(Problem(field=f"certifiers.{index}.split", detail=detail, mend=_cuts_to_choose(model, split)))
    return found


def _no_cut(split: str, model: ModelFacts) -> str:
    if any(operator.output.name == split for operator in model.operators):
        return f"{split!r} is not a cut: some path from the input to the logits goes around it"
    return f"the model has no tensor {split!r}"


def _cuts_to_choose(model: ModelFacts, split: str) -> str:
    """The valid cuts, the nearest first, each with its shape and the encoder's bound."""
    names = [operator.output.name for operator in model.operators]
    place = names.index(split) if split in names else len(names)
    valid = sorted((cut for cut in model.cuts if cut.lipschitz is not None), key=lambda cut: abs(names.index(cut.name) - place))
    listed = ", ".join(f"{cut.name!r} {list(cut.shape)} (Lipschitz <= {cut.lipschitz:.4g})" for cut in valid[:_SHOWN_CUTS])
    more = f" and {len(valid) - _SHOWN_CUTS} more" if len(valid) > _SHOWN_CUTS else ""
    return f"choose one of {listed}{more}" if valid else "this model has no cut with a bound: use smoothing at the input"


def _reach(spec: Spec, examples: int, model: ModelFacts) -> list[Problem]:
    family, dimension = spec.family(examples), math.prod(model.input_shape)
    found = []
    for index, certifier in enumerate(spec.certifiers):
        if not isinstance(certifier, RadiusSpec):
            continue
        cut = model.cut(certifier.noisy_tensor) if certifier.noisy_tensor else None
        if why := certifier.impossible(certifier.alpha_each(family), dimension, cut.lipschitz if cut else None):
            detail, _, mend = why.partition("; ")
            shared = f" (alpha = {certifier.alpha:g} shared by {family} certificates)" if certifier.error_rate == "family-wise" else ""
            found.append(Problem(field=f"certifiers.{index}", detail=detail + shared, mend=mend))
    return found


def _supported(spec: Spec, model: ModelFacts) -> list[Problem]:
    found = []
    for index, certifier in enumerate(spec.certifiers):
        wanted = (certifier.kind, certifier.method, certifier.norm)
        for support in model.support:
            if (support.kind, support.method, support.norm) == wanted and not support.supported:
                found.append(
                    Problem(
                        field=f"certifiers.{index}",
                        detail=support.reason,
                        mend="choose another method or norm for this model, or randomized smoothing",
                    )
                )
    return found


class Sizes(Protocol):
    """What must fit of a network: a model has it, and the facts of one."""

    @property
    def input_shape(self) -> tuple[int, ...]: ...
    @property
    def classes(self) -> int: ...


def check_other_models(
    spec: Spec,
    shape: Sequence[int] | None,
    find: Callable[[OtherModel], Sizes | None],
    only: Collection[int] | None = None,
) -> None:
    """Refuse a spec that names a network which is not there, or is not what its certifier needs. One walk, for every kind.

    Args:
        spec: of the job.
        shape: of one input of the job's own network; null while it is not known.
        find: a network, or its facts, by its digest; null where there is none. Its `field` is its place in the whole spec.
        only: indices of the certifiers that matter; all when null.

    Raises:
        InputError: every problem found.
    """
    problems: list[Problem] = []
    for index, certifier in enumerate(spec.certifiers):
        if only is not None and index not in only:
            continue
        for named in certifier.other_models:
            other = named.model_copy(update={"field": f"certifiers.{index}.{named.field}"})
            problems += _misfits(other, shape, find(other))
    if problems:
        raise InputError(*problems)


def _misfits(other: OtherModel, shape: Sequence[int] | None, found: Sizes | None) -> list[Problem]:
    """Why that network cannot play its part."""
    if found is None:
        detail = f"no network with SHA-256 {other.digest} was given"
        return [Problem(field=other.field, detail=detail, mend=f"give the file of the {other.noun}, or correct the digest")]
    problems = []
    if shape is not None and tuple(found.input_shape) != tuple(shape):
        detail = f"the {other.noun} takes inputs of shape {list(found.input_shape)}, the classifier {list(shape)}"
        problems.append(Problem(field=other.field, detail=detail, mend=f"use a {other.noun} with the classifier's raw input"))
    if found.classes != other.outputs:
        detail = f"the {other.noun} has {found.classes} logits for {other.outputs} {other.each}"
        problems.append(Problem(field=other.field, detail=detail, mend=f"give it one logit for each of the {other.each}, in their order"))
    return problems
