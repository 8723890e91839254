"""Second networks that a spec names: a job may use those that its tenant has uploaded and that were inspected."""

from __future__ import annotations

import sqlalchemy as sa

from certify.errors import InputError, Problem
from certify.facts import ModelFacts, misfits
from certify.spec import DualPredictSpec, InstanceSmoothingSpec, Spec
from certify.specs.instance import ModelSelector
from storage.errors import NotReady
from storage.records import ArtifactState
from storage.scoped import owned
from storage.tables import models


def check_selectors(connection: sa.Connection, tenant_id: str, spec: Spec, shape: tuple[int, ...]) -> None:
    """Refuse a job whose selector the tenant does not have, or that does not fit the classifier.

    Args:
        connection: of a transaction.
        tenant_id: who asks.
        spec: of the job.
        shape: of one input of the classifier.

    Raises:
        NotReady: it has not been inspected yet.
        InputError: every problem found.
    """
    problems: list[Problem] = []
    for index, certifier in enumerate(spec.certifiers):
        if isinstance(certifier, InstanceSmoothingSpec | DualPredictSpec) and isinstance(certifier.selector, ModelSelector):
            field = f"certifiers.{index}.selector.model"
            found = _facts(connection, tenant_id, certifier.selector.model, field)
            problems += misfits(field, certifier.selector, len(certifier.sigmas), shape, found)
    if problems:
        raise InputError(*problems)


def _facts(connection: sa.Connection, tenant_id: str, digest: str, field: str) -> ModelFacts | None:
    """Of a version of that file that is ready; null when there is none."""
    mine = owned(models, tenant_id) & (models.c.blob == digest)
    found = connection.execute(sa.select(models.c.state, models.c.facts).where(mine)).all()
    states = {row.state: row.facts for row in found}
    if (facts := states.get(ArtifactState.READY)) is not None:
        return ModelFacts.model_validate_json(facts)
    if ArtifactState.INSPECTING in states:
        raise NotReady.at(field, "the selector is still being inspected", "try again in a few seconds")
    return None
