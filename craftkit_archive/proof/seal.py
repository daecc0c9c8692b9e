"""The seal: one digest over everything that an archive, a project or an export holds."""

import heapq
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from hashlib import sha256
from typing import Self, TextIO

RUN_LINES = 100_000


def seal_line(digest: str, key: str) -> bytes:
    """Return the line of a seal's text for one asset."""
    return f"{digest}  {key}\n".encode()


def compute_seal(held: Iterable[tuple[str, str]]) -> str:
    r"""Return the seal of some assets, as 64 lower-case hex digits.

    It is the SHA-256 of the lines that `sha256sum` would print for the assets under their asset keys, sorted by bytes
    (`LC_ALL=C sort`): `<sha256>  <asset key>\n`.

    Args:
        held: The digest (64 lower-case hex digits) and the asset key of each asset, sorted by their bytes.
    """
    hashed = sha256()
    for digest, key in held:
        hashed.update(seal_line(digest, key))
    return hashed.hexdigest()


class SealBuilder:
    """Computes a seal of assets that are added in any order; a context manager.

    An external merge sort: every `RUN_LINES` lines are sorted and written to a temporary file, so that memory does not
    grow.
    """

    def __init__(self) -> None:
        self._lines: list[tuple[str, str]] = []
        self._runs: list[TextIO] = []
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self._stack.close()

    def add(self, digest: str, key: str) -> None:
        """Add an asset."""
        self._lines.append((digest, key))
        if len(self._lines) >= RUN_LINES:
            file = tempfile.TemporaryFile("w+", encoding="utf-8", newline="")  # noqa: SIM115 - closed by the stack
            run = self._stack.enter_context(file)
            run.writelines(f"{digest}  {key}\0" for digest, key in self._sorted())
            self._runs.append(run)
            self._lines = []

    def result(self) -> str:
        """Return the seal of all assets that were added."""
        return compute_seal(heapq.merge(self._sorted(), *map(_read_run, self._runs), key=_order))

    def _sorted(self) -> list[tuple[str, str]]:
        self._lines.sort(key=_order)
        return self._lines


def _order(held: tuple[str, str]) -> tuple[str, bytes]:
    return held[0], held[1].encode()


def _read_run(run: TextIO) -> Iterator[tuple[str, str]]:
    run.seek(0)
    left = ""
    while chunk := run.read(1 << 16):
        *lines, left = (left + chunk).split("\0")
        for line in lines:
            yield line[:64], line[66:]
