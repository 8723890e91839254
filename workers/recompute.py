"""Radii again from stored votes, with other settings or for another claim: `python -m workers.recompute`, behind `assay recompute`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from pydantic import ValidationError

from certify.certificate import Certificate
from certify.correction import check_semi_elasticity, correct
from certify.curves import accuracy_at
from certify.errors import InputError, problems_of
from certify.exit_codes import Exit, Requirement, check_gates, strongest
from certify.findings import ATTACK, AttackResult, parse_finding
from certify.recompute import check_alpha, recompute
from certify.rounding import show_radius, show_share
from certify.verdict import Verdict
from workers.command import Parser, answered, read_file, whole_file, wrong

_SHOWN_RADII = 6
_AS_WRITTEN = "use the lines as assay certify --out or assay job results wrote them"

Row = Certificate | AttackResult
Pairs = list[tuple[Certificate, Certificate]]


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    return answered(lambda: _recompute(options))


def _recompute(options: argparse.Namespace) -> int:
    requirements = [Requirement.parse(text) for text in options.require]
    _check_options(options)
    before = _read(read_file(options.results, "results"))
    after = _recomputed(before, options)
    with whole_file(Path(options.out)) as draft, draft.open("w", encoding="utf-8") as file:
        file.writelines(row.line() + "\n" for row in after)
    both = zip((old for _, old in before), after, strict=True)
    groups = _by_certifier([(old, new) for old, new in both if isinstance(old, Certificate) and isinstance(new, Certificate)])
    for pairs in groups:
        _summary(pairs)
    return _code(requirements, groups)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="assay recompute",
        description="Radii from stored votes at another alpha, bound or error rate; no model, no sampling. The result is exploratory, but"
        " for --semi-elasticity alone, which makes other claims of the same votes.",
    )
    parser.add_argument("--results", required=True, metavar="results.jsonl", help="from assay certify --out or assay job results")
    parser.add_argument("--out", required=True, metavar="new.jsonl")
    parser.add_argument("--alpha", type=float, help="error level, before it is divided among certificates that share it")
    parser.add_argument("--bound", choices=["one-sided", "top-two"])
    parser.add_argument("--error-rate", choices=["per-example", "family-wise"])
    parser.add_argument(
        "--semi-elasticity",
        type=float,
        metavar="R",
        help="of the rule that gives each input its sigma: the radii are those of that rule, not of a constant sigma",
    )
    parser.add_argument("--require", action="append", default=[], metavar="SHARE@RADIUS", help="a gate on certified accuracy")
    return parser


def _check_options(options: argparse.Namespace) -> None:
    if not _exploratory(options) and options.semi_elasticity is None:
        raise wrong("alpha", "nothing to change was given", "give --alpha, --bound, --error-rate or --semi-elasticity")
    check_alpha(options.alpha)
    check_semi_elasticity(options.semi_elasticity)
    if Path(options.out).resolve() == Path(options.results).resolve():
        raise wrong("out", "is the file of the results, which would be lost", "write to another file")


def _exploratory(options: argparse.Namespace) -> bool:
    """Whether something is chosen anew that had to be chosen before the votes."""
    return any(value is not None for value in (options.alpha, options.bound, options.error_rate))


def _read(data: bytes) -> list[tuple[int, Row]]:
    """Line numbers and rows of one job."""
    rows = [(number, _row(line, number)) for number, line in enumerate(data.split(b"\n"), start=1) if line.strip()]
    if not any(isinstance(row, Certificate) for _, row in rows):
        raise wrong("results", "the file has no certificate", _AS_WRITTEN)
    _check_one_job(rows)
    return rows


def _row(line: bytes, number: int) -> Row:
    try:
        return parse_finding(line)
    except ValidationError as error:
        found = problems_of(error)[0]
        field = found.field.removeprefix("certificate").removeprefix(ATTACK).removeprefix(".")  # users never wrote the tag of the union
        where = f"{field}: {found.detail}" if field else found.detail
        raise wrong("results", f"line {number} is no certificate ({where})", _AS_WRITTEN) from None


def _check_one_job(rows: Sequence[tuple[int, Row]]) -> None:
    """Certificates share an alpha within one job only, and a curve over two jobs would be nobody's."""
    seen: dict[tuple[int, int], int] = {}
    first = _job(rows[0][1])
    for number, row in rows:
        if _job(row) != first:
            detail = f"line {number} is of another model, dataset or spec than line {rows[0][0]}"
            raise wrong("results", detail, "give one job at a time")
        place = (row.certifier, row.example)
        if place in seen:
            detail = f"line {number} repeats certifier {row.certifier}, example {row.example} of line {seen[place]}"
            raise wrong("results", detail, "give one job at a time")
        seen[place] = number


