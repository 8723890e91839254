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
from workers.comparison import Comparison, Given
from workers.datasets import Dataset, read_dataset
from workers.versions import versions

T = TypeVar("T")
_CACHED = 8
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
        wanted = ("network", lease.model_digest, lease.value_range), ("dataset", lease.dataset_digest), _question(lease)
        self._make_room(wanted)
        network = self._kept(wanted[0], lambda: self._read(model, lease.value_range))
        data = self._kept(wanted[1], lambda: read_dataset(dataset))
        named = zip(lease.spec.certifiers[lease.certifier].other_models, others, strict=True)
        given = {other.digest: self._other(other.digest, file) for other, file in named}
        run = Run(
            plan=lease.plan,
            noise_key=lease.noise_key,
            provenance=provenance(lease, self.device),
            now=time.monotonic,
            certifiers=(lease.certifier,),
            models={digest: other.model for digest, other in given.items()},
            device=self.device,
            should_stop=lambda: lease.id in self._stopped,
            on_progress=self._note,
        )
        rows = lease.spec.examples.indices(len(data.x))
        comparison = self._kept(
            wanted[2],
            lambda: Comparison(lease.spec, lease.plan, lease.noise_key, self.device, network, given, rows, data.x),
        )
        try:
            findings = certify(network.model, select(lease, data), lease.spec, run)
            return list(comparison.compared(findings, run.should_stop))
        finally:
            self._stopped.discard(lease.id)  # the same shard, leased again later, is not stopped

    def _read(self, file: bytes, value_range: tuple[float, float] | None) -> Given:
        return Given.of(Model.from_onnx(file, value_range), file, self.device)

    def _other(self, digest: str, file: bytes) -> Given:
        return self._kept(("network", digest, None), lambda: self._read(file, None))

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


def _question(lease: ShardLease) -> Hashable:
    """What is compared with onnxruntime alike in all shards of one certifier of a job."""
    return "question", lease.model_digest, lease.dataset_digest, lease.spec.digest(), lease.certifier, lease.noise_key, lease.value_range


def _size(cached: object) -> int:
    """Bytes, about: a network has its weights as arrays, in two modules and in onnxruntime."""
    if isinstance(cached, Comparison):
        return _size(cached.network)
    if isinstance(cached, Given):
        return 20 * cached.model.graph.parameters()
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
