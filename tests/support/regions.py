"""Candidates for ledgers, and the oracle for what a ledger must never hold: exact rational arithmetic over all pairs."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import combinations
from typing import Any

import numpy as np

from certify.memory import Memory
from certify.projection import shadows
from certify.regions import Candidate, Region, Resolution

Array = np.ndarray[Any, Any]


def candidate(
    point: Sequence[float] | Array, answer: int | None, radius: float, *, sigma: float = 0.25, example: int = 0, alpha: float = 0.001
) -> Candidate:
    centre = np.asarray(point, "<f4")
    return Candidate(
        example=example,
        digest=hashlib.sha256(centre.tobytes()).hexdigest(),
        centre=centre.tobytes(),
        answer=answer,
        radius=radius,
        sigma=sigma,
        alpha=alpha,
        shadow=shadows(centre[None])[0],
    )


def crowd(seed: int, count: int, *, dimension: int = 6, spread: float = 1.0, classes: int = 3) -> list[Candidate]:
    """Candidates that get into each other's way, each with its own sigma; some abstain, some come twice, some contradict."""
    rng = np.random.default_rng(seed)
    points = rng.normal(0, spread, (count, dimension)).astype("<f4")
    points[count // 2 : count // 2 + 3] = points[:3]
    return [
        candidate(
            point,
            None if (radius := float(rng.exponential(0.6))) < 0.05 else int(rng.integers(classes)),
            0.0 if radius < 0.05 else radius,
            sigma=float(rng.choice([0.12, 0.25, 0.5, 1.0])),
            example=i,
        )
        for i, point in enumerate(points)
    ]


def squared(one: bytes, other: bytes) -> Fraction:
    """The exact squared distance of two points."""
    a, b = (np.frombuffer(point, "<f4").tolist() for point in (one, other))
    return sum(((Fraction(p) - Fraction(q)) ** 2 for p, q in zip(a, b, strict=True)), Fraction(0))


def share_a_point(one: Region, other: Region) -> bool:
    """Whether two open balls overlap, in rational arithmetic."""
    return squared(one.centre, other.centre) < (Fraction(one.radius) + Fraction(other.radius)) ** 2


def in_conflict(regions: Sequence[Region]) -> list[tuple[int, int]]:
    """Numbers of the pairs that answer differently and share a point, all pairs tried; revoked ones left out."""
    live = [region for region in regions if not region.revoked]
    return [(a.number, b.number) for a, b in combinations(live, 2) if a.answer != b.answer and share_a_point(a, b)]


@dataclass(frozen=True)
class Pass:
    """A run through a ledger of one's own."""

    memory: Memory
    found: list[Resolution]

    @classmethod
    def of(cls, candidates: Sequence[Candidate]) -> Pass:
        memory = Memory()
        return cls(memory, [memory.add(candidate, 0) for candidate in candidates])
