"""Rows checked and drawn again by somebody who trusts nobody: `python -m workers.replay`, behind `assay replay`. No service."""

from __future__ import annotations

import argparse
import hashlib
import random
import secrets
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from certify import Examples, Model, certify
from certify.certificate import Provenance
from certify.curves import report
from certify.errors import InputError
from certify.exit_codes import Exit
from certify.replay import Difference, Origin, Row, check_key, drawn, out_of_time, places, stored
from certify.run import Plan, Run
from workers.command import Parser, answered, read_file, wrong
from workers.comparison import Comparison, Given
from workers.datasets import Dataset, dataset_facts, read_dataset
from workers.facts import model_facts
from workers.local import range_of
from workers.other_models import given_models
from workers.plan import plan_job
from workers.replayed import Told, told
from workers.settings import WorkerSettings
from workers.versions import versions

_NAMED = 20


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    return answered(lambda: _replay(options))


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="assay replay",
        description="Check a run: its key against what was published, its files, what follows from every row, and some rows drawn again"
        " bit for bit. Exit codes: 0 all repeated, 1 something differs, 2 it could not be repeated here, 4 error.",
    )
    parser.add_argument("file", metavar="report.json", help="from assay report JOB --out, or results of assay certify")
    parser.add_argument("--model", required=True, metavar="M.onnx")
    parser.add_argument("--data", required=True, metavar="D.npz")
    parser.add_argument("--selector", action="append", default=[], metavar="S.onnx", help="a network that the spec names by its SHA-256")
    parser.add_argument("--results", metavar="results.jsonl", help="the rows, where the report does not hold them")
    parser.add_argument("--spec", metavar="spec.json", help="of results of assay certify")
    parser.add_argument("--range", metavar="LOW,HIGH", help="value range of the raw input, for results of assay certify")
    parser.add_argument("--rows", default="20", metavar="N|all", help="how many examples to draw again, chosen at random (%(default)s)")
    parser.add_argument("--row", action="append", type=int, default=[], metavar="EXAMPLE", help="draw this one again; may be repeated")
    parser.add_argument("--pick", type=int, metavar="SEED", help="choose the examples of an earlier replay again")
    return parser


def _replay(options: argparse.Namespace) -> int:
    count = _count(options.rows)
    run = told(options, range_of(options.range))
    try:
        files = {name: read_file(path, name) for name, path in (("model", options.model), ("data", options.data))}
    except InputError as error:
        return _not_here(str(error))
    if run.key is None:
        return _not_here("the noise key is not revealed before the job has ended")
    differences = [*_files(run, files), *check_key(run.key, run.commitment, run.spec)]
    if differences:
        return _ended(differences, [])
    _say("key, model, dataset and spec are those that were told")
    replay = Replay(run, Model.from_onnx(files["model"], run.value_range), files["model"], read_dataset(files["data"]), options)
    differences = list(replay.differences())
    _say(f"{len(run.rows)} rows checked: origin, input, statement, and the radius that follows from the votes")
    if not run.whole:
        _say(f"PARTIAL: {len(run.rows)} of {replay.asked} rows are there; nothing is said of the others")
    examples = replay.picked(count, options.row, options.pick)
    missed: list[str] = []
    differences += replay.drawn(examples, missed.append)
    return _ended(differences, missed)


def _count(text: str) -> int | None:
    if text == "all":
        return None
    if not text.isdecimal():
        raise wrong("rows", f"{text!r} is no number", "give a number of examples, or all")
    return int(text)


def _files(run: Told, files: dict[str, bytes]) -> Iterator[Difference]:
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    for name, found, wanted in (
        ("model", digests["model"], run.model),
        ("dataset", digests["data"], run.dataset),
        ("spec", run.spec.digest(), run.spec_digest),
    ):
        if found != wanted:
            yield Difference(where=name, detail=f"its SHA-256 is {found}, and the run was of {wanted}")


