"""PREDICT: what the smoothed classifier answers at an input, with an error level of its own. No radius is claimed."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from scipy import special
from torch import Tensor

from certify.certificate import Certificate, PredictionEvidence, Provenance, Versions
from certify.certifier import Outcome
from certify.errors import InputError, NumericalError
from certify.model import Examples, Model
from certify.question import prediction_spec
from certify.rounding import step_up
from certify.run import Plan, Run
from certify.sampling.batch import default_batch_size
from certify.sampling.certifier import SamplingCertifier
from certify.sampling.noise.base import Noise
from certify.sampling.place import place_of
from certify.sampling.streams import Stage
from certify.spec import Precision, PredictSpec, Spec
from certify.statement import Base, Statement
from certify.verdict import Verdict

_KEY_BYTES = 32
# As for the limits in `statistics.binomial`: SciPy's incomplete beta function is accurate to about 1e-13 relative.
_TAIL_MARGIN = 1.0 - 1e-11


@dataclass(frozen=True)
class Prediction:
    """What the smoothed classifier answers at one input; `prediction` is null when the votes did not single out a class.

    `counts` are the votes by class, `p_value` that of the two most frequent ones being equally likely.
    """

    prediction: int | None
    p_value: float
    counts: tuple[int, ...]


def predict(
    model: Model,
    x: Tensor,  # (N, *input), float32, raw-input units
    *,
    sigma: float,
    n: int = 1000,
    alpha: float = 0.001,
    noise: str = "gaussian",
    split: str | None = None,
    key: bytes,
    device: str = "cpu",
    batch_size: int | None = None,
    precision: Precision = "float32",
) -> list[Prediction]:
    """For each input: with probability at least 1 - alpha the answer is not a class other than the smoothed classifier's.

    The probability is over the noise, for one input at a time, and needs inputs and model that were chosen without `key`. No radius is
    claimed. The inputs are rows 0 to N - 1 of the noise: the same key, row and settings give the same votes.

    Args:
        model: the classifier; raw input in, normalisation inside.
        x: the inputs.
        sigma: standard deviation of the noise in each coordinate, raw-input units.
        n: votes for each input.
        alpha: error level of each answer.
        noise: as in a spec.
        split: the tensor that the noise is added to, in whose units sigma then is; null for the input.
        key: the root of the noise, 32 bytes.
        device: a torch device name.
        batch_size: noisy copies at once; null chooses by shapes and device.
        precision: in which the network runs, as in a spec.

    Raises:
        SpecError: a setting is impossible.
        InputError: x or the key cannot be used.
        NumericalError: a noisy copy got a NaN or infinite logit.
    """
    from certify.verb import certify  # it knows all certifiers, the one below included

    if len(key) != _KEY_BYTES:
        mend = f"draw {_KEY_BYTES} random bytes, for example with secrets.token_bytes({_KEY_BYTES})"
        raise InputError.at("key", f"has {len(key)} bytes", mend)
    spec = prediction_spec(sigma=sigma, n=n, alpha=alpha, noise=noise, split=split, batch_size=batch_size, precision=precision)
    examples = Examples(tuple(range(len(x))), x, torch.zeros(len(x), dtype=torch.int64))
    run = _run(model, spec, key, device, batch_size)
    return [_prediction(answer) for answer in certify(model, examples, spec, run) if isinstance(answer, Certificate)]


def _run(model: Model, spec: Spec, key: bytes, device: str, batch_size: int | None) -> Run:
    """Surroundings of certificates that nobody keeps: their provenance and their seconds say nothing."""
    split = next((certifier.noisy_tensor for certifier in spec.certifiers if isinstance(certifier, PredictSpec)), None)
    graph = place_of(model, split).network.graph
    size = batch_size or default_batch_size(math.prod(graph.input_shape), graph.largest_tensor(), device)
    nowhere = Provenance(
        model=model.digest,
        dataset="0" * 64,
        spec=spec.digest(),
        noise_key=None,
        seed=spec.seed,
        device=device,
        dtype="float32",
        batch_size=None,
        versions=Versions(assay="", torch="", numpy=""),
    )
    return Run(plan=Plan(family=1, batch_sizes=(size,)), noise_key=key, provenance=nowhere, now=lambda: 0.0, device=device)


def _prediction(certificate: Certificate) -> Prediction:
    evidence = certificate.evidence
    if not isinstance(evidence, PredictionEvidence):
        detail = "a noisy copy of it got a NaN or infinite logit"
        raise NumericalError.at(f"x.{certificate.example}", detail, "check the weights and the input range")
    return Prediction(certificate.prediction, evidence.p_value, evidence.counts)


class PredictCertifier(SamplingCertifier[PredictSpec]):
    """With probability at least 1 - alpha over the noise, this is not a class other than the smoothed classifier's answer at x.

    That answer is the most probable class of f(x + noise); with `split`, of f(h(x) + noise) as in `latent-smoothing`. `n` samples vote;
    the answer is the winner when an exact two-sided test rejects at alpha that winner and second are equally likely, and an abstention
    otherwise. It says nothing about other inputs.

    Source: Cohen, Rosenfeld & Kolter 2019, PREDICT and Proposition 2; Hung & Fithian 2019, "Rank verification for exponential families".
    """

    @property
    def statement(self) -> Statement:
        base = Base.PREDICTION_LATENT if self.spec.split else Base.PREDICTION
        return Statement(base=base, grid=self.noise_of(self.spec.sigma).grid, precision=self.spec.precision)

    @property
    def alpha(self) -> float:
        return self.spec.alpha

    @property
    def least(self) -> int:
        return self.spec.n

    def answers(self, examples: Examples) -> Iterator[tuple[int, Outcome]]:
        noise, points = self.noise_of(self.spec.sigma), self.points(examples)
        known = [position for position, point in enumerate(points) if not point.reason]
        yield from ((position, self.nowhere(point)) for position, point in enumerate(points) if point.reason)
        ballot = self.ballot(examples, points, [noise] * len(examples), self.place.network)
        for position, counts in ballot.votes(known, Stage.PREDICTION, 0, self.spec.n).items():
            shift = points[position].error / self.spec.sigma
            yield position, self.broken() if counts is None else self._outcome(counts, noise, shift)

    def _outcome(self, counts: Sequence[int], noise: Noise, shift: float) -> Outcome:
        top, p_value = decide(counts)
        p_value = _shifted(noise.paid(p_value, self.spec.n), self.spec.n, shift)
        evidence = PredictionEvidence(
            noise=self.spec.noise,
            split=self.spec.split,
            sigma=self.spec.sigma,
            n=self.spec.n,
            counts=tuple(counts),
            p_value=p_value,
            precision=self.spec.precision,
        )
        return answered(top, evidence, self.alpha)


def answered(top: int, evidence: PredictionEvidence, alpha: float) -> Outcome:
    """The answer `top`, or an abstention with the numbers."""
    if evidence.p_value > alpha:
        reason = (
            f"Class {top} won {evidence.counts[top]} of {evidence.n} votes, too few more than the next to tell them apart at"
            f" alpha = {alpha:g} (p = {evidence.p_value:.2g}); use more samples."
        )
        return Outcome(prediction=None, verdict=Verdict.ABSTAINED, reason=reason, evidence=evidence)
    reason = "The smoothed classifier gives this answer at the input itself; no radius is claimed."
    return Outcome(prediction=top, verdict=Verdict.CERTIFIED, reason=reason, evidence=evidence)


def _shifted(p_value: float, n: int, shift: float) -> float:
    """The p-value of a test that was made with n samples of normal noise around a point `shift` standard deviations from the right one.

    All n samples together are one normal vector, moved by sqrt(n) * shift: by Neyman and Pearson an event of probability p becomes no
    more likely than Phi(Phi^-1(p) + sqrt(n) * shift).
    """
    if not shift or p_value >= 1.0:
        return p_value
    return min(1.0, step_up(float(special.ndtr(special.ndtri(p_value) + math.sqrt(n) * shift)) * (1 + 1e-9)))


def decide(counts: Sequence[int]) -> tuple[int, float]:
    """The most frequent class, ties to the lowest, and the p-value of it and the second being equally likely, rounded up.

    Args:
        counts: votes by class.

    Source: exact two-sided binomial test of the winner's votes among those of the two most frequent classes, at 1/2.
    """
    first, second = sorted(range(len(counts)), key=lambda c: -counts[c])[:2]
    # P(Bin(a + b, 1/2) >= a) = I_1/2(a, b + 1), and the other side is its mirror image.
    tail = float(special.betainc(counts[first], counts[second] + 1, 0.5))
    return first, min(1.0, step_up(2.0 * tail / _TAIL_MARGIN))
