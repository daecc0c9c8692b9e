"""Writes files atomically, and flushes files and folders to the disk."""

import errno
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from craftkit_archive.errors import disk_errors


@contextmanager
def replaced_when_whole(file: Path) -> Iterator[Path]:
    """Yield a temporary path to write to, which replaces the file in one step at the end of the block.

    If the block fails, the file stays as it was, and the temporary file is removed.

    Raises:
        NoSpaceError, NotWritableError: The disk refused.
    """
    with disk_errors(file):
        new = file.with_name(f".{file.name}.{os.urandom(8).hex()}.part")
        try:
            yield new
            new.replace(file)
        finally:
            with suppress(OSError):
                new.unlink()


_UNFINISHED = re.compile(r"\.(.+)\.[0-9a-f]{16}\.part", re.DOTALL)


def remove_unfinished(folder: Path, names: set[str]) -> None:
    """Remove the temporary files of `replaced_when_whole` that killed processes left for files of these names.

    Raises:
        OSError: The disk refused.
    """
    for path in list(folder.glob(".*.part")):
        found = _UNFINISHED.fullmatch(path.name)
        if found and found[1] in names:
            path.unlink(missing_ok=True)


def flush(path: str | os.PathLike[str]) -> None:
    """Flush a file, or the names in a folder, to the disk.

    Raises:
        OSError: The disk refused.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some file systems, such as CIFS, cannot flush a folder, because they write it through anyway.
        if error.errno != errno.EINVAL or not stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise
    finally:
        os.close(descriptor)
