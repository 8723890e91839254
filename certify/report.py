"""What a report says about one job, as values: the API renders it, a worker computes it (`certify.curves`)."""

from __future__ import annotations

from pydantic import Field

from certify.norms import Norm
from certify.old_rows import as_asked
from certify.rounding import show_given, show_radius, show_share, show_share_upper, step_up
from certify.spec import Frozen, Spec
from certify.statement import Statement
from certify.verdict import Verdict


def partial_words(done: int, total: int, state: str) -> str:
    """What stands wherever a job that ended is shown without all of its answers: "PARTIAL: 256 of 399, cancelled". Else empty.

    One that failed with all rows there, which then contradict each other, is "FAILED: 399 of 399".
    """
    if done < total:
        return f"PARTIAL: {done} of {total}, {state}"
    return "" if state == "succeeded" else f"{state.upper()}: {done} of {total}"


def _basis(examples: int, asked: int | None, missing: str = "") -> str:
    if asked is None or asked <= examples:
        return f"all {examples} examples"
    among = f" ({missing} among them)" if missing else ""
    return f"the {examples} rows that were answered{among}, of {asked} examples"


def _and_missing(words: str) -> str:
    return f"; {words}" if words else ""


class CurvePoint(Frozen):
    """Certified accuracy at `radius`: the share of examples proved correct at least that far.

    `low` and `high` are pointwise: a two-sided 95 % Clopper-Pearson interval for the same share of the population that the examples
    were drawn from, at this radius by itself. `low_simultaneous` and `high_simultaneous` hold for the whole curve: with probability
    95 % the population's curve lies between them at all radii at once (Dvoretzky-Kiefer-Wolfowitz; `certify.statistics.band`). Examples
    without an answer count as failures in the low ends and as successes in the high ones. Both take examples for independent draws;
    neither is about the error level alpha of the certificates themselves. The simultaneous ones are null in older reports, and where
    rows depend on each other.
    """

    radius: float = Field(ge=0)
    certified_accuracy: float
    low: float
    high: float
    low_simultaneous: float | None = None
    high_simultaneous: float | None = None

    @property
    def words(self) -> str:
        """Both intervals, each named for what it is; low ends cut, high ends rounded up."""
        text = f"95 % pointwise {show_share(self.low)} to {show_share_upper(self.high)}"
        if self.low_simultaneous is None or self.high_simultaneous is None:
            return text
        return f"{text}, simultaneous {show_share(self.low_simultaneous)} to {show_share_upper(self.high_simultaneous)}"


class CertifierReport(Frozen):
    """One certifier of the job. The curve is a step function that holds each value up to and including its radius.

    Where only given `radii` were decided, the curve has those radii alone, and median, average and largest radius are null: no statistic
    of radii is drawn from decisions. `samples` is the mean number of noisy copies of an example, selection included, and `seconds` the mean
    time that one took on the machine it ran on.

    `examples` counts the rows that there are, `asked` the examples that the job asked for (null in older reports). `answered` counts the
    rows that are neither errors nor timeouts; `clean_accuracy` is the share of these, so that a missing answer is no wrong one. In the
    curve it counts as not certified. `beyond` is what holds beyond the last radius of the curve.
    """

    certifier: int
    kind: str
    statement: Statement
    norm: Norm
    alpha: float | None
    method: str | None
    sigma: float | None
    noise: str | None = None
    bound: str | None = None
    radii: tuple[float, ...] | None = None
    samples: float | None = None
    seconds: float | None = None
    examples: int
    correct: int
    verdicts: dict[Verdict, int]
    clean_accuracy: float
    curve: tuple[CurvePoint, ...]
    asked: int | None = None
    answered: int | None = None
    beyond: CurvePoint | None = None
    median_radius: float | None
    average_radius: float | None
    largest_radius: float | None
    at_cap: int
    note: str

    @property
    def title(self) -> str:
        """Kind, settings and, where radii are claimed, norm."""
        parts = [self.kind, self.method or "", f"{self.noise} noise" if self.noise else ""]
        parts += [f"sigma {self.sigma:g}" if self.sigma else "", f"{self.bound} bound" if self.bound else ""]
        decided = (
            "" if self.radii is None or not self.reaches else f", decided at {len(self.radii)} radi{'us' if len(self.radii) == 1 else 'i'}"
        )
        return " ".join(part for part in parts if part) + (f" ({self.norm})" if self.reaches else "") + decided

    def shown(self, count: int) -> list[tuple[str, CurvePoint]]:
        """The decided radii, or `count` evenly spaced ones, as text, each with the point of the curve that holds there."""
        if self.radii is not None:
            return [(show_given(point.radius), point) for point in self.curve]
        reach = self.curve[-1].radius
        texts = [show_radius(reach * i / (count - 1)) for i in range(count)] if reach > 0 else [show_radius(0.0)]
        # Between two steps of a curve the value of the right one holds.
        return [(text, next(point for point in self.curve if point.radius >= float(text))) for text in texts]

    def at(self, radius: float) -> CurvePoint | None:
        """Certified accuracy at a radius; null where only other radii were decided."""
        if self.radii is not None and radius not in self.radii:
            return None
        found = next((point for point in self.curve if point.radius >= radius), None)
        return found or self._beyond(radius)

    def _beyond(self, radius: float) -> CurvePoint:
        if self.beyond is not None:
            return self.beyond.model_copy(update={"radius": radius})
        high = step_up(1.0 - 0.025 ** (1.0 / max(1, self.examples)), 4)
        return CurvePoint(radius=radius, certified_accuracy=0.0, low=0.0, high=min(1.0, high))

    @property
    def basis(self) -> str:
        """Of what the shares of the curve are: "all 400 examples", or "the 256 rows that were answered, of 399 examples"."""
        return _basis(self.examples, self.asked, self.missing)

    @property
    def correct_words(self) -> str:
        """How many were answered correctly, as a sentence that takes no missing answer for a wrong one."""
        answered = self.examples if self.answered is None else self.answered
        share = f" ({show_share(self.clean_accuracy)})" if answered else ""
        return f"{self.correct} of {answered}{share}{_and_missing(self.missing)}"

    @property
    def missing(self) -> str:
        """The rows without an answer, by what became of them: "2 errors, 1 timeout"; empty when there are none."""
        counted = [(self.verdicts.get(one, 0), str(one)) for one in (Verdict.ERROR, Verdict.TIMEOUT)]
        return ", ".join(f"{count} {name}{'' if count == 1 else 's'}" for count, name in counted if count)

    @property
    def reaches(self) -> bool:
        """Whether there is any radius to draw."""
        return self.radii != (0.0,)


