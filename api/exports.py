"""Certificates and reports as text that other tools read: CSV, MLflow, LaTeX. No number says more than was proved."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from certify.report import CertifierReport, CurvePoint, Report, partial_words
from certify.rounding import show_given, show_share
from certify.text import printable
from certify.verdict import Verdict
from storage.queries import Found
from storage.records import Job

COLUMNS = (
    "job",
    "model",
    "dataset",
    "certifier",
    "example",
    "example_digest",
    "kind",
    "statement",
    "norm",
    "alpha",
    "label",
    "prediction",
    "correct",
    "verdict",
    "radius",
    "epsilon_verified",
    "seconds",
    "partial",
)
_SHOWN = 5
_SPECIAL = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"} | {c: f"\\{c}" for c in "&%$#_{}"}


def row(found: Found) -> dict[str, Any]:
    """One certificate, flat. A radius keeps all its digits: it is the float64 that was stored."""
    flat = found.certificate.model_dump(mode="json", include=set(COLUMNS))
    return {**flat, "job": found.job, "model": found.model, "dataset": found.dataset, "partial": found.partial}


def csv_lines(rows: Iterable[Found]) -> Iterator[str]:
    """A header, then a line for each certificate."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, COLUMNS)
    writer.writeheader()
    for found in rows:
        writer.writerow(row(found))
        yield buffer.getvalue()
        buffer.seek(0)
        buffer.truncate()
    yield buffer.getvalue()


def mlflow(job: Job, report: Report, radii: Sequence[float]) -> dict[str, Any]:
    """What MLflow's `runs/log-batch` takes, without the id of a run: metrics, and tags that say what they are about."""
    moment = int((job.finished_at or job.created_at).timestamp() * 1000)
    metrics: dict[str, float] = {}
    tags = {"assay.job": job.id, "assay.model": job.model_digest, "assay.dataset": job.dataset_digest, "assay.spec": job.spec_digest}
    tags["assay.state"] = str(job.state)
    if words := partial(job):
        tags["assay.partial"] = words
    if report.runtime:
        tags["assay.runtime"] = " ".join(report.runtime)
    for certifier in report.certifiers:
        # Metrics of one name are drawn as one curve over runs: another condition is another name.
        prefix = "".join((f"{certifier.certifier}-{certifier.kind}-{certifier.norm}", *certifier.statement.conditions))
        tags[f"assay.statement.{certifier.certifier}"] = printable(f"{certifier.statement}; {certifier.title}")
        metrics[f"{prefix}/examples"] = float(certifier.examples)
        metrics[f"{prefix}/errors"] = float(certifier.verdicts.get(Verdict.ERROR, 0))
        metrics[f"{prefix}/timeouts"] = float(certifier.verdicts.get(Verdict.TIMEOUT, 0))
        metrics[f"{prefix}/clean_accuracy"] = certifier.clean_accuracy
        for text, point in _points(certifier, radii):
            if point is not None:
                metrics[f"{prefix}/certified_accuracy_{text}"] = point.certified_accuracy
        if certifier.average_radius is not None:
            metrics[f"{prefix}/average_certified_radius"] = certifier.average_radius
    return {
        "metrics": [{"key": key, "value": value, "timestamp": moment, "step": 0} for key, value in metrics.items()],
        "tags": [{"key": key, "value": value} for key, value in tags.items()],
    }


def latex(job: Job, report: Report, radii: Sequence[float]) -> str:
    """A row of a table for each certifier, in percent rounded down, with its statement, under a comment that names the columns.

    Above stands what is to be said of onnxruntime.
    """
    words = partial(job)
    lines = [f"% {words}; shares are of the rows that were answered"] if words else []
    lines += [f"% {job.id}: {sentence}" for sentence in report.runtime]
    for certifier in report.certifiers:
        shown = _points(certifier, radii)
        cells = [
            ", ".join(part for part in (certifier.title, str(certifier.statement), certifier.missing, words) if part),
            show_share(certifier.clean_accuracy),
            *(show_share(p.certified_accuracy) if p else "--" for _, p in shown),
        ]
        lines.append(f"% {job.id}: certifier {certifier.certifier}, {certifier.statement}, percent of {certifier.basis}")
        lines.append(f"% certifier & clean & {' & '.join(text for text, _ in shown)}")
        lines.append(" & ".join(_escaped(cell.removesuffix(" %")) for cell in cells) + r" \\")
    return "\n".join(lines) + "\n"


def partial(job: Job) -> str:
    """What a job that did not succeed is called, with its numbers; empty for one that did."""
    return partial_words(job.progress.certificates_done, job.progress.certificates_total, job.state)


def _points(certifier: CertifierReport, radii: Sequence[float]) -> list[tuple[str, CurvePoint | None]]:
    if not certifier.reaches:
        return []
    return [(show_given(radius), certifier.at(radius)) for radius in radii] if radii else list(certifier.shown(_SHOWN))


def _escaped(text: str) -> str:
    return "".join(_SPECIAL.get(character, character) for character in printable(text))
