"""The writer's lock, which one command at a time can hold."""

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

# How long a command waits for others that hold the lock shared, only to see whether anybody is writing.
LOOK_SECONDS = 5.0


class Holder(msgspec.Struct):
    """The command that holds the writer's lock, as the lock file records it."""

    command: str
    pid: int
    host: str
    since: str


@contextmanager
def hold_lock(path: Path, command: str, clock: Clock) -> Iterator[None]:
    """Hold an archive's lock. It is released when the process ends, however that happens, and names its holder.

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
            with suppress(OSError):  # so that the next message about a held lock does not name this command
                os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)


def _take_lock(descriptor: int) -> bool:
    """Take the writer's lock, and return whether it was free; processes that only look at it are waited for."""
    deadline = time.monotonic() + LOOK_SECONDS
    while not try_lock(descriptor, fcntl.LOCK_EX):
        # A writer holds it exclusively, so it cannot be shared. Those who only look hold it shared for a moment.
        if not try_lock(descriptor, fcntl.LOCK_SH) or time.monotonic() > deadline:
            return False
        fcntl.flock(descriptor, fcntl.LOCK_UN)
        time.sleep(random.uniform(0.001, 0.02))  # noqa: S311 - random, so that two writers do not stay in step
    return True


def try_lock(descriptor: int, kind: int) -> bool:
    """Take a lock (`fcntl.LOCK_EX` or `LOCK_SH`) without waiting, and return whether that succeeded."""
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
