"""What mathematics must not fetch by itself: device, keys, provenance, clock, the wish to stop. Values, passed in."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import Field

from certify.certificate import Provenance
from certify.spec import Frozen, Spec

PUBLIC_SEED = "public-seed"
_KEY_DOMAIN = b"assay/noise-key/2"


class Plan(Frozen):
    """What is fixed when a job is planned and stored with it, so that a re-run repeats it exactly.

    `family` is the number of stochastic certificates that share a family-wise alpha; `batch_sizes` has one entry per certifier;
    `memory` is what a worker has beside the dataset, in bytes: methods that would need more are left out.
    """

    family: int = Field(ge=1)
    batch_sizes: tuple[int, ...]
    memory: int = Field(default=4 * 2**30, ge=1)


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a run is: examples of one certifier answered, and noisy copies evaluated so far.

    `verdicts` counts the answers, where a certifier knows them before it hands them over.
    """

    certifier: int
    examples: int
    samples: int = 0
    verdicts: Mapping[str, int] = field(default_factory=dict)


def _never() -> bool:
    return False


def _ignore(progress: Progress) -> None:
    return None


@dataclass(frozen=True, kw_only=True)
class Run:
    """The surroundings of one call of `certify`.

    Args:
        plan: see `Plan`.
        noise_key: the secret or public root of all noise streams, 32 bytes.
        provenance: written on each certificate; `batch_size`, `noise_key` and `dtype` are filled in per certifier.
        now: seconds on a steady clock.
        certifiers: indices into `spec.certifiers` to run; null runs all.
        models: other networks that the spec names, each a `certify.model.Model`, by the SHA-256 of their files.
        device: a torch device name.
        should_stop: polled between batches; True raises `Cancelled`.
        on_progress: told after every batch.
    """

    plan: Plan
    noise_key: bytes
    provenance: Provenance
    now: Callable[[], float]
    certifiers: tuple[int, ...] | None = None
    models: Mapping[str, Any] = field(default_factory=dict)
    device: str = "cpu"
    should_stop: Callable[[], bool] = _never
    on_progress: Callable[[Progress], None] = _ignore


def public_key(spec: Spec) -> bytes:
    """The noise key that anyone can derive from the spec's seed."""
    return hashlib.sha256(b"assay/public-seed/%d" % spec.seed).digest()


def service_key(secret: bytes, *, tenant: str, model: str, dataset: str, spec: str, salt: bytes) -> bytes:
    """The noise key of a service: nobody can know it before the question is asked, and the same question gets the same one.

    HMAC-SHA-256 under the server's secret of all parts, each behind its length, so that no two questions share a text.

    Args:
        secret: of the server.
        tenant: who asks.
        model: SHA-256 of the model's file.
        dataset: of the dataset's.
        spec: digest of the spec.
        salt: 32 random bytes, drawn when the question was asked for the first time, after its files were uploaded.
    """
    parts = (_KEY_DOMAIN, tenant.encode(), model.encode(), dataset.encode(), spec.encode(), salt)
    text = b"".join(len(part).to_bytes(8, "big") + part for part in parts)
    return hmac.new(secret, text, hashlib.sha256).digest()


def commitment(key: bytes) -> str:
    """What is shown before the key is revealed: its SHA-256, in hex."""
    return hashlib.sha256(key).hexdigest()
