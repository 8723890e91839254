"""Everybody at once: no 5xx, no row of another tenant, bounded memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.storage.conftest import empty_url, pg_server
from tests.support.crowd import MIB, Crowd
from tests.support.server import Server

__all__ = ["empty_url", "pg_server"]
PLENTY = {"ASSAY_RATE_PER_MINUTE": "1000000", "ASSAY_MAX_QUEUED_JOBS": "1000000"}


@pytest.fixture
def server(tmp_path: Path, empty_url: str) -> Iterator[Server]:
    with Server(tmp_path, empty_url, **PLENTY) as found:
        yield found


def soak(server: Server, clients: int, seconds: float) -> None:
    crowd = Crowd.of(server, 5)
    crowd.run(clients, seconds / 3)  # everything is loaded, the pools and the threads are there
    warm = server.peak_memory()
    crowd.run(clients, seconds * 2 / 3)
    grown = server.peak_memory() - warm
    told = f"{sum(crowd.statuses.values())} requests {dict(crowd.statuses)} {dict(crowd.actions)}, slowest {crowd.slowest:.1f} s, "
    print(f"{clients} clients: {told}peak {server.peak_memory() / MIB:.0f} MiB, grown by {grown / MIB:.1f} MiB")  # noqa: T201
    assert not crowd.strange, "\n".join(crowd.strange[:20])
    assert not crowd.leaks()
    assert len(crowd.seen) > 20
    assert {200, 201, 202, 304, 404} <= set(crowd.statuses)
    assert grown < 50 * MIB
    assert "Traceback" not in server.log.read_text()


def test_twenty_clients(server: Server) -> None:
    soak(server, 20, 6)


@pytest.mark.slow
def test_two_hundred_clients(server: Server) -> None:
    soak(server, 200, 60)
