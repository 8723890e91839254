"""A job -> its plan and shards: a pure function, so that the same job is always cut alike."""

from __future__ import annotations

import math

from certify.facts import DatasetFacts, ModelFacts
from certify.run import Plan
from certify.sampling.batch import default_batch_size
from certify.spec import CertifierSpec, CopiesSpec, Spec
from storage.records import ShardPlan

# Work of one shard in the units of `spec.work`: a few seconds on a CPU core. Short enough that a lost one costs little.
_SHARD_WORK = 2e9
_LARGEST_SHARD = 64
MEMORY = 4 * 2**30
# Of a dataset a worker holds the file twice (as it came, as bytes), the array and the rows of a shard, in float32.
_DATASET = 4 * 4


def plan_job(spec: Spec, model: ModelFacts, dataset: DatasetFacts, device: str, memory: int = MEMORY) -> tuple[Plan, tuple[ShardPlan, ...]]:
    """What is fixed for the job, and its shards: every (certifier, example) in exactly one.

    Args:
        spec: the job's spec.
        model: facts of its model.
        dataset: facts of its dataset.
        device: kind of device that will run it, `cpu` or `cuda`.
        memory: bytes that one worker may use; what the dataset takes is taken off.
    """
    examples = len(spec.examples.indices(dataset.count))
    plan = Plan(
        family=spec.family(examples),
        batch_sizes=tuple(_batch_size(c, model, device) for c in spec.certifiers),
        memory=max(1, memory - _DATASET * dataset.count * math.prod(dataset.input_shape)),
    )
    shards: list[ShardPlan] = []
    for index, certifier in enumerate(spec.certifiers):
        _, largest = model.sampled(_split(certifier))
        size = max(1, min(_LARGEST_SHARD, int(_SHARD_WORK // certifier.work(largest))))
        for first in range(0, examples, size):
            shards.append(ShardPlan(ix=len(shards), certifier=index, first=first, last=min(first + size, examples)))
    return plan, tuple(shards)


def _batch_size(certifier: CertifierSpec, model: ModelFacts, device: str) -> int:
    if not isinstance(certifier, CopiesSpec):
        return 1
    return certifier.batch_size or default_batch_size(*model.sampled(certifier.noisy_tensor), device)


def _split(certifier: CertifierSpec) -> str | None:
    return certifier.noisy_tensor if isinstance(certifier, CopiesSpec) else None
