"""`scripts/bench samples`: how many samples certificates take, against n = 100,000 for every example; simulated, nothing here gates a test.

The examples are the published images of `tests.support.published_law`; the votes are drawn, the decisions are the product's. Beside it
runs the anytime alternative: half of alpha on a confidence sequence that may be looked at after every sample, half on the last look.
No method can prove p > p0 in fewer than about log(1 / alpha) / KL(p || p0) samples on average: the "information" that is compared with.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Sequence

import numpy as np
from scipy import special

from certify.spec import SmoothingSpec
from certify.statistics.stopping import Stopping
from tests.support.published_law import SIGMA, Survey, classifiers, survey
from tests.support.votes import Array, Classifiers, Procedure, draw, smoothing

ALPHA, FAMILY, REPEATS, RUNS = 0.001, 500, 20, 4000
RADII = (0.25, 0.5, 0.75, 1.0)
TOLERANCES = (0.02, 0.05, 0.1, 0.2)


class Anytime(Stopping):
    """Early looks are free: they read a lower confidence sequence. The last look is Clopper-Pearson's, as in the product.

    With the Beta(1/2, 1/2) mixture of likelihoods over the likelihood of p, a martingale for the true p, as evidence against p: the
    limit is the p below k / n whose evidence is 1 / level (Ville's inequality).
    """

    def proved(self, look: int, top: Array, rival: Array) -> Array:
        n = self.looks[look]
        if look == len(self.looks) - 1:
            return super().proved(look, top, rival)
        mixture = special.betaln(top + 0.5, n - top + 0.5) - special.betaln(0.5, 0.5)
        low, high = np.zeros(len(top)), top / n
        for _ in range(50):
            p = (low + high) / 2
            enough = mixture - special.xlogy(top, p) - special.xlog1py(n - top, -p) >= math.log(1 / self.levels[look])
            low, high = np.where(enough, p, low), np.where(enough, high, p)
        return self.reach(low, 1.0 - low)


def anytime(spec: SmoothingSpec, alpha: float, looks: Sequence[int]) -> Anytime:
    procedure = Procedure(spec)
    levels = [alpha / 2] * len(looks)
    return Anytime(looks=looks, levels=levels, bound="one-sided", reach=procedure.noise.reach, radii=spec.radii, tolerance=0.0)


def dense(n: int) -> tuple[int, ...]:
    """Looks a tenth apart, as nearly continuous as the packing of batches could bear."""
    looks = [16]
    while looks[-1] * 1.1 < n:
        looks.append(math.ceil(looks[-1] * 1.1))
    return (*looks, n)


def information(p: Array | float, radius: float, alpha: float, sigma: float = SIGMA) -> Array:
    """log(1 / alpha) / KL(p || p0), p0 being the pA that just proves the radius."""
    p0 = special.ndtr(radius / sigma)
    p = np.asarray(p)
    return np.asarray(math.log(1 / alpha) / (special.rel_entr(p, p0) + special.rel_entr(1 - p, 1 - p0)))


def anytime_survey(spec: SmoothingSpec, alpha: float, looks: Sequence[int]) -> Survey:
    voters, correct = classifiers(REPEATS, 0)
    rule = anytime(spec, alpha, looks)
    votes = draw(Procedure(spec), voters, rule=rule)
    samples = spec.n0 + np.asarray(looks)[votes.last]
    return Survey(voters.share(votes.selected), samples, votes.proved, correct & (votes.selected == 0))


def at_radii(family: int) -> Iterator[str]:
    alpha = ALPHA / family
    fixed = survey(smoothing(sigma=SIGMA, sampling="fixed", alpha=ALPHA), family=family, repeats=REPEATS, seed=1)
    whole = fixed.samples.mean()
    for radii in [*((r,) for r in RADII), RADII]:
        spec = smoothing(sigma=SIGMA, radii=radii, alpha=ALPHA)
        procedures = {
            "product": survey(spec, family=family, repeats=REPEATS),
            "anytime, same looks": anytime_survey(spec, alpha, spec.looks),
            "anytime, dense": anytime_survey(spec, alpha, dense(spec.n)),
        }
        for name, found in procedures.items():
            accuracy = " ".join(f"{found.accuracy(r):.4f}/{fixed.accuracy(r):.4f}" for r in radii)
            mean = found.samples.mean()
            line = f"  {'/'.join(map(str, radii)):18} {name:20} {mean:7.0f} {whole / mean:6.1f}x  {accuracy}"
            if len(radii) == 1:
                certified = (found.radius >= radii[0]) & (found.p > special.ndtr(radii[0] / SIGMA))
                ratio = (found.samples - spec.n0)[certified] / information(found.p[certified], radii[0], alpha)
                line += f"  x information: median {np.median(ratio):.2f}, mean {ratio.mean():.2f}"
            yield line


def at_tolerances(family: int) -> Iterator[str]:
    fixed = survey(smoothing(sigma=SIGMA, sampling="fixed", alpha=ALPHA), family=family, repeats=REPEATS, seed=1)
    for tolerance in TOLERANCES:
        found = survey(smoothing(sigma=SIGMA, tolerance=tolerance, alpha=ALPHA), family=family, repeats=REPEATS)
        fewer, loss = fixed.samples.mean() / found.samples.mean(), 1 - found.radius.mean() / fixed.radius.mean()
        yield f"  tolerance {tolerance:4} {found.samples.mean():7.0f} {fewer:6.2f}x  mean radius {-100 * loss:+.2f} %"


def between_thresholds() -> Iterator[str]:
    """Mean estimation samples over the information bound, for p between p0 and 1."""
    for z in (0.5, 1.0, 1.5, 2.0):
        spec = smoothing(sigma=1.0, radii=(z,), alpha=ALPHA, error_rate="per-example")
        p0 = special.ndtr(z)
        for part in (0.3, 0.6, 0.9):
            p = p0 + part * (1 - p0)
            bound = float(information(p, z, ALPHA, sigma=1.0))
            rules = (None, anytime(spec, ALPHA, spec.looks), anytime(spec, ALPHA, dense(spec.n)))
            means = []
            for rule in rules:
                voters = Classifiers.alike((p, 1 - p), RUNS, 0)
                votes = draw(Procedure(spec), voters, rule=rule)
                means.append(np.asarray((rule or spec).looks)[votes.last].mean() / bound)
            yield f"  R/sigma {z:3} p {p:.4f} bound {bound:6.0f}   " + "   ".join(f"{mean:.2f}" for mean in means)


def main() -> None:
    def say(title: str, lines: Iterator[str]) -> None:
        sys.stdout.write(title + "\n" + "".join(f"{line}\n" for line in lines))

    for family in (1, FAMILY):
        level = f"alpha = {ALPHA:g}" + (f" shared by {family}" if family > 1 else "")
        say(f"radii asked, {level}: mean samples, times fewer than n = 100,000, certified accuracy / that of fixed n", at_radii(family))
        say(f"largest radius, {level}: mean samples, times fewer, mean radius against fixed n", at_tolerances(family))
    say("mean samples / information: product, anytime at the same looks, anytime dense", between_thresholds())


if __name__ == "__main__":
    main()