def _job(row: Row) -> tuple[str, str, str]:
    return row.provenance.model, row.provenance.dataset, row.provenance.spec


def _recomputed(rows: Sequence[tuple[int, Row]], options: argparse.Namespace) -> list[Row]:
    family = sum(isinstance(row, Certificate) and row.alpha is not None for _, row in rows)
    found: list[Row] = []
    for number, row in rows:
        if isinstance(row, AttackResult):
            found.append(row)  # it claims nothing that alpha could change
            continue
        try:
            found.append(_again(row, options, family))
        except InputError as error:
            problem = error.problems[0]
            raise wrong("results", f"line {number}: {problem.field}: {problem.detail}", problem.mend) from None
    return found


def _again(row: Certificate, options: argparse.Namespace, family: int) -> Certificate:
    if _exploratory(options):
        row = recompute(row, alpha=options.alpha, bound=options.bound, error_rate=options.error_rate, family=family)
    return row if options.semi_elasticity is None else correct(row, options.semi_elasticity)


def _by_certifier(pairs: Pairs) -> list[Pairs]:
    groups: dict[int, Pairs] = {}
    for pair in pairs:
        groups.setdefault(pair[0].certifier, []).append(pair)
    return [groups[index] for index in sorted(groups)]


def _summary(pairs: Pairs) -> None:
    first, changed = pairs[0][0], _changed(pairs)
    title = f"\ncertifier {first.certifier}, {first.kind} ({first.norm}): "
    if not changed:
        sys.stderr.write(f"{title}nothing to recompute, {len(pairs)} certificates kept as they are\n")
        return
    old, new = changed[0]
    kept = f", {len(pairs) - len(changed)} without votes kept" if len(changed) < len(pairs) else ""
    sys.stderr.write(f"{title}{len(changed)} certificates recomputed{kept}; {_mark(changed)}statement {new.statement}\n")
    sys.stderr.write(f"  alpha of each {old.alpha:g} -> {new.alpha:g}, bound {_bound(old)} -> {_bound(new)}\n")
    for name, *cells in _table(pairs):
        sys.stderr.write(f"  {name:<26}" + "".join(f"{cell:>10}" for cell in cells) + "\n")


def _changed(pairs: Pairs) -> Pairs:
    return [(old, new) for old, new in pairs if new is not old]


def _mark(changed: Pairs, mark: str = "exploratory, ") -> str:
    return mark if any(new.statement.exploratory for _, new in changed) else ""


def _bound(certificate: Certificate) -> str:
    return str(getattr(certificate.evidence, "bound", ""))


def _table(pairs: Pairs) -> Iterator[tuple[str, ...]]:
    old, new = [before for before, _ in pairs], [after for _, after in pairs]
    radii = _radii((*old, *new))
    yield "certified accuracy at", *(show_radius(radius) for radius in radii)
    yield "before", *(show_share(accuracy_at(old, radius)) for radius in radii)
    yield f"recomputed{_mark(pairs, ' (exploratory)')}", *(show_share(accuracy_at(new, radius)) for radius in radii)


def _radii(rows: Sequence[Certificate]) -> Sequence[float]:
    """Those that were asked, if only they were decided; otherwise a few up to the largest."""
    for row in rows:
        if asked := getattr(row.evidence, "radii", None):
            return sorted(asked)
    largest = max(row.radius for row in rows)
    return [float(show_radius(largest * i / _SHOWN_RADII)) for i in range(_SHOWN_RADII)] if largest > 0 else [0.0]


def _code(requirements: Sequence[Requirement], groups: Sequence[Pairs]) -> Exit:
    """As `assay certify` answers; what its spec asked is not in the results, so that without a gate every answer is done."""
    codes = [_gate(requirement, pairs) for requirement in requirements for pairs in groups]
    verdicts = {new.verdict for pairs in groups for _, new in pairs}
    if Verdict.ERROR in verdicts:
        return Exit.ERROR
    if requirements:
        return strongest(codes)
    return Exit.TIMEOUT if Verdict.TIMEOUT in verdicts else Exit.DONE


def _gate(requirement: Requirement, pairs: Pairs) -> Exit:
    [gate] = check_gates([requirement], [new for _, new in pairs])
    sys.stderr.write(f"{gate.sentence}\n")
    return gate.code


if __name__ == "__main__":
    sys.exit(main())
