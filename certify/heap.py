"""What large tensors do to the memory of the process: given back when they are freed, and how it looks when there is none left."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import sys
from collections.abc import Iterator

import torch

_MMAP_THRESHOLD = -3  # of malloc.h
_LARGE = 2**20
_USUAL = 2**25  # where glibc's own ends up


def out_of_memory(error: BaseException | None) -> bool:
    """Whether there was no memory for a tensor, or whether this came of it."""
    while error is not None:
        # torch has a class for the GPU only; its CPU allocator says it in words.
        if isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "can't allocate memory" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


@contextlib.contextmanager
def giving_back() -> Iterator[None]:
    """Within, what a tensor of a megabyte or more took goes back to the system when it is freed.

    Otherwise glibc keeps it, and matrices of many sizes leave so many gaps that the process grows to twice what it holds. Other C
    libraries have no such habit. For the whole process; allocating costs more, so only where memory is what counts.
    """
    collect()
    _large(_LARGE)
    try:
        yield
    finally:
        _large(_USUAL)


def collect() -> None:
    """Free what only points at itself, and give the pages back that nothing is on any more."""
    gc.collect()
    _of_glibc("malloc_trim", 0)


def _large(size: int) -> None:
    _of_glibc("mallopt", _MMAP_THRESHOLD, size)


def _of_glibc(name: str, *given: int) -> None:
    function = getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None
    if function is not None:
        function(*given)
