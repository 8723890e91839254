"""Two runs on the same examples: whether they answer the same question, and what changed between them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from certify.certificate import holds_at
from certify.spec import CertifierSpec, InstanceSmoothingSpec, Spec
from certify.statement import Base, Statement
from certify.verdict import UNANSWERED, Verdict


@dataclass(frozen=True, slots=True)
class Row:
    """What a comparison needs of a certificate."""

    verdict: Verdict
    correct: bool
    radius: float
    statement: Statement
    alpha: float | None


@dataclass(frozen=True, kw_only=True)
class Side:
    """One run: its question, and its answers by certifier and example. A run that ended early lacks some.

    `failed` says why its job failed, empty when it did not: the answers of such a job may contradict each other.
    """

    job: str
    dataset: str
    value_range: tuple[float, float] | None
    spec: Spec
    examples: range
    rows: Mapping[int, Mapping[int, Row]]
    failed: str = ""

    def held(self, certifier: int, radius: float) -> list[bool | None]:
        """For each example, whether a correct answer is proved at `radius`; null where there is no answer."""
        return [None if row is None else holds_at(row, radius) for row in self.answers(certifier)]

    def answers(self, certifier: int) -> Iterator[Row | None]:
        """The answer for each example; null where the run has none, timed out or failed."""
        rows = self.rows.get(certifier, {})
        for example in self.examples:
            row = rows.get(example)
            yield None if row is None or row.verdict in UNANSWERED else row


@dataclass(frozen=True)
class Changes:
    """Examples that held before and do not now (`lost`), and the reverse, with missing answers taken for the worse.

    `least_lost` and `most_gained` are the same with missing answers taken for the better. `gained` and `least_lost` are sure.
    """

    lost: int
    gained: int
    least_lost: int
    most_gained: int
    unanswered: int


def compare(before: Iterable[bool | None], now: Iterable[bool | None]) -> Changes:
    """What changed, example by example.

    A missing answer, on either side, is first taken for whatever makes a drop likelier, then for whatever makes it less likely.
    """
    pairs = list(zip(before, now, strict=True))
    return Changes(
        lost=sum(b is not False and n is not True for b, n in pairs),
        gained=sum(b is False and n is True for b, n in pairs),
        least_lost=sum(b is True and n is False for b, n in pairs),
        most_gained=sum(b is not True and n is not False for b, n in pairs),
        unanswered=sum(b is None or n is None for b, n in pairs),
    )


def unlike(now: Side, before: Side, certifier: int) -> str:
    """Why the answers of a certifier cannot be compared with those of the run before, or an empty string.

    Only the seed may differ, and which model was asked: otherwise a drop would not speak of the model.
    """
    if now.dataset != before.dataset:
        return "the dataset is another one"
    if now.examples != before.examples:
        return "other examples were selected"
    where = counterpart(now, before, certifier)
    if where is None and _held(now.spec.certifiers[certifier]) and not all(map(_held, before.spec.certifiers)):
        return (
            "it holds a noise level that was found for each input (S1), which says nothing of one smoothed classifier (S0): it is compared"
            " with the same settings only, and the baseline has none"
        )
    if where is None:
        return f"the baseline has no certifier with the settings of certifier {certifier}"
    if now.spec.clips(certifier) != before.spec.clips(where):
        return "one of them claims balls that are clipped to the model's value range, and the other whole balls"
    if now.spec.clips(certifier) and now.value_range != before.value_range:
        return "the ball is clipped to another value range"
    if _claims(now, certifier) and _claims(before, where) and _claims(now, certifier) != _claims(before, where):
        return "the certificates make another statement, or at another alpha"
    return ""


def counterpart(now: Side, before: Side, certifier: int) -> int | None:
    """The certifier of the run before that asks the same; at the same place if it is there."""
    wanted = _question(now.spec.certifiers[certifier])
    found = [index for index, other in enumerate(before.spec.certifiers) if _question(other) == wanted]
    return certifier if certifier in found else next(iter(found), None)


def _question(certifier: CertifierSpec) -> dict[str, object]:
    # How many copies go through the network at a time changes nothing that is asked.
    return certifier.model_dump(mode="json", exclude={"batch_size"})


def _held(certifier: CertifierSpec) -> bool:
    return isinstance(certifier, InstanceSmoothingSpec) and certifier.statement == "frozen"


def _claims(side: Side, certifier: int) -> set[tuple[Statement, float | None]]:
    return {(_compared(row.statement), row.alpha) for row in side.rows.get(certifier, {}).values()}


def claimed(side: Side, certifier: int) -> Statement | None:
    """What the answers of a certifier claim, the weakest where they differ; null where there are none."""
    found = {_compared(row.statement) for row in side.rows.get(certifier, {}).values()}
    return min(found, key=str, default=None)


def _compared(statement: Statement) -> Statement:
    """More is proved where the rounding margin allows; the claim that is compared is the weaker one."""
    return replace(statement, base=Base.REAL_ARITHMETIC) if statement.base is Base.FLOAT32_RUNTIME else statement
