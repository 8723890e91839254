"""What a report says about one job, as values: the API renders it, a worker computes it (`certify.curves`)."""

from __future__ import annotations

from pydantic import Field

from certify.norms import Norm
from certify.old_rows import as_asked
from certify.rounding import show_radius
from certify.spec import Frozen, Spec
from certify.statement import Statement
from certify.verdict import Verdict


class CurvePoint(Frozen):
    """Certified accuracy at `radius`: the share of examples proved correct at least that far.

    `low` and `high` are a two-sided 95 % Clopper-Pearson band for the population the examples were drawn from; they say nothing
    about the error level alpha of the certificates themselves.
    """

    radius: float = Field(ge=0)
    certified_accuracy: float
    low: float
    high: float


class CertifierReport(Frozen):
    """One certifier of the job. The curve is a step function that holds each value up to and including its radius.

    Where only given `radii` were decided, the curve has those radii alone, and median, average and largest radius are null: no statistic
    of radii is drawn from decisions. `samples` is the mean number of noisy copies of an example, selection included, and `seconds` the mean
    time that one took on the machine it ran on.
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
            return [(repr(point.radius), point) for point in self.curve]
        reach = self.curve[-1].radius
        texts = [show_radius(reach * i / (count - 1)) for i in range(count)] if reach > 0 else [show_radius(0.0)]
        # Between two steps of a curve the value of the right one holds.
        return [(text, next(point for point in self.curve if point.radius >= float(text))) for text in texts]

    def at(self, radius: float) -> CurvePoint | None:
        """Certified accuracy at a radius; null where only other radii were decided."""
        if self.radii is not None and radius not in self.radii:
            return None
        beyond = CurvePoint(radius=radius, certified_accuracy=0.0, low=0.0, high=1.0 - 0.025 ** (1.0 / max(1, self.examples)))
        return next((point for point in self.curve if point.radius >= radius), beyond)

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
    correctly and for which no counterexample was found at distance r or less. `failed` examples got no finite logits.
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

    @property
    def title(self) -> str:
        """Method and norm, and how far and where was looked."""
        where = ", in the value range" if self.clipped else ""
        return f"attack {self.method} ({self.norm}), up to {self.max_radius:g}{where}"

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
    """Certifiers side by side; each keeps its own statement and they are never added up. Attacks stand beside them, for themselves."""

    certifiers: tuple[CertifierReport, ...]
    attacks: tuple[AttackReport, ...] = ()

    def completed(self, spec: Spec) -> Report:
        """The same with the conditions that reports of version 1 left to the spec."""
        told = [one.model_copy(update={"statement": as_asked(one.statement, spec, one.certifier)}) for one in self.certifiers]
        return self.model_copy(update={"certifiers": tuple(told)})
