"""Holds models and turns shards into certificates. It gets bytes and values; it never sees the database."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Hashable
from typing import TypeVar

import torch

from certify import Examples, Model, certify
from certify.certificate import Certificate, Provenance
from certify.findings import AttackResult
from certify.run import Progress, Run
from storage.records import ShardLease
from workers.agreement import recheck
from workers.datasets import Dataset, read_dataset
from workers.versions import versions

T = TypeVar("T")
_CACHED = 4
# Bytes that models and datasets of other shards may take: the estimates of bound propagation have room for so much.
_OTHERS = 2**26


class CertifierActor:
    """One worker: one device, one compute thread, models and datasets cached by digest."""

    def __init__(self, device: str = "cpu") -> None:
        torch.set_num_threads(1)
        self.device = device
        self._cache: OrderedDict[Hashable, object] = OrderedDict()
        self._stopped: set[str] = set()
        self._progress = Progress(certifier=0, examples=0)

    def certify(self, lease: ShardLease, model: bytes, dataset: bytes, *others: bytes) -> list[Certificate | AttackResult]:
        """The certificates, or attack results, of one shard. `stop` and `progress` may be called meanwhile from another thread.

        Args:
            lease: of the shard.
            model: the file of the network.
            dataset: the file of the examples.
            others: the files of the other networks that its certifier names, in their order.

        Raises:
            AssayError: the shard cannot be answered; Cancelled when it was stopped.
        """
        self._progress = Progress(certifier=lease.certifier, examples=0)
        keys = (("model", lease.model_digest, lease.value_range), ("dataset", lease.dataset_digest))
        self._make_room(keys)
        loaded = self._kept(keys[0], lambda: Model.from_onnx(model, lease.value_range))
        data = self._kept(keys[1], lambda: read_dataset(dataset))
        named = [other.digest for other in lease.spec.certifiers[lease.certifier].other_models]
        run = Run(
            plan=lease.plan,
            noise_key=lease.noise_key,
            provenance=provenance(lease, self.device),
            now=time.monotonic,
            certifiers=(lease.certifier,),
            models={digest: self._other(digest, file) for digest, file in zip(named, others, strict=True)},
            device=self.device,
            should_stop=lambda: lease.id in self._stopped,
            on_progress=self._note,
        )
        try:
            return list(recheck(loaded, model, certify(loaded, select(lease, data), lease.spec, run)))
        finally:
            self._stopped.discard(lease.id)  # the same shard, leased again later, is not stopped

    def _other(self, digest: str, file: bytes) -> Model:
        return self._kept(("model", digest, None), lambda: Model.from_onnx(file))

    def progress(self) -> Progress:
        return self._progress

    def stop(self, shard_id: str) -> None:
        self._stopped.add(shard_id)

    def _note(self, progress: Progress) -> None:
        self._progress = progress

    def _make_room(self, wanted: Collection[Hashable]) -> None:
        """What was not used for longest goes, until what is not wanted now is small."""
        others = {key: _size(value) for key, value in self._cache.items() if key not in wanted}
        left = sum(others.values())
        for key, size in others.items():
            if left > _OTHERS:
                del self._cache[key]
                left -= size

    def _kept(self, key: Hashable, make: Callable[[], T]) -> T:
        if key not in self._cache:
            self._cache[key] = make()
            while len(self._cache) > _CACHED:
                self._cache.popitem(last=False)
        self._cache.move_to_end(key)
        return self._cache[key]  # type: ignore[return-value]


def _size(cached: object) -> int:
    """Bytes, about: a model has its weights as arrays and in two modules."""
    if isinstance(cached, Model):
        return 12 * cached.graph.parameters()
    return 4 * cached.x.numel() if isinstance(cached, Dataset) else 0


def select(lease: ShardLease, dataset: Dataset) -> Examples:
    """The examples of a shard, with the dataset rows that key their noise."""
    rows = tuple(lease.spec.examples.indices(len(dataset.x))[lease.first : lease.last])
    return Examples(rows, dataset.x[list(rows)], dataset.y[list(rows)])


def provenance(lease: ShardLease, device: str) -> Provenance:
    return Provenance(
        model=lease.model_digest,
        dataset=lease.dataset_digest,
        spec=lease.spec.digest(),
        noise_key=None,
        seed=lease.spec.seed,
        attempt=lease.attempt,
        device=device,
        dtype="float32",
        batch_size=None,
        versions=versions(),
    )