@dataclass(frozen=True)
class Replay:
    """A run that was told, beside the files that it was of."""

    told: Told
    model: Model
    model_bytes: bytes
    dataset: Dataset
    options: argparse.Namespace

    def differences(self) -> Iterator[Difference]:
        """What is wrong without drawing anything."""
        run, total = self.told, len(self.dataset.x)
        yield from places(run.rows, run.spec, total, whole=run.whole)
        examples = self._examples(range(total))
        for row in run.rows:
            if row.certifier in range(len(run.spec.certifiers)) and row.example in range(total):
                yield from stored(row, self._origin, examples, row.example, self.model, self._run(row.certifier, None))
        if run.report is not None and _counted(self._reported(total)) != _counted(run.report):
            yield Difference(where="report", detail="its curves and counts do not follow from its rows")

    @property
    def asked(self) -> int:
        """Rows that the spec asks for."""
        return len(self.told.spec.certifiers) * len(self.told.spec.examples.indices(len(self.dataset.x)))

    def _reported(self, total: int) -> Any:
        asked = len(self.told.spec.examples.indices(total))
        return report(self.told.rows, self.told.spec, asked).model_dump(mode="json")

    def picked(self, count: int | None, named: Sequence[int], seed: int | None) -> set[int]:
        """The examples to draw again: those that are named, or as many as are wanted, at random.

        Raises:
            InputError: there is no row of one that is named.
        """
        there = sorted({row.example for row in self.told.rows})
        if named:
            for example in named:
                if example not in there:
                    raise wrong("row", f"there is no row of example {example}", "name an example of the run")
            return set(named)
        if count is None or count >= len(there):
            return set(there)
        seed = secrets.randbelow(2**31) if seed is None else seed
        _say(f"{count} of {len(there)} examples chosen at random; --pick {seed} chooses them again")
        return set(random.Random(seed).sample(there, count))

    def drawn(self, examples: set[int], missed: Callable[[str], None]) -> Iterator[Difference]:
        """How the rows of these examples differ from what is computed again; what cannot be computed here is told to `missed`."""
        try:
            others = given_models(self.told.spec, self.options.selector, self.model, "cpu")
        except InputError as error:
            missed(str(error))
            return
        same = 0
        for (index, device, batch), rows in self._together(examples).items():
            if device == "cuda" and not torch.cuda.is_available():
                missed(f"{len(rows)} rows of certifier {index} were drawn on {device}, which is not here")
                continue
            lacking = [other for other in self.told.spec.certifiers[index].other_models if other.digest not in others]
            if lacking:
                missed(f"certifier {index} needs the {lacking[0].noun} with SHA-256 {lacking[0].digest}; add --selector")
                continue
            asked = self._examples([row.example for row in rows])
            run = self._run(index, batch, device, {digest: other.model for digest, other in others.items()})
            again = certify(self.model, asked, self.told.spec, run)
            for row, new in zip(rows, self._comparison(run, others).compared(again, run.should_stop), strict=True):
                if out_of_time(new) and not out_of_time(row):
                    missed(f"certifier {index}, example {row.example} ran out of time when it was computed again")
                    continue
                found = list(drawn(row, new))
                same += not found and not out_of_time(row)
                yield from found
        if same:
            _say(f"{same} rows computed again: the same, bit for bit")

    def _comparison(self, run: Run, others: dict[str, Given]) -> Comparison:
        """What onnxruntime says of the rows, as when they were made."""
        inputs = self.dataset.x
        rows = self.told.spec.examples.indices(len(inputs))
        return Comparison(self.told.spec, run.plan, run.noise_key, run.device, self._network, others, rows, inputs)

    @cached_property
    def _network(self) -> Given:
        return Given.of(self.model, self.model_bytes, "cpu")

    def _together(self, examples: set[int]) -> dict[tuple[int, str, int | None], list[Row]]:
        """Rows that one call answers."""
        groups: dict[tuple[int, str, int | None], list[Row]] = {}
        for row in self.told.rows:
            if row.example in examples and row.certifier in range(len(self.told.spec.certifiers)):
                key = (row.certifier, row.provenance.device, row.provenance.batch_size)
                groups.setdefault(key, []).append(row)
        return groups

    def _examples(self, rows: Sequence[int]) -> Examples:
        return Examples(tuple(rows), self.dataset.x[list(rows)], self.dataset.y[list(rows)])

    @cached_property
    def _origin(self) -> Origin:
        run = self.told
        assert run.key is not None
        return Origin(model=run.model, dataset=run.dataset, spec=run.spec, key=run.key, attempts=run.attempts)

    @cached_property
    def _plan(self) -> Plan:
        if self.told.plan is not None:
            return self.told.plan
        lipschitz = any(certifier.kind in ("lipschitz", "latent-smoothing") for certifier in self.told.spec.certifiers)
        facts, device = model_facts(self.model, lipschitz=lipschitz), self.told.rows[0].provenance.device
        return plan_job(self.told.spec, facts, dataset_facts(self.dataset), device, WorkerSettings.load().memory)[0]

    def _run(self, index: int, batch: int | None, device: str = "cpu", others: dict[str, Model] | None = None) -> Run:
        run, sizes = self.told, list(self._plan.batch_sizes)
        sizes[index] = batch or sizes[index]
        assert run.key is not None
        return Run(
            plan=self._plan.model_copy(update={"batch_sizes": tuple(sizes)}),
            noise_key=run.key,
            provenance=Provenance(
                model=run.model,
                dataset=run.dataset,
                spec=run.spec_digest,
                noise_key=None,
                seed=run.spec.seed,
                attempt=run.attempts[index] or 1,
                device=device,
                dtype="float32",
                batch_size=None,
                versions=versions(),
            ),
            now=time.monotonic,
            certifiers=(index,),
            models=others or {},
            device=device,
        )


def _counted(report: Any) -> Any:
    """A report but for what was said of onnxruntime when the model was uploaded, which no row holds."""
    return {name: value for name, value in report.items() if name != "runtime"} if isinstance(report, dict) else report


def _ended(differences: list[Difference], missed: list[str]) -> int:
    for difference in differences[:_NAMED]:
        _say(f"differs: {difference.sentence()}")
    if len(differences) > _NAMED:
        _say(f"differs: {len(differences) - _NAMED} more")
    if differences:
        return Exit.REFUTED
    if missed:
        return _not_here(*missed)
    _say("repeated: nothing differs")
    return Exit.DONE


def _not_here(*reasons: str) -> int:
    for reason in reasons:
        _say(f"could not be repeated: {reason}")
    return Exit.UNKNOWN


def _say(text: Any) -> None:
    sys.stdout.write(f"{text}\n")


if __name__ == "__main__":
    sys.exit(main())
