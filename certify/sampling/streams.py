"""Random bits by name: a pure function of (key, certifier, example, stage, block), whatever the packing, the shard plan or the history."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import CTR

Bits = np.ndarray[Any, np.dtype[np.uint8]]
_PAGE = 16  # bytes of one AES block, the step of its counter


class Stage(IntEnum):
    """Independent parts of one example's randomness; no stage ever reuses another's samples."""

    SELECTION = 0
    ESTIMATION = 1
    PREDICTION = 2
    SEARCH = 3
    SELECTOR_SELECTION = 4
    SELECTOR_ESTIMATION = 5
    SELECTOR_PREDICTION = 6


class Lane(IntEnum):
    """Independent parts of one block: most bits come from the first, rare refinements from the second."""

    MAIN = 0
    REFINE = 1


@dataclass(frozen=True)
class Stream:
    """The random bits of one example in one stage: AES-256 in counter mode under the key SHA-256(key, certifier, example, stage).

    Whoever does not know `key` cannot tell the bits from coin tosses, nor one stream from another, without breaking the cipher:
    a model cannot recognise the noise and vote on cue.

    Source: NIST SP 800-38A (counter mode); docs/decisions/0010.
    """

    key: bytes
    certifier: int
    example: int
    stage: Stage

    def fill(self, block: int, out: Bits, lane: Lane = Lane.MAIN) -> None:
        """Write the first bits of block `block` into `out`, a buffer of bytes. Blocks do not overlap: each has 2^32 pages."""
        counter = (int(lane) << 120) + (block << 32)
        Cipher(self._cipher, CTR(counter.to_bytes(_PAGE, "big"))).encryptor().update_into(_zeros(len(out)).data, out.data)

    @cached_property
    def _cipher(self) -> AES256:
        name = f"/{self.certifier}/{self.example}/{int(self.stage)}".encode()
        return AES256(hashlib.sha256(self.key + name).digest())


_ZEROS: dict[int, Bits] = {}


def _zeros(size: int) -> Bits:
    """What is encrypted to get the bare key stream; kept, because every block has the same size."""
    if size not in _ZEROS:
        if len(_ZEROS) > 16:
            _ZEROS.clear()
        _ZEROS[size] = np.zeros(size, dtype=np.uint8)
    return _ZEROS[size]
