"""The rules of a ledger of certified regions: who answers, who is shrunk, who is stored. Pure functions; docs/memory.md has the proofs.

Balls are open l2 balls in raw-input units. Two of them are disjoint exactly when their centres are at least the sum of the radii apart.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np

from certify.certificate import Certificate, InstanceEvidence, MemoryPredictionEvidence
from certify.projection import DIRECTIONS, shadows
from certify.regions import Candidate, Region, Resolution, Shadow, in_order, region_of, remembered, restated, withdrawn
from certify.rounding import show_distance_upper, show_radius, step_down, step_up
from certify.statement import Base

Array = np.ndarray[Any, Any]
Inputs = Callable[[Sequence[int]], Array]
_AT_ONCE = 2048


def distance(one: bytes, other: bytes) -> tuple[float, float]:
    """Two numbers with the l2 distance of the points between them: at most it, at least it. Equal points have distance (0, 0).

    The difference, the square and the correctly rounded sum and root of float32 numbers are each off by 2^-53, relative; that makes less
    than 3.01 * 2^-53 of the distance, and four steps away are at least 4 * 2^-53 of it. Nothing underflows.

    Args:
        one: a point, little-endian float32.
        other: a point of as many elements.
    """
    apart = _values(one) - _values(other)
    found = math.sqrt(math.fsum((apart * apart).tolist()))
    return (0.0, 0.0) if found == 0.0 else (step_down(found, 4), step_up(found, 4))


def contains(region: Region, centre: bytes) -> bool:
    """Whether a point lies in the open ball of a region: decided in rational arithmetic where float64 cannot tell."""
    low, high = distance(region.centre, centre)
    if high < region.radius or low >= region.radius:
        return high < region.radius
    return _squared(region.centre, centre) < Fraction(region.radius) ** 2


def overlap(one: Region, other: Region) -> bool:
    """Whether two open balls share a point: decided in rational arithmetic where float64 cannot tell."""
    low, high = distance(one.centre, other.centre)
    total = one.radius + other.radius
    if high < step_down(total) or low >= step_up(total):
        return high < total
    return _squared(one.centre, other.centre) < (Fraction(one.radius) + Fraction(other.radius)) ** 2


def resolve(candidate: Candidate, near: Sequence[Region]) -> Resolution:
    """What becomes of a candidate beside the regions there are; afterwards no two regions that answer differently share a point.

    1. A region of another class that overlaps at the same noise level is contradicted: both were proved of one classifier. It is
       revoked, and the candidate abstains.
    2. The same input, however written, gets what the ledger keeps of it, or nothing when that was revoked: no second throw.
    3. Inside a region of another class, or without an answer of its own, it gets the answer of the oldest region that contains it.
    4. Otherwise its radius is cut to what regions of other classes leave, and it is stored; it abstains when nothing is left.

    Args:
        candidate: an example with what its own votes proved.
        near: regions of the ledger, revoked ones included, among them all that overlap the candidate's ball or contain its centre.
    """
    measured = [(region, *distance(candidate.centre, region.centre)) for region in _relevant(candidate, near)]
    measured.sort(key=lambda found: found[0].number)
    live = [found for found in measured if not found[0].revoked]
    rivals = [found for found in live if candidate.answer not in (None, found[0].answer)]
    contradicted = [region for region, _, high in rivals if region.sigma == candidate.sigma and _meet(candidate, region, high)]
    if contradicted:
        return _contradicted(candidate, contradicted)
    for region, _, high in measured:
        if high == 0.0:
            return _again(region)
    inside = next((found for found in live if contains(found[0], candidate.centre)), None)
    if candidate.answer is None:
        return _answered(*inside) if inside else Resolution(how="unanswered")
    if inside and inside[0].answer != candidate.answer:
        return _answered(*inside)
    return _shrunk(candidate, rivals, inside)


def answering(centre: bytes, near: Iterable[Region]) -> Region | None:
    """The oldest region in force that contains a point; none when the base rule answers there.

    Args:
        centre: the point, little-endian float32.
        near: regions, among them all that contain the point.
    """
    held = sorted((region for region in near if not region.revoked), key=lambda region: region.number)
    return next((region for region in held if contains(region, centre)), None)


def candidates(
    rows: Iterable[Certificate],
    x: Inputs,
) -> Iterator[Candidate]:
    """What the rows of one certifier ask of a ledger, in their order; rows without votes ask nothing.

    Args:
        rows: of one certifier.
        x: gives the inputs of some examples, (N, *input), float32.
    """
    voted = [row for row in rows if isinstance(row.evidence, InstanceEvidence)]
    for row, point in _placed(voted, x):
        assert isinstance(row.evidence, InstanceEvidence)
        answer = row.prediction if row.radius > 0 else None
        yield replace(point, answer=answer, radius=row.radius, sigma=row.evidence.sigma, alpha=row.alpha or 0.0)


def points(rows: Iterable[Certificate], x: Inputs) -> Iterator[Candidate]:
    """Where the inputs of predictions are: candidates that claim nothing themselves.

    Args:
        rows: of one certifier.
        x: as for `candidates`.
    """
    return (point for _, point in _placed([row for row in rows if isinstance(row.evidence, MemoryPredictionEvidence)], x))


def _placed(rows: Sequence[Certificate], x: Inputs) -> Iterator[tuple[Certificate, Candidate]]:
    for first in range(0, len(rows), _AT_ONCE):
        part = rows[first : first + _AT_ONCE]
        exact = np.ascontiguousarray(x([row.example for row in part]), "<f4")
        for row, point, shadow in zip(part, exact, shadows(exact), strict=True):
            centre = point.tobytes()
            digest = hashlib.sha256(centre).hexdigest()
            yield (
                row,
                Candidate(example=row.example, digest=digest, centre=centre, answer=None, radius=0.0, sigma=0.0, alpha=0.0, shadow=shadow),
            )


class Memory:
    """A ledger in this process, for a run without service: empty at first, the same rules, one pass in the order of the examples."""

    def __init__(self) -> None:
        self.regions: list[Region] = []
        self._seen = np.empty((64, DIRECTIONS + 1))  # coordinates, and the reach

    def near(self, candidate: Candidate) -> list[Region]:
        """All regions that could overlap the candidate's ball or contain its centre, and some that do not."""
        seen = self._seen[: len(self.regions)]
        apart = np.linalg.norm(seen[:, :-1] - candidate.shadow.coordinates, axis=1)
        close = apart <= seen[:, -1] + candidate.shadow.reach(candidate.radius)
        return [self.regions[i] for i in np.flatnonzero(close).tolist()]

    def load(self, more: Sequence[Region], marks: Sequence[Shadow]) -> None:
        """Take over regions that were resolved before, each with the shadow of its centre."""
        while len(self.regions) + len(more) > len(self._seen):
            self._seen = np.concatenate([self._seen, np.empty_like(self._seen)])
        for region, mark in zip(more, marks, strict=True):
            self._seen[len(self.regions)] = (*mark.coordinates, mark.reach(region.radius))
            self.regions.append(region)

    def take(self, rows: Sequence[Certificate], asked: Iterable[Candidate], certifier: int) -> list[Certificate]:
        """The rows of one certifier as the ledger leaves them.

        Args:
            rows: of the sampling.
            asked: candidates of those that have votes, in the order of the examples.
            certifier: index in the spec.
        """
        found, revoked = {row.example: row for row in rows}, dict[int, str]()
        for candidate in in_order(asked):
            size, resolution = len(self.regions), self.add(candidate, certifier)
            found[candidate.example] = remembered(found[candidate.example], resolution, ledger=None, size=size)
            revoked |= dict.fromkeys((region.number for region in resolution.revokes), resolution.reason)
        return [restated(withdrawn(row, revoked), Base.MEMORY) for row in found.values()]

    def add(self, candidate: Candidate, certifier: int) -> Resolution:
        """Resolve one more candidate, which sees those before it; what it keeps is a region from now on."""
        found = resolve(candidate, self.near(candidate))
        for region in found.revokes:
            self.regions[region.number - 1] = replace(region, revoked=True)
        if found.keeps:
            self.load([region_of(candidate, found, len(self.regions) + 1, "", certifier)], [candidate.shadow])
        return found


