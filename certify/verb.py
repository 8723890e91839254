"""The one verb."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext

from certify.certificate import Certificate
from certify.errors import InputError, Problem
from certify.facts import check_other_models
from certify.findings import AttackResult
from certify.model import Examples, Model
from certify.precision import check_device, sums_of_products
from certify.registry import CERTIFIERS
from certify.run import Run
from certify.spec import Spec


def certify(model: Model, examples: Examples, spec: Spec, run: Run) -> Iterator[Certificate | AttackResult]:
    """Certificates of every example under every certifier of `spec` (or those named in `run.certifiers`), as they are made.

    For an `attack` in the list, attack results instead: they prove nothing.

    Each certificate holds on its own terms, which its `statement` names. Results depend on (model, examples, spec, noise key,
    device kind, batch size) only: not on how examples are split over calls, nor on their order.

    Args:
        model: the classifier; raw input in, normalisation inside.
        examples: inputs of shape (N, *input) in raw-input units with labels and dataset rows.
        spec: the whole job.
        run: device, plan, keys, clock and callbacks.

    Yields:
        One row per (certifier, example), certifier by certifier, examples in order. Radii are rounded down, distances up.

    Raises:
        InputError: an input has the wrong shape, is not finite or leaves the declared range; or a network that the spec names is
            not in `run.models`, or does not fit.
        EngineUnavailable: a certifier needs an engine, or a precision of the device, that is missing.
        ContradictionError: a certificate was about to be made that a sampled input contradicts.
        Cancelled: `run.should_stop()` answered true.
    """
    _check(model, examples)
    asked = tuple(range(len(spec.certifiers))) if run.certifiers is None else run.certifiers
    check_other_models(spec, model.input_shape, lambda other: run.models.get(other.digest), asked)
    for index in asked:
        check_device(spec.certifiers[index], f"certifiers.{index}", run.device)
    for index in asked:
        finder = CERTIFIERS[spec.certifiers[index].kind](spec, index, model, run)
        with sums_of_products() if finder.dtype == "float64" else nullcontext():
            yield from finder.findings(examples)


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
