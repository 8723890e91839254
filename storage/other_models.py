"""Other networks that a spec names: a job may use those that its tenant has uploaded and that were inspected."""

from __future__ import annotations

import sqlalchemy as sa

from certify.errors import InputError, Problem
from certify.facts import ModelFacts, check_other_models
from certify.spec import OtherModel, Spec
from storage.catalog import load_problems
from storage.errors import NotReady
from storage.records import ArtifactState
from storage.scoped import owned
from storage.tables import models


def check_owned(connection: sa.Connection, tenant_id: str, spec: Spec, shape: tuple[int, ...] | None) -> None:
    """Refuse a job that names a network which the tenant does not have, or which does not fit the classifier.

    Args:
        connection: of a transaction.
        tenant_id: who asks.
        spec: of the job.
        shape: of one input of the classifier; null while it is not known.

    Raises:
        NotReady: one has not been inspected yet.
        InputError: every problem found.
    """
    check_other_models(spec, shape, lambda other: _facts(connection, tenant_id, other))


def _facts(connection: sa.Connection, tenant_id: str, other: OtherModel) -> ModelFacts | None:
    """Of a version of that file that is ready; null when there is none."""
    mine = owned(models, tenant_id) & (models.c.blob == other.digest)
    columns = (models.c.state, models.c.facts, models.c.rejection)
    found = connection.execute(sa.select(*columns).where(mine).order_by(models.c.id)).all()
    states = {row.state: row.facts for row in found}
    if (facts := states.get(ArtifactState.READY)) is not None:
        return ModelFacts.model_validate_json(facts)
    if ArtifactState.INSPECTING in states:
        raise NotReady.at(other.field, f"the {other.noun} is still being inspected", "try again in a few seconds")
    if found:
        rejected = load_problems(found[-1].rejection)
        raise InputError(*(Problem(field=other.field, detail=f"was rejected: {problem.sentence()}") for problem in rejected))
    return None