def disagreeing(regions: Sequence[Region]) -> list[tuple[Region, Region]]:
    """All pairs of regions that answer differently and share a point; none, unless the rules were broken. Revoked ones do not count."""
    live = sorted((region for region in regions if not region.revoked), key=lambda region: region.number)
    if not live:
        return []
    marks = shadows(np.stack([_values(region.centre) for region in live]))
    seen = np.array([mark.coordinates for mark in marks])
    reaches = np.array([mark.reach(region.radius) for mark, region in zip(marks, live, strict=True)])
    answers = np.array([region.answer for region in live])
    found = []
    for i, one in enumerate(live):
        apart = np.linalg.norm(seen[i + 1 :] - seen[i], axis=1)
        close = (apart <= reaches[i + 1 :] + reaches[i]) & (answers[i + 1 :] != one.answer)
        found += [(one, live[j]) for j in (np.flatnonzero(close) + i + 1).tolist() if overlap(one, live[j])]
    return found


def _relevant(candidate: Candidate, near: Sequence[Region]) -> list[Region]:
    """Those that a rough distance does not rule out; what is left out could change nothing."""
    point, kept = _values(candidate.centre), []
    # Any order of summation: n + 3 roundings of 2^-53, doubled and doubled again.
    share = 1.0 - (len(point) + 8) * 2.0**-51
    for first in range(0, len(near), _AT_ONCE):
        part = near[first : first + _AT_ONCE]
        centres = np.frombuffer(b"".join(region.centre for region in part), "<f4").reshape(len(part), -1).astype(np.float64)
        centres -= point
        low = np.sqrt(np.einsum("ij,ij->i", centres, centres)) * share
        limit = (np.array([region.radius for region in part]) + candidate.radius) * (1 + 1e-9)
        kept += [part[i] for i in np.flatnonzero(low <= limit).tolist()]
    return kept


