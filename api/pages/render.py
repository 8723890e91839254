"""Values -> one HTML page that needs nothing else."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from jinja2 import Environment, PackageLoader, select_autoescape
from markupsafe import Markup

from api.pages.svg import COLOURS, Series, chart
from certify.report import CertifierReport, Report
from certify.rounding import show_radius, show_share
from storage.records import Dataset, Job, Model

_ROWS = 8
STATEMENTS = {
    "S0-fixed": (
        "With probability at least 1 - alpha over the sampled noise, the smoothed classifier (the majority answer under Gaussian noise"
        " of this sigma) gives the same answer everywhere in the open ball. It says nothing about the model without noise."
    ),
    "real-arithmetic": (
        "No input in the closed ball gets another answer from the network with the uploaded weights, computed in real arithmetic."
        " Deterministic: there is no error level. A runtime that rounds differently is outside the claim."
    ),
}

_environment = Environment(
    loader=PackageLoader("api.pages", "."), autoescape=select_autoescape(default=True), trim_blocks=True, lstrip_blocks=True
)
_environment.globals["show_radius"] = show_radius
_environment.globals["show_share"] = show_share


def render_report(job: Job, report: Report, model: Model, dataset: Dataset) -> str:
    """The report of a job as a page: curves by norm, one section for each certifier, and all that is needed to repeat it."""
    sections = [_section(certifier) for certifier in report.certifiers]
    norms = sorted({section["norm"] for section in sections})
    charts = [(norm, _chart(norm, [s for s in sections if s["norm"] == norm])) for norm in norms]
    return _environment.get_template("report.html").render(
        job=job,
        model=model,
        dataset=dataset,
        spec=json.dumps(job.spec.model_dump(mode="json"), indent=2),
        sections=sections,
        charts=charts,
        partial=job.progress.certificates_done < job.progress.certificates_total,
    )


def _chart(norm: str, sections: Sequence[dict[str, Any]]) -> dict[str, Any]:
    legend = [(COLOURS[i % len(COLOURS)], f"{s['title']} · {s['report'].statement}") for i, s in enumerate(sections)]
    series = [Series(label, s["report"].curve) for (_, label), s in zip(legend, sections, strict=True)]
    return {"legend": legend, "svg": Markup(chart(series, norm))}


def _section(report: CertifierReport) -> dict[str, Any]:
    settings = report.method or (f"sigma {report.sigma:g}" if report.sigma else "")
    return {
        "report": report,
        "norm": str(report.norm),
        "title": f"{report.kind} {settings} ({report.norm})".replace("  ", " "),
        "statement": STATEMENTS.get(report.statement, report.statement),
        "rows": table(report),
        "verdicts": [(verdict, count, verdict.sentence) for verdict, count in report.verdicts.items()],
    }


def table(report: CertifierReport) -> list[tuple[str, str, str, str]]:
    """Certified accuracy at a few evenly spaced radii: radius, share, and its band. Values between two steps belong to the right one."""
    reach = report.curve[-1].radius
    radii = [float(show_radius(reach * i / (_ROWS - 1))) for i in range(_ROWS)] if reach > 0 else [0.0]
    rows = []
    for radius in radii:
        point = next(p for p in report.curve if p.radius >= radius)
        rows.append((show_radius(radius), show_share(point.certified_accuracy), show_share(point.low), show_share(point.high)))
    return rows
