"""The lock of the one command that writes."""

import fcntl
import os
import random
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from craftkit_archive.errors import LockedError, NotWritableError, disk_errors
from craftkit_archive.values import Clock, format_time

LOCK = "archive.lock"

# How long a command waits for those who only look whether another one is writing.
LOOK_SECONDS = 5.0


class Holder(msgspec.Struct):
    """Who holds the writer's lock."""

    command: str
    pid: int
    host: str
    since: str


@contextmanager
def hold_lock(path: Path, command: str, clock: Clock) -> Iterator[None]:
    """Hold an archive's lock, which dies with its holder and says who that is.

    Raises:
        LockedError: Another command holds it.
        NotWritableError: The directory may not be written.
    """
    file = path / LOCK
    with disk_errors(file):
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            taken = _take_lock(descriptor)
        except OSError as error:
            raise NotWritableError(
                f"{file} cannot be locked ({error.strerror}). Use a file system with locks."
            ) from error
        if not taken:
            raise LockedError(f"{_holder(descriptor)} is writing to {path}. Wait until it ends, or stop it.")
        holder = Holder(command=command, pid=os.getpid(), host=socket.gethostname(), since=format_time(clock()))
        with disk_errors(file):
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, msgspec.json.encode(holder), 0)
        try:
            yield
        finally:
            with suppress(OSError):  # that nobody takes us for the next one's rival
                os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)


def _take_lock(descriptor: int) -> bool:
    """Take the writer's lock, and say whether it was free; one that only looks at it is waited for."""
    deadline = time.monotonic() + LOOK_SECONDS
    while not try_lock(descriptor, fcntl.LOCK_EX):
        # A writer keeps us from sharing it. Those who look hold it shared themselves, for a moment.
        if not try_lock(descriptor, fcntl.LOCK_SH) or time.monotonic() > deadline:
            return False
        fcntl.flock(descriptor, fcntl.LOCK_UN)
        time.sleep(random.uniform(0.001, 0.02))  # noqa: S311 - so that two writers do not keep step
    return True


def try_lock(descriptor: int, kind: int) -> bool:
    """Take a lock of a kind (`fcntl.LOCK_EX` or `LOCK_SH`) if nobody else holds it."""
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _holder(descriptor: int) -> str:
    try:
        holder = msgspec.json.decode(os.pread(descriptor, 4096, 0), type=Holder)
    except msgspec.MsgspecError:
        return "Another command"
    return f"`{holder.command}` (process {holder.pid} on {holder.host}, since {holder.since})"
