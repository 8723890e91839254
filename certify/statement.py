"""What a row proves, as a value: a base and the conditions under which it holds, with the words for both.

Rows, the database and every export hold its canonical text (`str`), which `Statement.parse` reads back. A statement that is not in
`every_statement()` does not exist: no combination of conditions is made up by gluing strings together.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from itertools import product
from typing import Any

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

from certify.norms import Norm
from certify.specs.base import Precision


class Base(StrEnum):
    """What is proved, before any condition."""

    FIXED = "S0-fixed"
    FIXED_LATENT = "S0-fixed-latent"
    EXACT_GRID = "S0-exact-grid"
    PREDICTION = "S0-prediction"
    PREDICTION_LATENT = "S0-prediction-latent"
    FROZEN = "S1-frozen"
    FROZEN_PREDICTION = "S1-frozen-prediction"
    MEMORY = "S2-memory"
    MEMORY_PREDICTION = "S2-memory-prediction"
    CORRECTED = "S3-corrected"
    DUAL = "S4-dual"
    DUAL_PREDICTION = "S4-dual-prediction"
    REAL_ARITHMETIC = "real-arithmetic"
    FLOAT32_RUNTIME = "float32-runtime"

    @property
    def held(self) -> bool:
        """Whether it speaks of a noise level that was found for one input and is held there: of a classifier no other input is given."""
        return self in (Base.FROZEN, Base.FROZEN_PREDICTION)


@dataclass(frozen=True, kw_only=True)
class Statement:
    """What a row proves: `base`, under all of these conditions. `str()` gives the canonical name, conditions in the order of the fields.

    Args:
        base: what is proved.
        grid: only inputs on the 1/255 grid; the classifier rounds to it, and floating point is no gap.
        precision: in which the smoothed networks run.
        clipped: the ball is cut to the model's declared value range, which the evidence names.
        transductive: the selector was fitted to examples of the job.
        from_norm: the norm of the ball that was proved, in which the claimed one lies; null when it is the claimed one.
        exploratory: alpha, bound or error rate were chosen after the votes.

    Raises:
        ValueError: the base cannot have one of these conditions.
    """

    base: Base
    grid: bool = False
    precision: Precision = "float32"
    clipped: bool = False
    transductive: bool = False
    from_norm: Norm | None = None
    exploratory: bool = False

    def __post_init__(self) -> None:
        wrong = set(self.conditions) - set(_POSSIBLE[self.base])
        if wrong:
            raise ValueError(f"{self.base} has no condition {', '.join(sorted(wrong))}")

    def __str__(self) -> str:
        return "".join((self.base, *self.conditions))

    @property
    def conditions(self) -> tuple[str, ...]:
        """The ends of its name, in their order."""
        named = (
            (self.grid, "-grid"),
            (self.precision != "float32", f"-{self.precision}"),
            (self.clipped, "-clipped"),
            (self.transductive, "-transductive"),
            (self.from_norm is not None, f"-from-{self.from_norm}"),
            (self.exploratory, "-exploratory"),
        )
        return tuple(name for holds, name in named if holds)

    @property
    def terms(self) -> tuple[str, ...]:
        """The conditions in one word each, to stand in a sentence."""
        return tuple(name.removeprefix("-") for name in self.conditions)

    @property
    def words(self) -> str:
        """The whole statement in plain English, one sentence more for each condition."""
        return " ".join((_WORDS[self.base], *(_CONDITIONS[name] for name in self.conditions)))

    @classmethod
    def parse(cls, text: str) -> Statement:
        """The statement of that name.

        Raises:
            ValueError: there is none, or its conditions stand in another order.
        """
        found = _by_name().get(text)
        if found is None:
            raise ValueError(f"{text[:80]!r} is no statement; see the list in docs/design.md")
        return found

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        from_text = core_schema.no_info_after_validator_function(cls.parse, core_schema.str_schema(max_length=80))
        return core_schema.json_or_python_schema(
            json_schema=from_text,
            python_schema=core_schema.union_schema([core_schema.is_instance_schema(cls), from_text]),
            serialization=core_schema.to_string_ser_schema(),
        )


def conditions(statements: Iterable[Statement]) -> tuple[str, ...]:
    """Every condition that one of them has, in one word each: a row without an answer may lack what the others are claimed under."""
    return tuple(dict.fromkeys(term for statement in statements for term in statement.terms))


def every_statement() -> Iterator[Statement]:
    """All there are."""
    for base, possible in _POSSIBLE.items():
        yield from _with_conditions(base, possible)


def _with_conditions(base: Base, possible: tuple[str, ...]) -> Iterator[Statement]:
    truth = {name: (False, True) if f"-{name}" in possible else (False,) for name in _FLAGS}
    precisions = ("float32", *(name for name in _PRECISIONS if f"-{name}" in possible))
    norms = (None, *(norm for norm in _PROVED_IN if f"-from-{norm}" in possible))
    for flags in product(*truth.values()):
        for precision, norm in product(precisions, norms):
            yield Statement(base=base, precision=precision, from_norm=norm, **dict(zip(truth, flags, strict=True)))


@cache
def _by_name() -> dict[str, Statement]:
    return {str(statement): statement for statement in every_statement()}


_FLAGS = ("grid", "clipped", "transductive", "exploratory")
_PRECISIONS: tuple[Precision, ...] = ("bf16", "tf32")
_PROVED_IN = (Norm.L1, Norm.L2)
_RUN = ("-bf16", "-tf32")
_CONVERTED = ("-from-l1", "-from-l2")

_POSSIBLE: dict[Base, tuple[str, ...]] = {
    Base.FIXED: ("-grid", *_RUN, *_CONVERTED, "-exploratory"),
    Base.FIXED_LATENT: (*_RUN, *_CONVERTED, "-exploratory"),
    Base.EXACT_GRID: _RUN,
    Base.PREDICTION: ("-grid", *_RUN),
    Base.PREDICTION_LATENT: _RUN,
    Base.FROZEN: (*_RUN, *_CONVERTED, "-exploratory"),
    Base.FROZEN_PREDICTION: _RUN,
    Base.MEMORY: _RUN,
    Base.MEMORY_PREDICTION: _RUN,
    Base.CORRECTED: (*_RUN, "-exploratory"),
    Base.DUAL: (*_RUN, "-transductive", *_CONVERTED, "-exploratory"),
    Base.DUAL_PREDICTION: _RUN,
    Base.REAL_ARITHMETIC: ("-clipped",),
    Base.FLOAT32_RUNTIME: ("-clipped",),
}

_WORDS = {
    Base.FIXED: (
        "With probability at least 1 - alpha over the sampled noise, the smoothed classifier (the majority answer under noise of"
        " this kind and sigma) gives the same answer everywhere in the open ball. It says nothing about the model without noise."
    ),
    Base.FIXED_LATENT: (
        "With probability at least 1 - alpha over the sampled noise, the latent smoothed classifier (the majority answer of the"
        " head when noise of this sigma is added to what the encoder makes of an input) gives the same answer everywhere in the"
        " open ball around the raw input. The votes prove a ball behind the encoder; it is carried back by an upper bound of what"
        " the encoder stretches distances by. It says nothing about the model without noise."
    ),
    Base.FROZEN: (
        "With probability at least 1 - alpha over the sampled noise, the smoothed classifier whose noise level is held at the one"
        " found for this input gives the same answer everywhere in the open ball. Another input would be given another level, so"
        " that this is no claim about the rule that searches a level for every input: an attacker's input may be answered"
        " differently inside the ball."
    ),
    Base.MEMORY: (
        "The classifier that remembers: an input inside a region of the ledger is answered with that region's class, so that"
        " whoever asks it gets one answer throughout this open ball. Regions of different classes never overlap; each was proved"
        " with probability at least 1 - alpha for the noise level found for its centre. It depends on the order in which inputs"
        " came, and says nothing about a deployment without this ledger."
    ),
    Base.FROZEN_PREDICTION: (
        "With probability at least 1 - alpha over the sampled noise, this is the answer, at the input itself, of the smoothed"
        " classifier whose noise level is held at the one found for it. The ledger was not asked. No radius is claimed."
    ),
    Base.MEMORY_PREDICTION: (
        "The answer of the classifier that remembers, at the input itself: that of the region of the ledger in which it lies;"
        " outside all regions, with probability at least 1 - alpha over the sampled noise, the answer under the noise level found"
        " for it. The reason of each row says which. No radius is claimed."
    ),
    Base.CORRECTED: (
        "With probability at least 1 - alpha over the sampled noise, the rule that takes its noise level from the user's own"
        " function of the input gives the same answer everywhere in the open ball, if that function is as steep as was declared,"
        " and no steeper. The declaration was not checked."
    ),
    Base.DUAL: (
        "With probability at least 1 - alpha over the sampled noise, the two-stage classifier gives the same answer everywhere in"
        " the open ball: a smoothed selector picks the same noise level throughout it, and the smoothed classifier of that level"
        " the same class. It holds for every input in the ball as it is deployed, and says nothing about the model without noise."
    ),
    Base.DUAL_PREDICTION: (
        "With probability at least 1 - alpha over the sampled noise, this is the two-stage classifier's answer at the input itself: the"
        " level that its smoothed selector gives there, and the class under noise of that level. It says nothing about other inputs: no"
        " radius is claimed."
    ),
    Base.PREDICTION: (
        "With probability at least 1 - alpha over the sampled noise, this is the smoothed classifier's answer at the input"
        " itself. It says nothing about other inputs: no radius is claimed."
    ),
    Base.PREDICTION_LATENT: (
        "With probability at least 1 - alpha over the sampled noise, this is the latent smoothed classifier's answer at the input"
        " itself. It says nothing about other inputs: no radius is claimed."
    ),
    Base.EXACT_GRID: (
        "No 8-bit input in the closed l1 ball gets another answer from the smoothed classifier (the majority answer over all"
        " offsets of the splitting noise of this sigma). Deterministic: every copy was counted, there is no error level. It says"
        " nothing about the model without noise, nor about inputs off the 1/255 grid."
    ),
    Base.FLOAT32_RUNTIME: (
        "No input in the closed ball gets another answer in real arithmetic, nor from a float32 runtime that computes sums of"
        " products in IEEE float32, in any order (no TF32, no Winograd, no FFT, nothing shorter than float32): the margin exceeds"
        " all rounding errors, bounded beforehand. Deterministic."
    ),
    Base.REAL_ARITHMETIC: (
        "No input in the closed ball gets another answer from the network with the uploaded weights, computed in real arithmetic."
        " Deterministic: there is no error level. A runtime that rounds differently is outside the claim."
    ),
}

_CONDITIONS = {
    "-grid": (
        "The classifier that is smoothed rounds its input to multiples of 1/255 first, and the noise is drawn as integers: no"
        " rounding of floating-point sums is left out."
    ),
    "-bf16": (
        "The classifier that is smoothed runs in bfloat16: its weights, the noisy copies and all values between are rounded to 8"
        " significant bits. Run in another precision it is another classifier, of which nothing is claimed."
    ),
    "-tf32": (
        "The classifier that is smoothed runs in TF32: what convolutions and matrix products multiply is rounded to 11"
        " significant bits. Run in another precision it is another classifier, of which nothing is claimed."
    ),
    "-clipped": (
        "Only inputs of the model's declared value range are claimed about: the ball is cut to that range, and outside of it the"
        " answer may change."
    ),
    "-transductive": (
        "Transductive: the selector was fitted to inputs that are certified here, so that these figures say nothing about new inputs."
    ),
    "-from-l1": "The ball was proved in l1; this one lies inside it, by an inequality between the norms.",
    "-from-l2": "The ball was proved in l2; this one lies inside it, by an inequality between the norms.",
    "-exploratory": (
        "Exploratory: recomputed from stored votes with an alpha, bound or error rate that was chosen after the votes were there."
        " It would hold for a choice made before; nothing covers the choosing."
    ),
}
