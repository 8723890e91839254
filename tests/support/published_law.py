"""How sure a published smoothed classifier is of its answers: the pA of 500 CIFAR-10 images, as a histogram, and runs over it.

Source: Cohen, Rosenfeld & Kolter 2019, "Certified adversarial robustness via randomized smoothing", their published certification log of
CIFAR-10, ResNet-110, trained and certified at sigma = 0.5, n = 100,000 (every 20th test image). Derived: each logged radius gives the
number of votes k whose lower Clopper-Pearson limit has that radius, and pA = k / n. The log's saturated radius, 1.96, and the one below,
1.91, belong to an error level of about .01, not the .001 of the paper, so the inversion uses .01. Only counts of Phi^-1(pA) are kept.
Abstentions are taken as pA = 1/2, the costliest they could be.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import special

from certify.spec import SmoothingSpec
from tests.support.votes import Array, Classifiers, Procedure, claims, draw

SIGMA, N = 0.5, 100_000
# Images by Phi^-1(pA), in steps of STEP from 0: those the class of which was correct, and those of which it was wrong.
STEP = 0.025
# fmt: off
CORRECT = (
    2, 1, 4, 4, 1, 5, 2, 2, 5, 3, 2, 1, 3, 1, 4, 1, 5, 2, 3, 2, 1, 3, 3, 3, 4, 2, 3, 4, 2, 7, 5, 0, 2, 2, 1, 6, 3, 2, 7, 6, 0, 2, 1, 0, 1,
    5, 1, 5, 4, 1, 3, 1, 2, 5, 2, 3, 1, 1, 3, 4, 2, 0, 1, 5, 1, 1, 4, 3, 2, 1, 4, 1, 0, 3, 2, 5, 0, 5, 3, 1, 2, 2, 1, 2, 4, 1, 2, 2, 1, 2,
    3, 3, 0, 5, 2, 0, 1, 3, 5, 1, 0, 1, 0, 3, 0, 0, 0, 0, 5, 1, 4, 1, 0, 3, 1, 3, 0, 1, 2, 2, 1, 1, 0, 2, 3, 1, 1, 0, 0, 0, 0, 1, 1, 1, 1,
    0, 0, 0, 1, 1, 3, 3, 0, 0, 1, 1, 0, 0, 2, 0, 0, 0, 2, 2, 0, 0, 0, 1, 0, 0, 1, 0, 0, 0, 4, 0, 0, 0, 0, 0, 5,
)
WRONG = (
    3, 2, 0, 1, 3, 0, 1, 2, 3, 4, 3, 1, 4, 1, 2, 0, 1, 3, 0, 3, 2, 0, 0, 0, 1, 2, 0, 2, 3, 0, 1, 3, 3, 1, 2, 1, 4, 2, 1, 0, 1, 1, 0, 2, 2,
    0, 0, 0, 1, 4, 1, 0, 0, 2, 0, 1, 0, 0, 0, 0, 0, 0, 1, 0, 1, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1, 1,
    0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
)
# fmt: on
# All of 100,000 votes agree (and are correct); neither class is proved.
UNANIMOUS, ABSTAINED = 9, 83


def law() -> tuple[Array, Array]:
    """pA of the class most voted for, and whether that class is correct: one entry for each image.

    The images of a bin are spread evenly over it: one right at a radius that is asked costs most, and none would be there otherwise.
    """
    places = [(i + (j + 0.5) / count) * STEP for bins in (CORRECT, WRONG) for i, count in enumerate(bins) for j in range(count)]
    p = np.concatenate([_phi(np.asarray(places)), np.ones(UNANIMOUS), np.full(ABSTAINED, 0.5)])
    correct = np.repeat([True, False, True, False], [sum(CORRECT), sum(WRONG), UNANIMOUS, ABSTAINED])
    return p, correct


@dataclass(frozen=True, eq=False)
class Survey:
    """Certifications of every image, `repeats` times, each with its own votes."""

    p: Array  # pA of the selected class
    samples: Array  # n0 included
    radius: Array
    right: Array  # whether the selected class is the correct one

    def accuracy(self, radius: float) -> float:
        """Certified accuracy at a radius."""
        return float((self.right & (self.radius >= radius)).mean())


def classifiers(repeats: int, seed: int) -> tuple[Classifiers, Array]:
    """One classifier of two classes for each image and repeat, and whether its class 0 is correct."""
    p, correct = (np.tile(values, repeats) for values in law())
    return Classifiers(np.stack([p, 1.0 - p], axis=1), seed), correct


def survey(spec: SmoothingSpec, *, family: int = 1, repeats: int = 4, seed: int = 0) -> Survey:
    """The product's certifications of the published images."""
    procedure = Procedure(spec, family)
    voters, correct = classifiers(repeats, seed)
    found = claims(procedure, draw(procedure, voters))
    right = correct & (found.selected == 0)
    return Survey(voters.share(found.selected), spec.n0 + found.n, found.radius, right)


def _phi(z: Array) -> Array:
    return np.asarray(special.ndtr(z))
