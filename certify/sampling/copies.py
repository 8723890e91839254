"""A few noisy copies of inputs that no certificate uses: on them another runtime is compared with the certified classifier."""

from __future__ import annotations

import hashlib
from functools import cached_property

import torch
from torch import Tensor

from certify.run import public_key
from certify.sampling.noise import NOISES
from certify.sampling.noise.base import Noise
from certify.sampling.noise.splitting import Splitting, make_template
from certify.sampling.streams import Stage, Stream
from certify.spec import CopiesSpec, Spec, SplittingSpec


class Copies:
    """Copies as a certifier makes them, from streams under a key of their own: none of its samples is drawn, or can be foreseen by them.

    Args:
        job: the whole spec.
        index: the certifier's place in it.
        levels: the noise levels, in turn.
        shape: of what the noise is added to.
        key: the root of all noise of the job.
    """

    def __init__(self, job: Spec, index: int, levels: tuple[float, ...], shape: tuple[int, ...], key: bytes) -> None:
        certifier = job.certifiers[index]
        assert isinstance(certifier, CopiesSpec)
        self._job = job
        self._index = index
        self._certifier = certifier
        self._levels = levels
        self._shape = shape
        self._key = hashlib.sha256(key + b"/runtime").digest()

    def around(self, group: int, x: Tensor, each: int) -> Tensor:  # x: (rows, *input), float32
        """(rows, each, *input), float32 on the CPU: the copies of a group of rows, the same ones for the same group and inputs.

        Args:
            group: number of the group.
            x: its inputs.
            each: copies of one input.
        """
        made = torch.empty((len(x), each, *self._shape))
        stream = Stream(self._key, self._index, group, Stage.PREDICTION)
        for turn in range(each):
            noise = self._noises[turn % len(self._noises)]
            blocks = -(-len(x) // noise.block)
            for number in range(blocks):
                drawn = noise.draw(stream, turn * blocks + number)
                first = number * noise.block
                for row in range(first, min(first + noise.block, len(x))):
                    copy = drawn[row - first : row - first + 1]
                    noise.apply(noise.prepare(x[row]), copy, made[row : row + 1, turn])
        return made

    @cached_property
    def _noises(self) -> list[Noise]:
        if isinstance(self._certifier, SplittingSpec):
            template = make_template(public_key(self._job), self._certifier.levels, self._shape)
            return [Splitting(self._certifier.sigma, self._certifier.levels, template, "cpu")]
        kind = NOISES[self._certifier.noise]
        return [kind(level, self._shape, "cpu") for level in self._levels]
