"""The one verb."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from certify.certificate import Certificate, Provenance
from certify.certifier import Certifier, Outcome
from certify.errors import InputError, Problem
from certify.model import Examples, Model
from certify.registry import CERTIFIERS
from certify.rounding import radius_down
from certify.run import PUBLIC_SEED, Run, commitment, public_key
from certify.spec import Spec
from certify.verdict import Verdict


def certify(model: Model, examples: Examples, spec: Spec, run: Run) -> Iterator[Certificate]:
    """Certificates of every example under every certifier of `spec` (or those named in `run.certifiers`), as they are made.

    Each certificate holds on its own terms, which its `statement` names. Results depend on (model, examples, spec, noise key,
    device kind, batch size) only: not on how examples are split over calls, nor on their order.

    Args:
        model: the classifier; raw input in, normalisation inside.
        examples: inputs of shape (N, *input) in raw-input units with labels and dataset rows.
        spec: the whole job.
        run: device, plan, keys, clock and callbacks.

    Yields:
        One certificate per (certifier, example), certifier by certifier, examples in order. Radii are rounded down.

    Raises:
        InputError: an input has the wrong shape, is not finite or leaves the declared range.
        EngineUnavailable: a certifier needs an engine that is missing.
        Cancelled: `run.should_stop()` answered true.
    """
    _check(model, examples)
    for index in range(len(spec.certifiers)) if run.certifiers is None else run.certifiers:
        certifier = CERTIFIERS[spec.certifiers[index].kind](spec, index, model, run)
        started = run.now()
        for position, outcome in enumerate(certifier.outcomes(examples)):
            now = run.now()
            row, label = examples.rows[position], int(examples.y[position])
            seconds = now - started if outcome.seconds is None else outcome.seconds
            yield _certificate(certifier, outcome, row=row, label=label, provenance=_provenance(certifier, spec), seconds=seconds)
            started = run.now()


def _check(model: Model, examples: Examples) -> None:
    if tuple(examples.x.shape[1:]) != model.input_shape:
        raise InputError(
            Problem(
                field="x",
                detail=f"examples have shape {list(examples.x.shape[1:])}, the model takes {list(model.input_shape)}",
                mend="reshape x",
            )
        )
    if not bool(examples.x.isfinite().all()):
        raise InputError(Problem(field="x", detail="contains NaN or infinity", mend="remove or repair those examples"))
    if model.value_range and len(examples):
        low, high = float(examples.x.min()), float(examples.x.max())
        if low < model.value_range[0] or high > model.value_range[1]:
            raise InputError(
                Problem(
                    field="x",
                    detail=f"values from {low:g} to {high:g} leave the declared range {list(model.value_range)}",
                    mend="rescale x",
                )
            )


def _provenance(certifier: Certifier[Any], spec: Spec) -> Provenance:
    run = certifier.run
    # By the key itself: a label must not promise a secret that anyone can derive.
    origin = PUBLIC_SEED if run.noise_key == public_key(spec) else f"service:{commitment(run.noise_key)}"
    return run.provenance.model_copy(
        update={
            "noise_key": origin if certifier.spec.stochastic else None,
            "dtype": certifier.dtype,
            "batch_size": certifier.batch_size,
            "versions": run.provenance.versions.model_copy(update={"engine": certifier.engine_version}),
        }
    )


def _certificate(
    certifier: Certifier[Any], outcome: Outcome, *, row: int, label: int, provenance: Provenance, seconds: float
) -> Certificate:
    return Certificate(
        example=row,
        certifier=certifier.index,
        kind=certifier.spec.kind,
        statement=outcome.statement or certifier.statement,
        label=label,
        prediction=outcome.prediction,
        correct=outcome.prediction == label,
        verdict=outcome.verdict,
        reason=outcome.reason or outcome.verdict.sentence,
        norm=certifier.norm,
        radius=radius_down(outcome.radius) if outcome.verdict is Verdict.CERTIFIED else 0.0,
        epsilon_verified=outcome.epsilon_verified,
        alpha=certifier.alpha,
        evidence=outcome.evidence,
        provenance=provenance,
        seconds=seconds,
    )
