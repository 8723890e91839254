"""What `assay replay` is given: a report of the service with its rows, or the rows of `assay certify` with their spec."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from certify.errors import SpecError
from certify.findings import parse_finding
from certify.replay import Row
from certify.run import Plan, public_key
from certify.spec import Spec, parse_spec
from workers.command import read_file, wrong

_HOW = "write it with assay report JOB --out report.json"
_LINES = "use the lines as assay certify --out or assay job results wrote them"


@dataclass(frozen=True, kw_only=True)
class Told:
    """A run as it was told: what was asked, what it rested on, and its rows.

    `key` is null where it is not revealed yet, `plan` where it follows from the spec, `report` where none was made. `whole` says that
    every example is answered. The digests are those that the files must have.
    """

    spec: Spec
    spec_digest: str
    model: str
    dataset: str
    value_range: tuple[float, float] | None
    key: bytes | None
    commitment: str | None
    plan: Plan | None
    attempts: tuple[int | None, ...]
    whole: bool
    report: Any
    rows: Sequence[Row]


def told(options: argparse.Namespace, value_range: tuple[float, float] | None) -> Told:
    """What the files say.

    Args:
        options: of the command.
        value_range: of the option, for rows of `assay certify`.

    Raises:
        InputError: a file cannot be read, or is not what it should be.
    """
    data = read_file(options.file, "file")
    try:
        document = json.loads(data)
    except ValueError:
        document = None
    if isinstance(document, dict) and "job" in document:
        return _of_report(document, options)
    return _of_lines(_lines(data), options, value_range)


def _of_report(document: dict[str, Any], options: argparse.Namespace) -> Told:
    rows = _lines(read_file(options.results, "results")) if options.results else _listed(document.get("results"))
    try:
        job, repeat = document["job"], document["repeat"]
        ends = repeat["value_range"]
        return Told(
            spec=parse_spec(job["spec"]),
            spec_digest=job["spec_digest"],
            model=job["model_digest"],
            dataset=job["dataset_digest"],
            value_range=None if ends is None else (float(ends[0]), float(ends[1])),
            key=None if job["noise_key"] is None else bytes.fromhex(job["noise_key"]),
            commitment=job["noise_commitment"],
            plan=Plan.model_validate(job["plan"]),
            attempts=tuple(job["attempts"]),
            whole=job["state"] == "succeeded" or not document["partial"],
            report=document["report"],
            rows=rows,
        )
    except (KeyError, TypeError, ValueError, SpecError) as error:
        raise wrong("file", f"{options.file} is no report of a job ({type(error).__name__}: {error})", _HOW) from None


def _of_lines(rows: list[Row], options: argparse.Namespace, value_range: tuple[float, float] | None) -> Told:
    if options.spec is None:
        raise wrong("spec", "rows alone do not hold their spec", "add --spec spec.json, or give a report of a job")
    spec = parse_spec(read_file(options.spec, "spec")).with_noise_key("public-seed")
    if spec.noise_key == "service":
        raise wrong("file", "rows alone do not hold the key of a service", _HOW)
    said = rows[0].provenance
    return Told(
        spec=spec,
        spec_digest=said.spec,
        model=said.model,
        dataset=said.dataset,
        value_range=value_range,
        key=public_key(spec),
        commitment=None,
        plan=None,
        attempts=(None,) * len(spec.certifiers),
        whole=True,
        report=None,
        rows=rows,
    )


def _lines(data: bytes) -> list[Row]:
    return _checked([line for line in data.split(b"\n") if line.strip()])


def _listed(rows: Any) -> list[Row]:
    if not isinstance(rows, list):
        raise wrong("results", "the report does not hold its rows", f"add --results results.jsonl, or {_HOW}")
    return _checked([json.dumps(row) for row in rows])


def _checked(lines: Sequence[str | bytes]) -> list[Row]:
    found: list[Row] = []
    for number, line in enumerate(lines, start=1):
        try:
            found.append(parse_finding(line))
        except ValidationError as error:
            detail = " ".join(error.errors()[0]["msg"].split())
            raise wrong("results", f"row {number} is none that Assay writes ({detail})", _LINES) from None
    if not found:
        raise wrong("results", "there is no row", _LINES)
    return found
