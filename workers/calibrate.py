"""Thresholds of the selector by confidence, fitted to rows: `python -m workers.calibrate`, behind `assay calibrate`. No training."""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from certify import Examples, Model
from certify.calibration import COPIES, Calibration, calibration
from certify.errors import InputError, problems_of
from certify.exit_codes import Exit
from certify.facts import check
from certify.precision import check_device
from certify.run import Plan, Progress
from certify.spec import ExampleRange, InstanceSmoothingSpec, Spec, parse_spec
from certify.specs.instance import ConfidenceSelector, default_thresholds, overlap
from workers.agreement import check_agreement
from workers.command import Parser, answered, read_file, whole_file, wrong
from workers.datasets import dataset_facts, read_dataset
from workers.facts import model_facts
from workers.local import Pace, add_inputs, add_outputs, device_of, range_of
from workers.plan import plan_job
from workers.settings import WorkerSettings


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    return answered(lambda: _calibrate(options))


def _calibrate(options: argparse.Namespace) -> int:
    written = read_file(options.spec, "spec")
    spec = parse_spec(written)
    entries = _entries(spec)
    if Path(options.out).resolve() == Path(options.spec).resolve():
        raise wrong("out", "is the file of the spec, which would be lost", "write to another file")
    given = _given(spec, options)
    found = _fit(entries, given)
    _write(Path(options.out), json.loads(written), found, given)
    for index, entry in entries.items():
        sys.stderr.write(f"{_sentence(index, entry, found[index], len(given.examples.x))}\n")
    return Exit.DONE


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="assay calibrate",
        description="The same spec with thresholds of the confidence selector that fit the given rows. They are not to be certified:"
        " rows among the examples of the spec are refused.",
    )
    add_inputs(parser)
    parser.add_argument("--spec", required=True, metavar="spec.json", help="with an instance-smoothing entry of statement dual")
    parser.add_argument("--start", type=int, default=0, help="first row to calibrate on (%(default)s)")
    parser.add_argument("--stop", type=int, help="the row to stop before")
    parser.add_argument("--step", type=int, default=1, help="every how many rows (%(default)s)")
    parser.add_argument(
        "--allow-overlap",
        action="store_true",
        help="take rows among the examples of the spec: certificates of the same file then say transductive, of another file they do not",
    )
    add_outputs(parser, "calibrated.json")
    return parser


@dataclass(frozen=True)
class _Given:
    """What the files and options came to."""

    model: Model
    examples: Examples
    seen: dict[str, Any]  # as `calibrated_on` takes it
    plan: Plan
    device: str


def _entries(spec: Spec) -> dict[int, InstanceSmoothingSpec]:
    """Those with thresholds, by their place in the spec."""
    found = {
        index: entry
        for index, entry in enumerate(spec.certifiers)
        if isinstance(entry, InstanceSmoothingSpec) and isinstance(entry.selector, ConfidenceSelector)
    }
    if not found:
        detail = "none is instance-smoothing of statement dual with a selector by confidence, so that there are no thresholds to fit"
        raise wrong("certifiers", detail, 'add {"kind": "instance-smoothing", "sigmas": [...]}, or certify the spec as it is')
    return found


def _given(spec: Spec, options: argparse.Namespace) -> _Given:
    device, chosen = device_of(options.device), _chosen(options)
    model_bytes, dataset_bytes = read_file(options.model, "model"), read_file(options.data, "data")
    model, dataset = Model.from_onnx(model_bytes, range_of(options.range)), read_dataset(dataset_bytes)
    facts, found = model_facts(model, lipschitz=False), dataset_facts(dataset)
    rows = chosen.indices(found.count)
    if not rows:
        raise wrong("start", f"selects no row: the dataset has {found.count}", f"choose --start below {found.count}")
    if not options.allow_overlap:
        _check_apart(rows, spec.examples.indices(found.count))
    for index, entry in _entries(spec).items():
        check_device(entry, f"certifiers.{index}", device)
    here = spec.model_copy(update={"examples": chosen})
    check(here, facts, found, model.value_range)
    check_agreement(model, model_bytes)
    plan, _ = plan_job(here, facts, found, device, WorkerSettings.load().memory)
    seen = {"dataset": hashlib.sha256(dataset_bytes).hexdigest(), "start": rows.start, "stop": rows.stop, "step": rows.step}
    return _Given(model, Examples(tuple(rows), dataset.x[list(rows)], dataset.y[list(rows)]), seen, plan, device)


