"""Files that survive a kill or a power cut once a call has returned, and random orders that are the same everywhere.

Every operation ends with an fsync of what it changed; a failed one raises and is never tried again, since after
a failed fsync the kernel may call the lost pages clean (Rebello et al., USENIX ATC 2020). `replacing` and `move` raise
OSError, for callers that know what to say of it; the others say it as the writer of an output folder does.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from hashlib import blake2b, sha256
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

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
        _sync(folder)


def write(path: Path, chunks: Iterable[bytes]) -> None:
    """Write a new file; its folder entry is durable only after a `sync_folder` or `rename`."""
    with explained(path), _flushed(path) as file:
        file.writelines(chunks)


@contextmanager
def replacing(path: Path, draft: Path | None = None) -> Iterator[BinaryIO]:
    """The one atomic replace: a file to write, which takes the place of `path` when the block ends well.

    A reader, and whoever comes after a kill or a power cut, sees the old file or the new one, whole.

    draft: its name until then, on the same file system; None: one beside `path` that no other thread or process has.
        It is removed where the block fails.
    Raises OSError.
    """
    if draft is None:
        draft = path.with_name(f".{path.name}-{os.getpid()}-{threading.get_ident()}")
    try:
        with _flushed(draft) as file:
            yield file
        move(draft, path)
    except BaseException:
        with suppress(OSError):
            draft.unlink()
        raise


def replace(path: Path, chunks: Iterable[bytes], staging: Path | None = None) -> None:
    """`replacing` in a folder that this process has for itself: a draft that a kill left is written over.

    staging: a folder for the draft, on the same file system; None: that of `path`.
    """
    draft = path.with_name(f".{path.name}.part") if staging is None else staging / path.name
    with explained(path), replacing(path, draft) as file:
        file.writelines(chunks)


def move(source: Path, target: Path) -> Path:
    """Move a file or folder to its place, which is returned; a file that is there is replaced. Raises OSError."""
    source.rename(target)
    _sync(target.parent)
    return target


def rename(source: Path, target: Path) -> None:
    """`move` within an output folder."""
    with explained(target):
        move(source, target)


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


def order_key(purpose: bytes, item: bytes, size: int = 8) -> bytes:
    """The key that sorts items into the random order of a purpose, from the two alone.

    size: bytes of the key, 1..64; another size is another order.
    Source: BLAKE2b, RFC 7693.
    """
    return blake2b(purpose + item, digest_size=size).digest()


def order_place(purpose: str, identity: str) -> float:
    """A number 0..1 (1 excluded) as if drawn at random, from the two alone: the order that splits faces into shares.

    Not made of `order_key`, since every gate's test faces are those that this formula named.
    """
    digest = sha256(f"qgate {purpose} {identity}".encode()).digest()
    return int.from_bytes(digest[:8]) / 2**64


def order_keys(seeds: NDArray[Any]) -> NDArray[np.uint64]:
    """Keys that sort seeds into a random order, (n,) -> (n,), for whole ledgers at once.

    Not made of `order_key`, which takes one item at a time, and reports show the faces that come first.
    Source: finaliser of splitmix64, Steele, Lea and Flood, OOPSLA 2014.
    """
    keys: NDArray[np.uint64] = seeds.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    keys = (keys ^ (keys >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    keys = (keys ^ (keys >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return keys ^ (keys >> np.uint64(31))


@contextmanager
def _flushed(path: Path) -> Iterator[BinaryIO]:
    """A new file to write, whose content is durable when the block ends well."""
    with path.open("wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
