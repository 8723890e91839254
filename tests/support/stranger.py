"""Another local user: what `nobody` can read or change."""

from __future__ import annotations

import os
import pwd
from collections.abc import Iterable
from pathlib import Path

import pytest

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as another user")


def reachable(paths: Iterable[Path]) -> list[str]:
    """Those of the paths that `nobody` can read, list, write to or put something beside, tried in a process of that user."""
    read, write = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            os.close(read)
            user = pwd.getpwnam("nobody")
            os.setgroups([])
            os.setgid(user.pw_gid)
            os.setuid(user.pw_uid)
            os.write(write, "\n".join(found for path in paths for found in _tried(path)).encode())
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read) as answers:
        text = answers.read()
    os.waitpid(pid, 0)
    return text.split("\n") if text else []


def _tried(path: Path) -> list[str]:
    asked = (("read", os.R_OK), ("write", os.W_OK))
    found = [f"{path}: {word}" for word, mode in asked if os.access(path, mode)]
    try:
        os.lstat(path)
        found.append(f"{path}: seen")
    except PermissionError:
        return found
    except FileNotFoundError:
        return [*found, f"{path}: missing"]
    try:
        os.rename(path, path.with_name(f"{path.name}.moved"))
        found.append(f"{path}: moved")
    except OSError:
        return found
    return found