def _again(region: Region) -> Resolution:
    if region.revoked:
        return Resolution(how="abstained", by=region, distance=0.0, reason=f"The region of this very input, {region.number}, was revoked.")
    reason = f"Region {region.number} is of this very input, and keeps the answer and the radius it was stored with."
    return Resolution(how="answered", answer=region.answer, radius=region.radius, by=region, distance=0.0, reason=reason)


def _answered(region: Region, _: float, high: float) -> Resolution:
    radius = max(0.0, step_down(region.radius - high))
    where = f"the input lies in region {region.number}, at most {show_distance_upper(high)} from its centre"
    if radius == 0.0:
        return Resolution(how="abstained", by=region, distance=high, reason=f"Nothing of the region is left around it: {where}.")
    reason = f"The region answers: {where}; the radius is what is left of it."
    return Resolution(how="answered", answer=region.answer, radius=radius, by=region, distance=high, reason=reason)


def _meet(candidate: Candidate, region: Region, high: float) -> bool:
    return high < step_down(candidate.radius + region.radius)


def _contradicted(candidate: Candidate, regions: Sequence[Region]) -> Resolution:
    named = ", ".join(str(region.number) for region in regions)
    reason = (
        f"Its own votes prove class {candidate.answer} to radius {show_radius(candidate.radius)} at sigma {candidate.sigma:g}, and region"
        f" {named} was proved for another class at the same sigma and overlaps: one of the certificates is wrong, and neither answers."
    )
    return Resolution(how="abstained", by=regions[0], reason=reason, revokes=tuple(regions))


def _shrunk(candidate: Candidate, rivals: Sequence[tuple[Region, float, float]], inside: tuple[Region, float, float] | None) -> Resolution:
    radius, by, at = candidate.radius, None, None
    for region, low, high in rivals:
        # Rounded down, so that the sum of both radii is at most the exact distance.
        left = max(0.0, step_down(low - region.radius))
        if left < radius:
            radius, by, at = left, region, high
    if radius == 0.0 and by is not None:
        if inside:
            return _answered(*inside)
        reason = f"Nothing is left of its radius {show_radius(candidate.radius)}: region {by.number}, of another class, reaches up to it."
        return Resolution(how="abstained", by=by, distance=at, reason=reason)
    if by is None:
        return Resolution(how="stored", answer=candidate.answer, radius=radius)
    reason = f"Its radius {show_radius(candidate.radius)} was cut by region {by.number}, of another class."
    return Resolution(how="shrunk", answer=candidate.answer, radius=radius, by=by, distance=at, reason=reason)


def _values(point: bytes) -> Array:
    return np.frombuffer(point, "<f4").astype(np.float64)


def _squared(one: bytes, other: bytes) -> Fraction:
    pairs = zip(_values(one).tolist(), _values(other).tolist(), strict=True)
    return sum(((Fraction(a) - Fraction(b)) ** 2 for a, b in pairs), Fraction(0))
