"""Values -> one HTML page that needs nothing else."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from jinja2 import Environment, PackageLoader, select_autoescape
from markupsafe import Markup

from api import exports
from api.pages.layers import breakdown
from api.pages.svg import COLOURS, Attacked, Series, chart
from api.repeat import commands
from certify.report import AttackReport, CertifierReport, CurvePoint, Report
from certify.rounding import show_radius, show_share, show_share_upper, show_upper
from certify.text import printable_lines
from certify.verdict import Verdict
from storage.records import Dataset, Job, Model
from storage.records_gates import Outcome

_ROWS = 8


def _shown(value: object) -> object:
    """Text of files and users may not turn the page's direction of reading; what is markup was made here."""
    return printable_lines(value) if type(value) is str else value


_environment = Environment(
    loader=PackageLoader("api.pages", "."),
    autoescape=select_autoescape(default=True),
    finalize=_shown,
    trim_blocks=True,
    lstrip_blocks=True,
)
_environment.globals["show_radius"] = show_radius
_environment.globals["show_share"] = show_share
_environment.globals["show_share_upper"] = show_share_upper
_environment.globals["show_upper"] = show_upper


def render_report(job: Job, report: Report, model: Model, dataset: Dataset, outcomes: Sequence[Outcome] = ()) -> str:
    """The report of a job as a page: what its gates say, curves by norm, a section for each certifier, and all that repeats it."""
    sections = [_section(certifier) for certifier in report.certifiers]
    charts = []
    for norm in sorted({section["norm"] for section in sections} | {str(attack.norm) for attack in report.attacks}):
        for own in (False, True):
            drawn = [s for s in sections if s["norm"] == norm and s["report"].reaches and apart(s["report"]) is own]
            attacks = [attack for attack in report.attacks if attack.norm == norm and not own]
            if drawn or attacks:
                charts.append((norm, {**_chart(norm, drawn, attacks), "apart": own}))
    return _environment.get_template("report.html").render(
        job=job,
        model=model,
        dataset=dataset,
        spec=json.dumps(job.spec.model_dump(mode="json"), indent=2),
        sections=sections,
        beside=[certifier for certifier in report.certifiers if certifier.reaches and not apart(certifier)],
        left_out=[certifier for certifier in report.certifiers if apart(certifier)],
        charts=charts,
        attacks=[{"report": attack, "rows": attacked(attack)} for attack in report.attacks],
        layers=breakdown(job.spec, model.facts),
        outcomes=outcomes,
        runtime=report.runtime,
        commands=commands(job),
        partial=exports.partial(job),
    )


def apart(report: CertifierReport) -> bool:
    """Whether its certificates speak of a classifier that no other input is given, so that nothing else is compared with them."""
    return report.statement.base.held


def duration(seconds: float | None) -> str:
    """A time as text with three digits; empty when it was not kept."""
    if seconds is None:
        return ""
    unit, scale = next(((unit, scale) for unit, scale in (("s", 1.0), ("ms", 1e3)) if seconds * scale >= 1.0), ("µs", 1e6))
    return f"{seconds * scale:.3g} {unit}"


_environment.globals["duration"] = duration


def _chart(norm: str, sections: Sequence[dict[str, Any]], attacks: Sequence[AttackReport]) -> dict[str, Any]:
    labels = [f"{s['title']} · {s['report'].statement}" for s in sections]
    series = [
        Series(label, s["report"].curve, s["report"].radii is not None, s["report"].beyond)
        for label, s in zip(labels, sections, strict=True)
    ]
    labels += [f"{attack.title} · not a certificate (dashed)" for attack in attacks]
    return {
        "legend": [(COLOURS[i % len(COLOURS)], label) for i, label in enumerate(labels)],
        "svg": Markup(chart(series, norm, [Attacked(attack.curve, attack.max_radius) for attack in attacks])),
        "proved": bool(sections),
        "attacked": bool(attacks),
        "mixed": len({s["report"].bound for s in sections} - {None}) > 1,
        "partly_cut": len({s["report"].statement.clipped for s in sections}) > 1,
        "decided": any(one.decided for one in series),
        "simultaneous": any(p.low_simultaneous is not None for one in series for p in one.points),
        "basis": _joined([s["report"].basis for s in sections]),
        "tried": _joined([attack.basis for attack in attacks]),
    }


def _joined(texts: Sequence[str]) -> str:
    """Each of them once."""
    return " or ".join(dict.fromkeys(texts))


def _section(report: CertifierReport) -> dict[str, Any]:
    rows = table(report)
    return {
        "report": report,
        "norm": str(report.norm),
        "title": report.title,
        "statement": report.statement.words,
        "rows": rows,
        "band": any(band for *_, band in rows),
        "abstained": report.verdicts.get(Verdict.ABSTAINED, 0) / report.examples,
        "verdicts": [(verdict, count, _meaning(report, verdict)) for verdict, count in report.verdicts.items()],
    }


def _meaning(report: CertifierReport, verdict: Verdict) -> str:
    if verdict is Verdict.CERTIFIED and not report.reaches:
        return "The votes single out the smoothed classifier's answer at the input; no radius is claimed."
    return verdict.sentence


def table(report: CertifierReport) -> list[tuple[str, str, str, str]]:
    """Certified accuracy at a few radii: radius, share, its pointwise interval, and the simultaneous band, empty where there is none."""
    return [(text, show_share(p.certified_accuracy), _ends(p.low, p.high), _band(p)) for text, p in report.shown(_ROWS)]


def _band(point: CurvePoint) -> str:
    if point.low_simultaneous is None or point.high_simultaneous is None:
        return ""
    return _ends(point.low_simultaneous, point.high_simultaneous)


def _ends(low: float, high: float) -> str:
    return f"{show_share(low)} to {show_share_upper(high)}"


def attacked(report: AttackReport) -> list[tuple[str, str]]:
    """The share for which no attack was found at a few radii: radius and share, rounded up."""
    return [(text, show_share_upper(share)) for text, share in report.shown(_ROWS)]
