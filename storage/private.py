"""Files of the service belong to its user alone: folders are 0700, files 0600, and what is wider is tightened or told."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path

import structlog

log = structlog.get_logger()

_UMASK = 0o077
_OTHERS = 0o077
# What the service makes in a folder that it is given.
_OURS = ("assay.db", "artifacts", "secret", "sha256", "parts")


def private_service(home: Path) -> None:
    """`home`, and whatever this process and its children will make, for their user alone.

    For processes of the service. Commands that write a user's own files keep the user's umask.
    """
    os.umask(_UMASK)
    private_folder(home)


def private_folder(folder: Path) -> None:
    """The folder, made with mode 0700 where it is missing. One that others may enter is closed to them if it is the service's own.

    Any other is left as it is, with a warning in the log: a setting may name `/`.
    """
    if not folder.exists():
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    found = folder.stat()
    if not found.st_mode & _OTHERS:
        return
    if found.st_uid == os.geteuid() and not found.st_mode & stat.S_ISVTX and _ours(folder):
        folder.chmod(0o700)
    else:
        mode = f"{stat.S_IMODE(found.st_mode):04o}"
        mend = "make it 0700, or give the service a folder of its own"
        log.warning("other users may enter the folder", action="folder_open", folder=str(folder), mode=mode, mend=mend)


def private_file(path: Path) -> None:
    """The file, made with mode 0600 where it is missing; one of ours that others may read is closed to them."""
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    except FileExistsError:
        close_file(path)


def close_file(path: Path) -> None:
    """Close a file of ours to other users, if it is there."""
    with suppress(FileNotFoundError):
        found = path.stat()
        if found.st_mode & _OTHERS and found.st_uid == os.geteuid():
            path.chmod(0o600)


def _ours(folder: Path) -> bool:
    """Nothing is in it, or something of the service and no folder of anybody else."""
    entries = list(os.scandir(folder))
    foreign = [entry for entry in entries if entry.name not in _OURS and entry.is_dir(follow_symlinks=False)]
    return not foreign and (not entries or any(entry.name in _OURS for entry in entries))