class AttackPoint(Frozen):
    """From `radius` on, up to the next point, `unbroken` is the share of all examples for which nothing was found so near."""

    radius: float = Field(ge=0)
    unbroken: float


class AttackReport(Frozen):
    """One attack of the job, never a certificate: at each radius up to `max_radius` an upper limit of what any certificate could prove.

    The curve is a step function that falls at the distance of each find: at r it counts the examples that the network itself answers
    correctly and for which no counterexample was found at distance r or less. `failed` examples got no answer, and nothing was tried:
    they are not broken, so that the curve counts them, and `clean_accuracy` does not.
    """

    certifier: int
    method: str
    norm: Norm
    max_radius: float
    clipped: bool
    examples: int
    correct: int
    found: int
    failed: int
    clean_accuracy: float
    curve: tuple[AttackPoint, ...]
    asked: int | None = None

    @property
    def basis(self) -> str:
        """Of what the shares of the curve are; as of a certifier."""
        return _basis(self.examples, self.asked)

    @property
    def correct_words(self) -> str:
        """How many were answered correctly. The share is rounded up, as every share of an attack is: the curve starts from it."""
        answered = self.examples - self.failed
        share = f" ({show_share_upper(self.clean_accuracy)})" if answered else ""
        errors = f"{self.failed} error{'' if self.failed == 1 else 's'}" if self.failed else ""
        return f"{self.correct} of {answered}{share}{_and_missing(errors)}"

    @property
    def title(self) -> str:
        """Method and norm, and how far and where was looked."""
        where = ", in the value range" if self.clipped else ""
        return f"attack {self.method} ({self.norm}), up to {show_given(self.max_radius)}{where}"

    @property
    def reach(self) -> float:
        """The radius from which on nothing changes."""
        return self.curve[-1].radius or self.max_radius

    def unbroken_at(self, radius: float) -> float:
        """The share that is left at a radius of at most `max_radius`."""
        return next(point.unbroken for point in reversed(self.curve) if point.radius <= radius)

    def shown(self, count: int) -> list[tuple[str, float]]:
        """`count` evenly spaced radii as text, each with the share that is left there."""
        texts = [show_radius(self.reach * i / (count - 1)) for i in range(count)]
        return [(text, self.unbroken_at(float(text))) for text in texts]


class Report(Frozen):
    """Certifiers side by side; each keeps its own statement and they are never added up. Attacks stand beside them, for themselves.

    `runtime` says, in sentences, where onnxruntime computes something else than was certified, or was not compared.
    """

    certifiers: tuple[CertifierReport, ...]
    attacks: tuple[AttackReport, ...] = ()
    runtime: tuple[str, ...] = ()

    def completed(self, spec: Spec) -> Report:
        """The same with the conditions that reports of version 1 left to the spec."""
        told = [one.model_copy(update={"statement": as_asked(one.statement, spec, one.certifier)}) for one in self.certifiers]
        return self.model_copy(update={"certifiers": tuple(told)})
