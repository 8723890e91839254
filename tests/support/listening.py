"""At which addresses a process and what it started listen, as the kernel tells."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

_LISTEN = "0A"
_LOOPBACK = ("0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000")


def open_to_others(pid: int) -> list[str]:
    """Processes of the tree of `pid` that listen on another address than loopback's, with the address and port in hex."""
    owners = {inode: process for process in _tree(pid) for inode in _sockets(process)}
    found = []
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            address, state, inode = fields[1], fields[3], fields[9]
            if state == _LISTEN and inode in owners and address.partition(":")[0] not in _LOOPBACK:
                name = Path(f"/proc/{owners[inode]}/comm").read_text().strip()
                found.append(f"{name} {address}")
    return found


def ports(pid: int) -> int:
    """How many ports the tree of `pid` listens on."""
    inodes = {inode for process in _tree(pid) for inode in _sockets(process)}
    lines = [line.split() for table in ("tcp", "tcp6") for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]]
    return sum(fields[3] == _LISTEN and fields[9] in inodes for fields in lines)


def _tree(pid: int) -> Iterator[int]:
    yield pid
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in task.read_text().split():
            yield from _tree(int(child))


def _sockets(pid: int) -> Iterator[str]:
    for descriptor in Path(f"/proc/{pid}/fd").glob("*"):
        try:
            found = re.fullmatch(r"socket:\[(\d+)\]", os.readlink(descriptor))
        except OSError:
            continue
        if found:
            yield found[1]
