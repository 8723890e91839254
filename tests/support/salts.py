"""The noise key of a job, derived again from what the database keeps."""

from __future__ import annotations

import sqlalchemy as sa

from certify.run import service_key
from storage.database import Database
from storage.records import Job
from storage.scoped import owned
from storage.tables import noise_salts
from tests.support.shop import SECRET


def salts(db: Database, job: Job) -> list[bytes]:
    """Of its question; there is one."""
    mine = owned(noise_salts, job.tenant_id) & (noise_salts.c.spec_digest == job.spec_digest)
    mine &= (noise_salts.c.model_digest == job.model_digest) & (noise_salts.c.dataset_digest == job.dataset_digest)
    with db.read() as connection:
        return [bytes.fromhex(text) for text in connection.execute(sa.select(noise_salts.c.salt).where(mine)).scalars()]


def key_of(db: Database, job: Job, secret: bytes = SECRET) -> bytes:
    [salt] = salts(db, job)
    digests = {"model": job.model_digest, "dataset": job.dataset_digest, "spec": job.spec_digest}
    return service_key(secret, tenant=job.tenant_id, **digests, salt=salt)
