"""From rows to a report: certified-accuracy curves and their bands, and what attacks leave, which is never mixed with them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from statistics import median_low

from certify.certificate import BoundsEvidence, Certificate, InstanceEvidence, LatentEvidence
from certify.facts import RuntimeFact
from certify.findings import AttackResult
from certify.report import AttackPoint, AttackReport, CertifierReport, CurvePoint, Report
from certify.rounding import show_distance_upper
from certify.spec import BoundsSpec, CertifierSpec, InstanceSmoothingSpec, PredictingSpec, RadiusSpec, Spec, decided_radii
from certify.specs.instance import ModelSelector
from certify.statement import Base, Statement
from certify.statistics.band import simultaneous
from certify.statistics.binomial import lower_limit, upper_limit
from certify.verdict import UNANSWERED, Verdict

_BAND = 0.05
_LISTED = 16


def report(
    findings: Sequence[Certificate | AttackResult], spec: Spec, asked: int | None = None, runtime: RuntimeFact | None = None
) -> Report:
    """What the rows of one job say, certifier by certifier.

    Certified accuracy at r is the share of all rows, abstentions and errors included, whose certificate proves the correct
    answer at least as far as r. Certifiers are never merged: each keeps its own statement. Attacks are reported apart from them.

    Args:
        findings: the rows that there are.
        spec: of the job.
        asked: how many examples the job asked for; null where that is not known.
        runtime: how onnxruntime runs the model, where somebody looked.
    """
    ordered = sorted(findings, key=lambda finding: (finding.certifier, finding.example))
    groups = [(index, list(group)) for index, group in groupby(ordered, key=lambda finding: finding.certifier)]
    proved = ((index, [row for row in rows if isinstance(row, Certificate)]) for index, rows in groups)
    attacked = ([row for row in rows if isinstance(row, AttackResult)] for _, rows in groups)
    return Report(
        certifiers=tuple(_certifier(rows, spec.certifiers[index], asked) for index, rows in proved if rows),
        attacks=tuple(_attack(rows, asked) for rows in attacked if rows),
        runtime=_runtime(findings, runtime),
    )


def _runtime(findings: Sequence[Certificate | AttackResult], fact: RuntimeFact | None) -> tuple[str, ...]:
    """Where onnxruntime computes something else than was certified, or was not asked."""
    said = [fact.sentence if fact else ""]
    compared = [row.provenance.runtime for row in findings if row.provenance.runtime]
    if not said[0]:
        # Nothing was seen on random inputs of the model's own range, but on those of this dataset.
        said += [RuntimeFact(version=one.version, differs=one.differs).sentence for one in compared if one.differs]
        said += [RuntimeFact(version=one.version, refused=one.reason).sentence for one in compared if one.reason]
    if len(compared) < len(findings):
        said.append(f"{len(findings) - len(compared)} of {len(findings)} rows were not compared with onnxruntime.")
    return tuple(dict.fromkeys(sentence for sentence in said if sentence))


def _attack(rows: list[AttackResult], asked: int | None) -> AttackReport:
    first, count = rows[0], len(rows)
    correct = sum(row.correct for row in rows)
    broken = Counter(row.distance_upper for row in rows if row.correct and row.distance_upper is not None)
    failed = sum(row.prediction is None for row in rows)
    left = correct + failed
    points = [AttackPoint(radius=0.0, unbroken=left / count)]
    for distance, finds in sorted(broken.items()):
        left -= finds
        points.append(AttackPoint(radius=distance, unbroken=left / count))
    return AttackReport(
        certifier=first.certifier,
        method=first.method,
        norm=first.norm,
        max_radius=first.max_radius,
        clipped=first.clipped,
        examples=count,
        correct=correct,
        found=sum(row.found for row in rows),
        failed=failed,
        clean_accuracy=correct / max(1, count - failed),
        curve=tuple(points),
        asked=asked,
    )


def _certifier(rows: list[Certificate], spec: CertifierSpec, asked: int | None) -> CertifierReport:
    first, count = next((row for row in rows if row.evidence), rows[0]), len(rows)
    proved = sorted(row.radius for row in rows if row.verdict is Verdict.CERTIFIED and row.correct)
    evidence = first.evidence
    radii = [row.radius if row.correct else 0.0 for row in rows]
    decided, note = _decided(spec)
    statement, also = _statement(rows, first)
    missing = sum(row.verdict in UNANSWERED for row in rows)
    correct = sum(row.correct for row in rows if row.verdict not in UNANSWERED)
    depends = _depends(statement)
    share = Share(count, missing, not depends)
    return CertifierReport(
        certifier=first.certifier,
        kind=first.kind,
        statement=statement,
        norm=first.norm,
        alpha=first.alpha,
        method=_method(first, spec),
        sigma=None if isinstance(evidence, InstanceEvidence) else getattr(evidence, "sigma", None),
        noise=getattr(evidence, "noise", None),
        bound=getattr(evidence, "bound", None),
        radii=decided,
        samples=_copies(rows),
        seconds=sum(row.seconds for row in rows) / count,
        examples=count,
        correct=correct,
        verdicts=dict(sorted(Counter(row.verdict for row in rows).items())),
        clean_accuracy=correct / max(1, count - missing),
        curve=tuple(curve(proved, share) if decided is None else curve_at(decided, proved, share)),
        asked=asked,
        answered=count - missing,
        beyond=share.point(max([*proved, *(decided or ())], default=0.0), 0),
        median_radius=median_low(radii) if decided is None else None,
        average_radius=sum(radii) / count if decided is None else None,
        largest_radius=max(radii) if decided is None else None,
        at_cap=sum(isinstance(row.evidence, BoundsEvidence) and row.evidence.at_cap for row in rows),
        note=" ".join(part for part in (note, also, _cut(first), _levels(rows), _behind(first), depends) if part),
    )


def _method(row: Certificate, spec: CertifierSpec) -> str | None:
    """How, where a kind knows several ways."""
    if isinstance(spec, InstanceSmoothingSpec):
        selector = spec.selector
        if selector is None:
            return "by search"
        return f"by network {selector.model[:8]}" if isinstance(selector, ModelSelector) else "by confidence"
    return row.evidence.method if isinstance(row.evidence, BoundsEvidence) else None


def _behind(row: Certificate) -> str:
    """What stands before the noise, when it is not the input."""
    found = row.evidence
    if not isinstance(found, LatentEvidence):
        return ""
    constant = show_distance_upper(found.lipschitz_upper, 6)
    where = f"Noise is added at {found.split!r}, in whose units sigma is"
    return f"{where}; radii of that space are divided by {constant}, a bound of what the encoder stretches distances by."


def _statement(rows: Sequence[Certificate], first: Certificate) -> tuple[Statement, str]:
    """What holds for all rows, and a sentence about those of which more is proved."""
    strong = sum(row.statement.base is Base.FLOAT32_RUNTIME for row in rows)
    if not strong:
        return first.statement, ""
    weaker = [row.statement for row in rows if row.statement.base is not Base.FLOAT32_RUNTIME and row.radius > 0]
    stated = weaker[0] if weaker else replace(first.statement, base=Base.FLOAT32_RUNTIME)
    return stated, f"{strong} of {len(rows)} certificates hold for float32 runtimes too ({Base.FLOAT32_RUNTIME})."


def _cut(row: Certificate) -> str:
    """To which range the balls are cut, if they are."""
    if not row.statement.clipped:
        return ""
    found = row.evidence.value_range if isinstance(row.evidence, BoundsEvidence) else None
    where = f", {found[0]!r} to {found[1]!r}" if found else ""
    return f"The balls are cut to the model's declared value range{where}: of inputs outside of it nothing is claimed."


def _levels(rows: Sequence[Certificate]) -> str:
    """Which noise levels were used, where each input has its own."""
    used = sorted(Counter(row.evidence.sigma for row in rows if isinstance(row.evidence, InstanceEvidence)).items())
    if not used:
        return ""
    if len(used) > _LISTED:
        return f"Each input has a noise level of its own, from {used[0][0]:g} to {used[-1][0]:g}."
    return f"Each input has a noise level of its own: {', '.join(f'{sigma:g} for {count}' for sigma, count in used)}."


def _depends(statement: Statement) -> str:
    """Why the rows are no independent draws, if they are not."""
    if statement.transductive:
        return "The selector has seen examples of this job: the intervals, which take rows for independent draws, do not hold here."
    if statement.base in (Base.MEMORY, Base.MEMORY_PREDICTION):
        return "Rows depend on those before them: the intervals, which take rows for independent draws, do not hold here."
    return ""


@dataclass(frozen=True)
class Share:
    """So many of `count` rows, `missing` of which have no answer, with intervals; the simultaneous one where rows are `independent`."""

    count: int
    missing: int = 0
    independent: bool = True

    def point(self, radius: float, wins: int) -> CurvePoint:
        ends = simultaneous(wins, self.missing, self.count, _BAND) if self.independent else (None, None)
        return CurvePoint(
            radius=radius,
            certified_accuracy=wins / self.count,
            low=lower_limit(wins, self.count, _BAND / 2),
            high=upper_limit(wins + self.missing, self.count, _BAND / 2),
            low_simultaneous=ends[0],
            high_simultaneous=ends[1],
        )


def curve(proved: Sequence[float], share: Share) -> list[CurvePoint]:
    """Certified accuracy at 0 and at every radius where it steps.

    Args:
        proved: radii of the correctly certified examples, ascending.
        share: of how many rows.

    Returns:
        Points by ascending radius; between two of them the value of the right one holds.
    """
    points = [share.point(0.0, len(proved))]
    for index, radius in enumerate(proved):
        if index == 0 or radius != proved[index - 1]:
            points.append(share.point(radius, len(proved) - index))
    return points


def curve_at(radii: Sequence[float], proved: Sequence[float], share: Share) -> list[CurvePoint]:
    """Certified accuracy at given radii only.

    Args:
        radii: ascending.
        proved: radii of the correctly certified examples.
        share: of how many rows.
    """
    return [share.point(radius, sum(one >= radius for one in proved)) for radius in radii]


def accuracy_at(certificates: Sequence[Certificate], radius: float) -> float:
    """Certified accuracy at `radius` over all given certificates of one certifier."""
    return sum(certificate.holds_at(radius) for certificate in certificates) / len(certificates)


def _decided(spec: CertifierSpec) -> tuple[tuple[float, ...] | None, str]:
    """The only radii a certifier spoke about, ascending, and a sentence that says so; null when it looked for the largest."""
    radii, note = decided_radii(spec), ""
    if isinstance(spec, BoundsSpec):
        note = "Verified at one given epsilon: the radii are decisions at that epsilon, not largest radii."
    elif isinstance(spec, PredictingSpec):
        note = "Smoothed predictions: the answers hold at the inputs themselves, no radius is claimed."
    elif isinstance(spec, RadiusSpec):
        note = "Decided at the given radii only: no average, median or histogram of radii follows from these rows."
    return radii, note if radii is not None else ""


def _copies(rows: Sequence[Certificate]) -> float | None:
    counted = [row.evidence.copies for row in rows if row.evidence and row.evidence.copies]
    return sum(counted) / len(counted) if counted else None
