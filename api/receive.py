"""Bodies that are files: written to disk while they arrive, counted before and while they are read."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

from fastapi import Request
from starlette.concurrency import run_in_threadpool

from api.problems import TooLarge
from certify.errors import InputError

# What is held of one body at a time. The disk is written in a thread, so that no other request waits for it.
_HELD = 2**20


@asynccontextmanager
async def received(request: Request, *, limit: int, exact: int | None = None) -> AsyncIterator[tuple[Path, int]]:
    """The body as a file, which is gone after the block, and its size; about 1 MiB of memory whatever the size.

    Raises:
        TooLarge: it has more than `limit` bytes; said before anything is read when the length is announced.
        InputError: it has not `exact` bytes.
    """
    announced = request.headers.get("content-length", "")
    if announced.isdecimal():
        _check(int(announced[:20]), limit, exact, whole=True)
    with NamedTemporaryFile(prefix="assay-upload-") as file:
        size = await _write(request, file, limit, exact)
        _check(size, limit, exact, whole=True)
        yield Path(file.name), size


async def _write(request: Request, file: Any, limit: int, exact: int | None) -> int:
    size, held = 0, bytearray()
    async for chunk in request.stream():
        size += len(chunk)
        _check(size, limit, exact, whole=False)
        held += chunk
        if len(held) >= _HELD:
            await run_in_threadpool(file.write, bytes(held))
            held.clear()
    await run_in_threadpool(file.write, bytes(held))
    await run_in_threadpool(file.flush)
    return size


def _check(size: int, limit: int, exact: int | None, *, whole: bool) -> None:
    if size > limit:
        raise TooLarge.at("body", f"the upload has more than {limit} bytes", "make the file smaller")
    if exact is not None and (size > exact or (whole and size != exact)):
        raise InputError.at("body", f"has not the {exact} bytes that Content-Range announces", "send exactly those")
