"""Certification in one process, without service, Ray or database: `python -m workers.local certify ...`, behind `assay certify`."""

from __future__ import annotations

import argparse
import hashlib
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from certify import Examples, Model, certify
from certify.certificate import Certificate, Provenance, Versions
from certify.curves import report
from certify.errors import ContradictionError, SpecError
from certify.exit_codes import Exit, Requirement, check_gates, exit_code, strongest
from certify.facts import RuntimeFact, check
from certify.findings import AttackResult
from certify.precision import check_device
from certify.rounding import show_share, show_share_upper
from certify.run import Progress, Run, public_key
from certify.spec import MemoryPredictSpec, Spec, parse_spec
from certify.verdict import verdict_words
from workers.agreement import check_agreement
from workers.command import Parser, answered, read_file, whole_file, wrong
from workers.comparison import Comparison, Given
from workers.datasets import dataset_facts, read_dataset
from workers.facts import model_facts
from workers.other_models import given_models
from workers.plan import plan_job
from workers.settings import WorkerSettings
from workers.together import contradicted, remembered_here
from workers.versions import versions

_SHOWN_RADII = 6


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    return answered(lambda: _certify(options))


def _certify(options: argparse.Namespace) -> int:
    requirements = [Requirement.parse(text) for text in options.require]
    spec = _spec(read_file(options.spec, "spec"))
    findings, runtime = answer(spec, options)
    _summary(spec, findings, runtime)
    gates = check_gates(requirements, findings)
    for gate in gates:
        sys.stderr.write(f"{gate.sentence}\n")
    code = exit_code(spec, findings)
    if requirements and code is not Exit.ERROR:
        return strongest(gate.code for gate in gates)
    return code


def answer(spec: Spec, options: argparse.Namespace, verb: str = "done") -> tuple[list[Certificate | AttackResult], RuntimeFact]:
    """The results of a spec with a public seed, and how onnxruntime runs the model.

    The results are in the file `options.out`, which is written whole or not at all.

    Args:
        spec: checked against the model and the dataset before anything is computed.
        options: what `add_inputs` and `add_outputs` ask for.
        verb: what is said of an example that has its row, for the progress on stderr.

    Raises:
        InputError: a file or an option cannot be used.
        ContradictionError: two of the results, which are written, cannot both be true.
    """
    device = device_of(options.device)
    model_bytes, dataset_bytes = read_file(options.model, "model"), read_file(options.data, "data")
    model = Model.from_onnx(model_bytes, range_of(options.range))
    dataset = read_dataset(dataset_bytes)
    facts, found = model_facts(model, lipschitz=_asks_for_lipschitz(spec)), dataset_facts(dataset)
    check(spec, facts, found, model.value_range)
    network = Given.of(model, model_bytes, device)
    runtime = check_agreement(model, model_bytes, (), network.session)
    others = given_models(spec, getattr(options, "selector", ()), model, device)
    rows = spec.examples.indices(found.count)
    for index, certifier in enumerate(spec.certifiers):
        check_device(certifier, f"certifiers.{index}", device)
    plan, _ = plan_job(spec, facts, found, device, WorkerSettings.load().memory)
    pace = Pace(len(rows), len(spec.certifiers), verb)
    run = Run(
        plan=plan,
        noise_key=public_key(spec),
        provenance=_provenance(model, dataset_bytes, spec, device),
        now=time.monotonic,
        models={digest: other.model for digest, other in others.items()},
        device=device,
        on_progress=pace.tell,
    )
    examples = Examples(tuple(rows), dataset.x[list(rows)], dataset.y[list(rows)])
    comparison = Comparison(spec, plan, run.noise_key, device, network, others, rows, dataset.x)
    sampled = pace.counted(comparison.compared(certify(model, examples, spec, run), run.should_stop))
    findings = _write(Path(options.out), remembered_here(sampled, spec, dataset))
    pace.close()
    if problems := contradicted(findings, spec, plan, lambda: model, lambda: dataset):
        raise ContradictionError(*problems)
    return findings, runtime


def _asks_for_lipschitz(spec: Spec) -> bool:
    """Whether a certifier rests on Lipschitz bounds, or names a tensor that is looked up among those that have one."""
    return any(certifier.kind == "lipschitz" or getattr(certifier, "split", None) for certifier in spec.certifiers)


def add_inputs(command: argparse.ArgumentParser) -> None:
    """The files that are read."""
    command.add_argument("--model", required=True, metavar="M.onnx")
    command.add_argument("--data", required=True, metavar="D.npz")


def add_outputs(command: argparse.ArgumentParser, out: str) -> None:
    """The file that is written, and how the model is run."""
    command.add_argument("--out", required=True, metavar=out)
    command.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    command.add_argument("--range", metavar="LOW,HIGH", help="value range of the raw input, for example 0,1")


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="assay")
    commands = parser.add_subparsers(required=True, parser_class=Parser)
    command = commands.add_parser("certify", help="certify a model in this process, without the service")
    add_inputs(command)
    command.add_argument("--spec", required=True, metavar="spec.json")
    command.add_argument("--selector", action="append", default=[], metavar="S.onnx", help="a network that the spec names by its SHA-256")
    add_outputs(command, "results.jsonl")
    command.add_argument("--require", action="append", default=[], metavar="SHARE@RADIUS", help="a gate on certified accuracy")
    return parser


