"""The question of PREDICT in its asker's own words: a spec of one certifier, and errors that name what was asked, not where it stands."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from certify.errors import InputError, Problem, SpecError
from certify.spec import MemoryPredictSpec, PredictingSpec, PredictSpec, Spec, parse_spec

_PLACE = "certifiers.0"


def prediction_spec(*, examples: Mapping[str, Any] | None = None, seed: int = 0, **certifier: Any) -> Spec:
    """The spec of a job that predicts and does nothing else; one digest for one question, whoever asks it.

    Args:
        examples: `start`, `stop` and `step`; all of them when null.
        seed: as in a spec.
        certifier: as in `PredictSpec`: sigma, n, alpha, noise, precision, batch_size.

    Raises:
        SpecError: fields are named as they are here.
    """
    try:
        return parse_spec({"seed": seed, "examples": dict(examples or {}), "certifiers": [{"kind": "predict", **certifier}]})
    except SpecError as error:
        raise in_own_words(error) from None


def ledger_prediction_spec(
    *, ledger: str, version: int, rule: Mapping[str, Any], examples: Mapping[str, Any] | None = None, seed: int = 0, **certifier: Any
) -> Spec:
    """The spec of a job that predicts through a ledger and does nothing else.

    Args:
        ledger: its id.
        version: the state of it that is asked.
        rule: of the ledger.
        examples: as in `prediction_spec`.
        seed: as in a spec.
        certifier: as in `MemoryPredictSpec`: n, alpha, batch_size.

    Raises:
        SpecError: fields are named as they are here.
    """
    entry = {"kind": "memory-predict", "ledger": ledger, "version": version, "sigmas": rule["sigmas"], "search": rule["search"]}
    entry |= {"precision": rule["precision"]} if "precision" in rule else {}
    try:
        return parse_spec({"seed": seed, "examples": dict(examples or {}), "certifiers": [{**entry, **certifier}]})
    except SpecError as error:
        raise in_own_words(error) from None


def is_prediction(spec: Spec) -> bool:
    """Whether the job only predicts."""
    return len(spec.certifiers) == 1 and isinstance(spec.certifiers[0], PredictingSpec)


def in_own_words(error: InputError) -> InputError:
    """The same error with fields named as in `prediction_spec`: certifiers.0.sigma is sigma."""
    return type(error)(*(replace(problem, field=_field(problem)) for problem in error.problems))


def _field(problem: Problem) -> str:
    if problem.field != _PLACE:
        return problem.field.removeprefix(f"{_PLACE}.")
    # A rule over several fields stands at the certifier; its sentence begins with the field to change.
    first = problem.detail.partition(" ")[0]
    return first if first in {**PredictSpec.model_fields, **MemoryPredictSpec.model_fields} else ""
