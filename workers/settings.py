"""Settings of the workers, on top of those of storage."""

from __future__ import annotations

import os
import socket
from os import getpid
from typing import Annotated

from pydantic import Field

from storage.settings import Settings

_SECRETS = ("ASSAY_SECRET", "ASSAY_KEY", "ASSAY_DATABASE_URL")


class WorkerSettings(Settings):
    """`ray_address` empty starts a local Ray; otherwise the address of a cluster, or `auto`.

    The local one is reached at the address `ray_bind`, by default from this machine alone. `inspect_seconds` is what the inspection of
    an upload may compute, on top of a second for each 4 MiB; how long that takes on a busy machine is another matter.
    `memory_gib` is what bound propagation may use in one worker: methods that would need more are left out.
    """

    ray_address: str = ""
    actors: Annotated[int, Field(ge=0)] = 0
    lease_seconds: Annotated[float, Field(gt=0)] = 30.0
    grace_seconds: Annotated[float, Field(ge=0)] = 5.0
    inspect_seconds: Annotated[float, Field(gt=0)] = 300.0
    ray_bind: str = "127.0.0.1"
    memory_gib: Annotated[float, Field(gt=0)] = 4.0
    poll_seconds: Annotated[float, Field(gt=0)] = 0.2

    @property
    def memory(self) -> int:
        """`memory_gib` in bytes."""
        return int(self.memory_gib * 2**30)

    @staticmethod
    def forget_secrets() -> None:
        """Take out of the environment what a worker needs no more once it has its settings: its children compute on strangers' files."""
        for name in _SECRETS:
            os.environ.pop(name, None)

    @property
    def worker_name(self) -> str:
        return f"{socket.gethostname()}/{getpid()}"
