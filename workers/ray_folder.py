"""The temporary folder of the embedded Ray, closed to other users, and the removal of what dead services have left.

Ray gives everybody the right to write (mode 0777) to the folder that it is handed and to all below it, also to files that its processes
write again and again. So it is handed a folder inside one that only this user may enter.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
import tempfile
import time
from pathlib import Path

_PREFIX = "assay-ray-"
_LOCK = "lock"
_RAY = "r"
# What Ray appends to its folder for a socket, and how long the path of a socket may be.
_SOCKET = "/session_2026-12-01_02-39-34_123456_4194304/sockets/plasma_store"
_LONGEST = 107
_UNLOCKED_SECONDS = 3600.0  # a folder whose maker died before it could lock it


class RayFolder:
    """A new folder for one Ray; `path` is what to hand to it. As long as this process lives nobody sweeps it."""

    def __init__(self) -> None:
        self._parent = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=_place()))  # mode 0700
        self.path = str(self._parent / _RAY)
        self._lock = os.open(self._parent / _LOCK, os.O_CREAT | os.O_RDWR, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX)

    def remove(self) -> None:
        shutil.rmtree(self._parent, ignore_errors=True)
        os.close(self._lock)


def sweep() -> int:
    """Remove this user's folders whose service is dead; says how many. A folder of a living one is locked."""
    found = 0
    for folder in Path(_place()).glob(f"{_PREFIX}*"):
        if _own_folder(folder) and _dead(folder):
            shutil.rmtree(folder, ignore_errors=True)
            found += 1
    return found


def _place() -> str:
    """The system's folder for temporary files, or /tmp where sockets in it would have too long a name."""
    usual = tempfile.gettempdir()
    longest = os.path.join(usual, f"{_PREFIX}12345678", _RAY) + _SOCKET
    return usual if len(os.fsencode(longest)) <= _LONGEST else "/tmp"


def _own_folder(path: Path) -> bool:
    try:
        found = path.lstat()
    except FileNotFoundError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid()


def _dead(folder: Path) -> bool:
    try:
        lock = os.open(folder / _LOCK, os.O_RDWR | os.O_NOFOLLOW)
    except FileNotFoundError:
        # Of a service that starts right now, or of an older version, which may be alive.
        return not any(folder.iterdir()) and time.time() - folder.stat().st_mtime > _UNLOCKED_SECONDS
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(lock)
    return True
