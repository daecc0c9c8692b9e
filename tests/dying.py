"""A process that kills itself at a moment of its own: before a change, or after a request that it was about to make.

Nothing else of the tests is imported: processes of their own do this.
"""

import os
import signal
import sqlite3
import sys
from collections.abc import Callable
from http.client import HTTPConnection
from itertools import count
from typing import Any

# What a program changes on a disk, as Python's audit events name it.
_CHANGES = {"os.rename", "os.link", "os.remove", "os.mkdir", "os.rmdir", "os.truncate"}
_WRITING = ("BEGIN", "COMMIT", "INSERT", "UPDATE", "DELETE", "REPLACE")


def die_before_change(number: int) -> None:
    """Kill this process before its change of this number to a folder, or when it is to open a file to write to it."""
    _before_changes(_countdown(number)[0])


def die_at_moment(number: int) -> Callable[[], int]:
    """Kill this process at its moment of this number, and return what says how many there have been.

    A moment is before each change to a folder, each write and flush of a file, each statement of SQLite that writes,
    and both before and after each request is sent.
    """
    pass_moment, passed = _countdown(number)

    def first(function: Callable[..., Any]) -> Callable[..., Any]:
        def passing(*given: Any, **options: Any) -> Any:
            pass_moment()
            return function(*given, **options)

        return passing

    def traced(*given: Any, **options: Any) -> sqlite3.Connection:
        connection: sqlite3.Connection = connect(*given, **options)
        connection.set_trace_callback(lambda sql: pass_moment() if sql.lstrip().startswith(_WRITING) else None)
        return connection

    def send(self: HTTPConnection, data: Any) -> None:
        pass_moment()
        sent(self, data)
        pass_moment()

    connect, sent = sqlite3.connect, HTTPConnection.send
    _before_changes(pass_moment)
    os.write, os.fsync = first(os.write), first(os.fsync)
    sqlite3.connect = traced  # type: ignore[assignment]
    HTTPConnection.send = send  # type: ignore[method-assign]
    return passed


def _countdown(number: int) -> tuple[Callable[[], None], Callable[[], int]]:
    """Return what counts a moment, and kills this process at the one of a number; and what says how many there were."""
    moments, reached = count(1), [0]

    def pass_moment() -> None:
        reached[0] = next(moments)
        if reached[0] == number:
            os.kill(os.getpid(), signal.SIGKILL)

    return pass_moment, lambda: reached[0]


def _before_changes(pass_moment: Callable[[], None]) -> None:
    def note(event: str, given: tuple[Any, ...]) -> None:
        if event in _CHANGES or (event == "open" and isinstance(given[2], int) and given[2] & os.O_ACCMODE):
            pass_moment()

    sys.addaudithook(note)
