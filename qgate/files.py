"""File operations that survive a kill or a power cut once they have returned. Knows nothing of runs or shards.

Every operation ends with an fsync of what it changed; a failed one raises and is never tried again, since after
a failed fsync the kernel may call the lost pages clean (Rebello et al., USENIX ATC 2020).
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from qgate.errors import OutputError, QgateError

NOT_WRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST)


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn an OSError on `path` into OutputError where it may not be written, and into QgateError elsewhere."""
    try:
        yield
    except OSError as error:
        if error.errno in NOT_WRITABLE:
            raise OutputError(f"{path}: cannot be written ({error.strerror}); give another --output") from error
        raise QgateError(
            f"{path}: writing failed ({error.strerror}; {free_bytes(path) / 1e6:.0f} MB free); "
            "all sealed shards are safe: make room or mend the disk, then repeat the command"
        ) from error


def free_bytes(path: Path) -> int:
    """Free space of the file system where `path` lies or would lie."""
    while not path.exists() and path != path.parent:
        path = path.parent
    return shutil.disk_usage(path).free


def lock(folder: Path) -> int:
    """Take the folder for this process and return the descriptor that holds the lock; closing it lets go.

    The lock is the kernel's (flock on the folder itself): it leaves no file and ends with the process.
    Raises OutputError where another process has it.
    """
    with explained(folder):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise OutputError(f"{folder}: is in use by another qgate process; wait for it or stop it") from error
    except OSError as error:
        os.close(descriptor)
        raise OutputError(f"{folder}: cannot be locked ({error.strerror}); give an --output on a local disk") from error
    return descriptor


def make_folder(folder: Path) -> None:
    """Make a folder and the missing ones above it; one that is there stays as it is."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    with explained(folder):
        folder.mkdir(exist_ok=True)
    sync_folder(folder.parent)


def sync_folder(folder: Path) -> None:
    """Make the entries of a folder durable."""
    with explained(folder):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write(path: Path, chunks: Iterable[bytes]) -> None:
    """Write a new file; its folder entry is durable only after a `sync_folder` or `rename`."""
    with explained(path), path.open("wb") as file:
        for chunk in chunks:
            file.write(chunk)
        file.flush()
        os.fsync(file.fileno())


def replace(path: Path, chunks: Iterable[bytes], staging: Path) -> None:
    """Write a file so that a reader sees the old one or the new one, whole; `staging` on the same file system."""
    temporary = staging / path.name
    write(temporary, chunks)
    rename(temporary, path)


def rename(source: Path, target: Path) -> None:
    """Move a file or folder to its place; a file that is there is replaced."""
    with explained(target):
        source.rename(target)
    sync_folder(target.parent)


def copy(source: Path, target: Path) -> None:
    """Let `target` be a second name of a file, or a copy where the file system has no hard links."""
    try:
        os.link(source, target)
    except OSError:
        with explained(target):
            write(target, [source.read_bytes()])


def remove(path: Path) -> None:
    """Remove a file or a folder with all it holds; what is not there needs no removing."""
    with explained(path):
        if path.is_dir():
            shutil.rmtree(path)
        elif path.exists():
            path.unlink()
        else:
            return
    sync_folder(path.parent)
