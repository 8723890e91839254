"""Whether rows are those of the run that they name: what can be checked without drawing anything, and how two rows are compared."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from certify.asked import otherwise
from certify.certificate import Certificate, InstanceEvidence, MemoryPredictionEvidence
from certify.certifier import Certifier
from certify.errors import InputError
from certify.findings import AttackResult
from certify.model import Examples, Model
from certify.recompute import proved_again
from certify.registry import CERTIFIERS
from certify.run import PUBLIC_SEED, Run, commitment, public_key
from certify.spec import Spec
from certify.verdict import Verdict

Row = Certificate | AttackResult
# What another machine or another day may change without anything being wrong.
_ELSEWHERE = {"device": True, "versions": True}
# Of the comparison with onnxruntime, whose version and words may be others; rows from before it came have none.
_COMPARED = {"version", "reason", "differs"}


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One thing that is not as it was said: where it stands, and what is wrong with it."""

    where: str
    detail: str

    def sentence(self) -> str:
        return f"{self.where}: {self.detail}"


@dataclass(frozen=True, kw_only=True)
class Origin:
    """What the rows of a run must say about themselves: digests, noise key and which throw of each certifier it was."""

    model: str
    dataset: str
    spec: Spec
    key: bytes
    attempts: Sequence[int | None]

    def differences(self, row: Row) -> Iterator[Difference]:
        """What a row says otherwise."""
        said, where = row.provenance, name(row)
        for what, own in (("model", self.model), ("dataset", self.dataset), ("spec", self.spec.digest())):
            if getattr(said, what) != own:
                yield Difference(where=where, detail=f"its {what} is {getattr(said, what)}, and the run's is {own}")
        certifier = self.spec.certifiers[row.certifier]
        public = self.key == public_key(self.spec)
        origin = (PUBLIC_SEED if public else f"service:{commitment(self.key)}") if certifier.stochastic else None
        if said.noise_key != origin:
            yield Difference(where=where, detail=f"its noise key is {said.noise_key}, and the run's is {origin}")
        if said.attempt != (self.attempts[row.certifier] or 1):
            yield Difference(where=where, detail=f"it says attempt {said.attempt}, and the run was {self.attempts[row.certifier] or 1}")


def name(row: Row) -> str:
    """A row in words."""
    return f"certifier {row.certifier}, example {row.example}"


def places(rows: Sequence[Row], spec: Spec, total: int, *, whole: bool) -> Iterator[Difference]:
    """Rows that are twice, that nobody asked for, or, where the run is said to be `whole`, that are missing.

    Args:
        rows: of the run.
        spec: of the run.
        total: rows of its dataset.
        whole: whether every example is answered.
    """
    wanted = {(c, example) for c in range(len(spec.certifiers)) for example in spec.examples.indices(total)}
    seen: set[tuple[int, int]] = set()
    for row in rows:
        place = (row.certifier, row.example)
        if place in seen:
            yield Difference(where=name(row), detail="is there twice")
        elif place not in wanted:
            yield Difference(where=name(row), detail="is not asked for by the spec")
        seen.add(place)
    missing = sorted(wanted - seen) if whole else []
    if missing:
        index, example = missing[0]
        yield Difference(where=f"certifier {index}, example {example}", detail=f"is missing, one of {len(missing)}")


def stored(row: Row, origin: Origin, examples: Examples, position: int, model: Model, run: Run) -> Iterator[Difference]:
    """What is wrong with a row by itself, nothing drawn again: its origin, its input, and what does not follow from its evidence.

    Args:
        row: as it was stored, for an example of the run.
        origin: what it must say about itself.
        examples: with its input.
        position: of its input.
        model: the network.
        run: as the run was.
    """
    yield from origin.differences(row)
    if row.example_digest not in (None, examples.digest(position)):
        yield Difference(where=name(row), detail="its input is not that of the dataset")
    if row.label != int(examples.y[position]):
        yield Difference(where=name(row), detail=f"its label is {row.label}, in the dataset it is {int(examples.y[position])}")
    kind = origin.spec.certifiers[row.certifier].kind
    if row.kind != kind:
        yield Difference(where=name(row), detail=f"its kind is {row.kind}, and the spec's is {kind}")
    elif isinstance(row, Certificate):
        yield from _claim(row, CERTIFIERS[kind](origin.spec, row.certifier, model, run))


