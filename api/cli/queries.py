"""Questions across jobs: `assay certificates`, `assay compare`; certificates leave as JSON lines, CSV or Parquet."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from api.cli.console import err, out, sentences, show_json, show_table
from api.cli.remote import Json, client, resolve
from api.sdk.client import Client, ServiceError
from certify.exit_codes import Exit
from certify.rounding import show_radius, show_share, show_upper

_SHOWN = 100
Version = Annotated[str | None, typer.Option(metavar="NAME|ID", help="a name means its newest version")]


def certificates(
    model: Version = None,
    dataset: Version = None,
    job: Annotated[str | None, typer.Option()] = None,
    example: Annotated[int | None, typer.Option(min=0, help="row in the dataset")] = None,
    digest: Annotated[str | None, typer.Option(help="SHA-256 of the input, little-endian float32")] = None,
    kind: Annotated[str | None, typer.Option()] = None,
    statement: Annotated[str | None, typer.Option(help="what is proved, such as S0-fixed or real-arithmetic")] = None,
    norm: Annotated[str | None, typer.Option()] = None,
    verdict: Annotated[str | None, typer.Option()] = None,
    correct: Annotated[bool | None, typer.Option("--correct/--wrong")] = None,
    radius_min: Annotated[float | None, typer.Option(min=0.0)] = None,
    radius_max: Annotated[float | None, typer.Option(min=0.0)] = None,
    to: Annotated[Path | None, typer.Option("--out", help="all rows to a file: .jsonl, .csv or .parquet")] = None,
    as_json: Json = False,
) -> None:
    """Certificates of all jobs, newest job first, by what they are about."""
    with sentences(), client() as service:
        wanted = {
            "model": resolve(service, "models", model) if model else None,
            "dataset": resolve(service, "datasets", dataset) if dataset else None,
            **{"job": job, "example": example, "example_digest": digest, "kind": kind, "statement": statement, "norm": norm},
            **{"verdict": verdict, "correct": correct, "radius_min": radius_min, "radius_max": radius_max},
        }
        if to is not None:
            err.print(f"wrote {_written(service, wanted, to)} to {to}")
        else:
            found = service.get("/v1/reports/certificates", **wanted, limit=_SHOWN)
            show_json(found["items"]) if as_json else _show(found)


def compare(
    base: Annotated[str, typer.Argument(help="the earlier job")],
    head: Annotated[str, typer.Argument(help="the later job")],
    radius: Annotated[list[float] | None, typer.Option(min=0.0, help="where to compare")] = None,
    as_json: Json = False,
) -> None:
    """Two jobs on the same examples: what was lost and gained at each radius, with the exact test on pairs.

    Exit code 2 when nothing could be compared, 0 otherwise, whatever was lost.
    """
    with sentences(), client() as service:
        found = service.get("/v1/reports/compare", base=base, head=head, radius=radius or None)
        if as_json:
            show_json(found)
        else:
            _show_pairs(found)
        if not found["compared"]:
            err.print("nothing was compared", highlight=False)
            raise typer.Exit(Exit.UNKNOWN)


def _show_pairs(found: dict[str, Any]) -> None:
    for pair in found["certifiers"]:
        title = f"certifier {pair['certifier']}: {pair['kind']}"
        if pair["reason"]:
            out.print(f"{title}: not compared, {pair['reason']}", highlight=False)
            continue
        rows = [
            (
                show_radius(p["radius"], 6),
                show_share(p["base_accuracy"]),
                show_share(p["head_accuracy"]),
                p["lost"],
                p["gained"],
                p["unanswered"],
                _p(p["p_drop"]),
                _p(p["p_rise"]),
            )
            for p in pair["points"]
        ]
        show_table(("radius", "base", "head", "lost", "gained", "unanswered", "p of a drop", "p of a rise"), rows, title)


def _p(value: float) -> str:
    """A p-value, rounded up; one that float64 cannot hold is not zero."""
    return show_upper(value or 5e-324, 2)


def _show(found: dict[str, Any]) -> None:
    rows = []
    for item in found["items"]:
        c = item["certificate"]
        where = (item["job"], c["certifier"], c["example"], c["statement"], c["norm"], c["label"])
        rows.append((*where, "-" if c["prediction"] is None else c["prediction"], c["verdict"], show_radius(c["radius"])))
    show_table(("job", "certifier", "example", "statement", "norm", "label", "prediction", "verdict", "radius"), rows)
    if found["next_cursor"]:
        err.print(f"the newest {_SHOWN}; more with narrower questions, or all of them with --out FILE")


def _written(service: Client, wanted: dict[str, Any], path: Path) -> str:
    shape = path.suffix.lower()
    if shape not in (".jsonl", ".ndjson", ".csv", ".parquet"):
        raise ServiceError.at("out", f"{path.name} has no ending that is known", "name it .jsonl, .csv or .parquet")
    try:
        if shape == ".parquet":
            return f"{_parquet(service, wanted, path)} certificates"
        count = -1 if shape == ".csv" else 0  # the header
        with path.open("w", encoding="utf-8", newline="") as file:
            for line in service.lines("/v1/reports/certificates", **wanted, format="csv" if shape == ".csv" else "ndjson"):
                file.write(line + "\n")
                count += 1
    except OSError as error:
        raise ServiceError.at("out", f"cannot write {path}: {error.strerror}", "check the path") from None
    return f"{count} certificates"


def _parquet(service: Client, wanted: dict[str, Any], path: Path) -> int:
    try:
        from certify.arrays import write_parquet
    except ImportError as error:
        raise ServiceError.at("out", f"cannot write Parquet here: {error}", "pip install 'assay[parquet]'") from None
    return write_parquet(_flat(service, wanted), path)


def _flat(service: Client, wanted: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for line in service.lines("/v1/reports/certificates", **wanted, format="ndjson"):
        row = json.loads(line)
        yield {**row.pop("certificate"), **row}
