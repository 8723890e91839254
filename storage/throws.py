"""The dice of a question: a salt that is drawn once and kept, and which throw of each certifier it is."""

from __future__ import annotations

import secrets
from datetime import datetime

import sqlalchemy as sa

from certify.attempts import tried_as
from certify.spec import Spec
from storage.database import insert_once
from storage.scoped import owned
from storage.tables import noise_salts, throws

SALT_BYTES = 32
Attempts = tuple[int | None, ...]


def salt(connection: sa.Connection, now: datetime, tenant_id: str, model: str, dataset: str, spec: str) -> bytes:
    """The random bytes of a question, drawn by the first call and the same ever after, whoever asks at the same time.

    Args:
        connection: of the transaction that stores the question's first job.
        now: the moment.
        tenant_id: who asks.
        model: SHA-256 of the model's file.
        dataset: of the dataset's.
        spec: digest of the spec.
    """
    question = _question(tenant_id, model, dataset, spec)
    insert_once(connection, noise_salts, {**question, "salt": secrets.token_hex(SALT_BYTES), "created_at": now})
    kept = sa.select(noise_salts.c.salt).where(_same(noise_salts, question))
    return bytes.fromhex(connection.execute(kept).scalar_one())


def attempts(connection: sa.Connection, tenant_id: str, model: str, dataset: str, spec: Spec) -> Attempts:
    """For each certifier of the spec, which throw of it this is on this model and dataset, from 1; null where no noise is drawn.

    Every other spec that asked for the same certifier counts (`tried_as`), whatever became of its job. The tenant's row is held.
    """
    question = _question(tenant_id, model, dataset, spec.digest())
    known = sa.select(throws.c.ix, throws.c.attempt).where(_same(throws, question))
    numbers = {row.ix: row.attempt for row in connection.execute(known)}
    for index, certifier in enumerate(spec.certifiers):
        if certifier.stochastic and index not in numbers:
            numbers[index] = _next(connection, question, index, tried_as(certifier))
    return tuple(numbers.get(index) for index in range(len(spec.certifiers)))


def _next(connection: sa.Connection, question: dict[str, str], index: int, certifier: str) -> int:
    mine = owned(throws, question["tenant_id"]) & (throws.c.certifier == certifier)
    mine &= (throws.c.model_digest == question["model_digest"]) & (throws.c.dataset_digest == question["dataset_digest"])
    number = (connection.execute(sa.select(sa.func.max(throws.c.attempt)).where(mine)).scalar() or 0) + 1
    connection.execute(sa.insert(throws).values({**question, "ix": index, "certifier": certifier, "attempt": number}))
    return int(number)


def _question(tenant_id: str, model: str, dataset: str, spec: str) -> dict[str, str]:
    return {"tenant_id": tenant_id, "model_digest": model, "dataset_digest": dataset, "spec_digest": spec}


def _same(table: sa.Table, question: dict[str, str]) -> sa.ColumnElement[bool]:
    digests = (table.c[name] == value for name, value in question.items() if name != "tenant_id")
    return sa.and_(owned(table, question["tenant_id"]), *digests)