def _claim(row: Certificate, certifier: Any) -> Iterator[Difference]:
    assert isinstance(certifier, Certifier)
    for what, own in (("norm", certifier.norm), ("alpha", certifier.alpha)):
        if getattr(row, what) != own:
            yield Difference(where=name(row), detail=f"its {what} is {getattr(row, what)}, and that of the spec is {own}")
    for what, said, asked in otherwise(row, certifier):
        if said != asked:
            yield Difference(where=name(row), detail=f"its {what} is {_short(said)}, and {_short(asked)} was asked for")
    try:
        again = proved_again(row)
    except InputError as error:
        yield Difference(where=name(row), detail=error.problems[0].sentence())
        return
    yield from differing(row, again, "follows from the evidence")


def differing(row: Row, again: Row, how: str) -> Iterator[Difference]:
    """Every field in which a row differs from the same row made again, but for time, device and versions.

    Args:
        row: as it was stored.
        again: made again.
        how: what is said of the value made again.
    """
    aside = _aside(row)
    old = row.model_dump(mode="json", exclude=aside)
    new = again.model_dump(mode="json", exclude=aside)
    for field, was, now in _fields("", old, new):
        yield Difference(where=name(row), detail=f"{field} is {_short(was)}, and {_short(now)} {how}")


def _aside(row: Row) -> Any:
    compared = row.provenance.runtime is not None
    return {"seconds": True, "provenance": {**_ELSEWHERE, "runtime": _COMPARED if compared else True}}


def out_of_time(row: Row) -> bool:
    """Whether it holds no answer because its time was over."""
    return getattr(row, "verdict", None) is Verdict.TIMEOUT


def drawn(row: Row, again: Row) -> Iterator[Difference]:
    """How a stored row differs from the one that was computed again from the model, the input and the noise key.

    A row that ran out of time claims nothing, and nothing is compared. What a ledger made of a row is no part of what is drawn: its own
    votes are.
    """
    if not out_of_time(row):
        yield from differing(*_before_the_ledger(row, again), "comes out when it is computed again")


def _before_the_ledger(row: Row, again: Row) -> tuple[Row, Row]:
    evidence = getattr(row, "evidence", None)
    memory = evidence.memory if isinstance(evidence, InstanceEvidence | MemoryPredictionEvidence) else None
    if memory is None or not isinstance(row, Certificate) or not isinstance(again, Certificate) or evidence is None:
        return row, again
    own: dict[str, Any] = {"evidence": evidence.model_copy(update={"memory": None})}
    if isinstance(evidence, InstanceEvidence):
        proved = memory.own_radius > 0.0
        own |= {"prediction": memory.own_prediction, "radius": memory.own_radius, "correct": memory.own_prediction == row.label}
        own |= {"verdict": Verdict.CERTIFIED if proved else Verdict.ABSTAINED}
    else:
        own |= {name: getattr(again, name) for name in ("prediction", "correct", "verdict")}
    # Words and statement are the ledger's.
    own |= {"reason": again.reason, "statement": again.statement}
    return row.model_copy(update=own), again


def _fields(path: str, old: Any, new: Any) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in dict.fromkeys((*old, *new)):
            yield from _fields(f"{path}.{key}".lstrip("."), old.get(key), new.get(key))
    elif old != new:
        yield path, old, new


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def check_key(key: bytes | None, published: str | None, spec: Spec) -> Iterator[Difference]:
    """Whether a key is the one whose SHA-256 was published before it was revealed, or the one that the seed gives to everyone."""
    if spec.noise_key == PUBLIC_SEED:
        if key is not None and key != public_key(spec):
            yield Difference(where="noise key", detail="is not that of the spec's seed")
    elif key is None or published != commitment(key):
        told = None if key is None else commitment(key)
        yield Difference(where="noise key", detail=f"its SHA-256 is {told}, and {published} was published at submission")