def _chosen(options: argparse.Namespace) -> ExampleRange:
    try:
        return ExampleRange(start=options.start, stop=options.stop, step=options.step)
    except ValidationError as error:
        raise InputError(*problems_of(error)) from None


def _check_apart(rows: range, certified: range) -> None:
    if certified and overlap(rows, certified):
        raise wrong(
            "examples",
            f"the spec certifies rows of {_named(certified)}, and to calibrate on some of them would make its averages too good",
            "choose other rows with --start, --stop and --step, or other examples in the spec, or give --allow-overlap, for instance if"
            " the spec is for another file",
        )


def _named(rows: range) -> str:
    step = f" in steps of {rows.step}" if rows.step > 1 else ""
    return f"{rows.start} to {rows[-1]}{step}"


def _fit(entries: dict[int, InstanceSmoothingSpec], given: _Given) -> dict[int, Calibration]:
    count, total = len(given.examples.x), sum(len(entry.sigmas) + 1 for entry in entries.values())
    pace, done = Pace(count, total, "calibrating,"), 0

    def tell() -> None:
        nonlocal done
        done += 1
        pace.tell(Progress(certifier=done // count, examples=done % count, samples=done * COPIES))

    found = {}
    for index, entry in entries.items():
        batch = given.plan.batch_sizes[index]
        found[index] = calibration(given.model, given.examples, entry, device=given.device, batch_size=batch, on_pass=tell)
    pace.close()
    return found


def _write(out: Path, spec: dict[str, Any], found: dict[int, Calibration], given: _Given) -> None:
    """As the user wrote it, but for what was fitted."""
    for index, fitted in found.items():
        entry = spec["certifiers"][index]
        entry["selector"] = {**(entry.get("selector") or {}), "thresholds": list(fitted.thresholds), "calibrated_on": given.seen}
    parse_spec(spec)
    with whole_file(out) as draft:
        draft.write_text(json.dumps(spec, indent=2) + "\n", encoding="utf-8")


def _sentence(index: int, entry: InstanceSmoothingSpec, found: Calibration, rows: int) -> str:
    thresholds = ", ".join(f"{one:g}" for one in found.thresholds) or "none"
    return (
        f"certifiers.{index}: thresholds {thresholds}; on {rows} rows their mean radius is about {found.mean:.4f},"
        f" with {_before(entry)} {found.before:.4f}, at sigma {found.sigma:g} alone {found.alone:.4f}{_advice(entry, found)}"
    )


def _before(entry: InstanceSmoothingSpec) -> str:
    selector = entry.selector
    assert isinstance(selector, ConfidenceSelector)
    default = default_thresholds(list(entry.sigmas), selector.sigma, entry.alpha, entry.n)
    return "the guess of the default" if selector.thresholds == default else "those of the spec before"


def _advice(entry: InstanceSmoothingSpec, found: Calibration) -> str:
    if found.alone == 0.0:
        return "; no row is answered correctly under such noise: train with noise, or choose smaller sigmas"
    plain = f"a plain smoothing entry with sigma {found.sigma:g} is cheaper, it needs no copies for a selector"
    if found.constant is not None:
        return f"; the selector fell back to one level, sigma {entry.sigmas[found.constant]:g}, for all: {plain}"
    return f"; that is no better than one level: {plain}" if found.mean <= found.alone else ""


if __name__ == "__main__":
    sys.exit(main())