def _spec(data: bytes) -> Spec:
    spec = parse_spec(data)
    if spec.noise_key == "service":
        raise SpecError.at("noise_key", "service keys exist only in the service", "remove it or write public-seed")
    for index, certifier in enumerate(spec.certifiers):
        if isinstance(certifier, MemoryPredictSpec):
            detail = "ledgers that outlive a run exist only in the service"
            raise SpecError.at(
                f"certifiers.{index}.ledger", detail, "send it to a service, or use instance-smoothing with statement memory"
            )
    return spec.with_noise_key("public-seed")


def device_of(name: str) -> str:
    """The device that an option names; auto takes a GPU where there is one.

    Raises:
        InputError: there is none, and the option asks for it.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise wrong("device", "no CUDA device is available", "use --device cpu or auto")
    return "cuda" if name != "cpu" and torch.cuda.is_available() else "cpu"


def range_of(text: str | None) -> tuple[float, float] | None:
    """LOW,HIGH as two numbers.

    Raises:
        InputError: it is something else.
    """
    if text is None:
        return None
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError:
        low, high = 0.0, 0.0
    if not -float("inf") < low < high < float("inf"):
        raise wrong("range", f"{text!r} is not LOW,HIGH", "write for example --range 0,1")
    return low, high


def _provenance(model: Model, dataset: bytes, spec: Spec, device: str) -> Provenance:
    found: Versions = versions()
    return Provenance(
        model=model.digest,
        dataset=hashlib.sha256(dataset).hexdigest(),
        spec=spec.digest(),
        noise_key=None,
        seed=spec.seed,
        device=device,
        dtype="float32",
        batch_size=None,
        versions=found,
    )


def _write(path: Path, findings: Iterator[Certificate | AttackResult]) -> list[Certificate | AttackResult]:
    """Every certificate or attack result as a line."""
    kept = []
    with whole_file(path) as draft, draft.open("w", encoding="utf-8") as file:
        for finding in findings:
            kept.append(finding)
            file.write(finding.line() + "\n")
    return kept


class Pace:
    """Says on stderr how far the run is and what became of its rows, how fast it goes and how long the rest will take."""

    def __init__(self, examples: int, certifiers: int, verb: str) -> None:
        self._examples, self._total, self._verb = examples, examples * certifiers, verb
        self._started = self._last = time.monotonic()
        self._rows: dict[int, Counter[str]] = {}

    def counted(self, rows: Iterator[Certificate | AttackResult]) -> Iterator[Certificate | AttackResult]:
        """The same rows, counted as they pass."""
        for row in rows:
            self._rows.setdefault(row.certifier, Counter())[_became(row)] += 1
            yield row

    def tell(self, progress: Progress) -> None:
        done, now = progress.certifier * self._examples + progress.examples, time.monotonic()
        if now - self._last < 1.0 and done < self._total:
            return
        self._last, elapsed = now, max(now - self._started, 1e-9)
        line = f"{self._verb} {done} of {self._total}{self._became(progress)}"
        if progress.samples:
            line += f", {progress.samples:,} noisy copies"
        if done:
            line += f", {done / elapsed:.1f} a second, {(self._total - done) * elapsed / done:.0f} s left"
        sys.stderr.write(f"\r{line:<90}" if sys.stderr.isatty() else f"{line}\n")
        sys.stderr.flush()

    def close(self) -> None:
        """The last line, with all rows."""
        if sys.stderr.isatty():
            sys.stderr.write("\n")
        if self._rows:
            counts = sum(self._rows.values(), Counter())
            sys.stderr.write(f"{self._verb} {counts.total()} of {self._total}{verdict_words(counts)}\n")

    def _became(self, progress: Progress) -> str:
        """Those of a certifier that tells its verdicts early, in place of its rows, which come later."""
        latest = {progress.certifier: Counter(progress.verdicts)} if progress.verdicts else {}
        return verdict_words(sum({**self._rows, **latest}.values(), Counter()))


def _became(row: Certificate | AttackResult) -> str:
    if isinstance(row, Certificate):
        return row.verdict
    return "attack found" if row.found else "no attack found"


def _summary(spec: Spec, findings: Sequence[Certificate | AttackResult], runtime: RuntimeFact) -> None:
    made = report(findings, spec, runtime=runtime)
    for sentence in made.runtime:
        sys.stderr.write(f"\n{sentence}\n")
    for found in made.certifiers:
        sys.stderr.write(f"\n{found.title}, statement {found.statement}: {found.examples} examples, correct {found.correct_words}\n")
        for at, point in found.shown(_SHOWN_RADII) if found.reaches else ():
            sys.stderr.write(f"  certified accuracy at {at}: {show_share(point.certified_accuracy)}, {point.words}\n")
        if found.note:
            sys.stderr.write(f"  {found.note}\n")
    for attack in made.attacks:
        sys.stderr.write(f"\n{attack.title}, not a certificate: {attack.examples} examples, correct {attack.correct_words}\n")
        for at, share in attack.shown(_SHOWN_RADII):
            sys.stderr.write(f"  correct and no attack found up to {at}: {show_share_upper(share)}\n")


if __name__ == "__main__":
    sys.exit(main())
