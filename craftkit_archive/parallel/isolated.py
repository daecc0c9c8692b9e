"""A separate process with limits, for functions that read hostile input; it is replaced when it dies."""

import signal
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from multiprocessing.util import Finalize
from threading import Lock
from typing import Any, Generic

from craftkit_archive.parallel.batches import R, T
from craftkit_archive.parallel.pool import ASK_SECONDS, StoppedError, begin_worker, starting, task_stop
from craftkit_archive.parallel.spawning import CONTEXT


class IsolatedProcess(Generic[T, R]):
    """Calls a function in a separate process with limits, so that hostile input cannot harm anything else.

    The first call starts the process and later ones reuse it; a process that died is replaced.

    Args:
        function: Called with one argument; function, argument and result are picklable.
        seconds: The time limit of a call.
        memory_bytes: The limit of the process's address space.
    """

    def __init__(self, function: Callable[[T], R], *, seconds: float, memory_bytes: int) -> None:
        self._function = function
        self._seconds = seconds
        self._memory_bytes = memory_bytes
        self._lock = Lock()
        self._running: tuple[BaseProcess, Connection] | None = None

    def __call__(self, given: T) -> R:
        """Call the function.

        Raises:
            TimeoutError: It took too long.
            ChildProcessError: Its process died, or the function raised; the text says which.
            StoppedError: The work is to stop (see `task_stop`); the process was killed.
        """
        stop = task_stop()
        with self._lock:
            process, connection = self._running = self._running or self._start()
            try:
                connection.send(given)
                while not connection.poll(ASK_SECONDS):
                    if stop():
                        process.kill()
                came, value = connection.recv()
            except (EOFError, OSError) as error:
                process.join()
                connection.close()
                self._running = None
                if stop():
                    raise StoppedError from error
                if process.exitcode == -signal.SIGALRM:
                    raise TimeoutError(f"it took longer than {self._seconds:g} s") from error
                raise ChildProcessError(f"the process that looked at it died ({process.exitcode})") from error
        if not came:
            raise ChildProcessError(value)
        return value  # type: ignore[no-any-return]

    def _start(self) -> tuple[BaseProcess, Connection]:
        ours, theirs = CONTEXT.Pipe()
        given = (theirs, self._function, self._seconds, self._memory_bytes)
        process = CONTEXT.Process(target=_serve_calls, args=given, daemon=True)
        with starting():
            process.start()
        theirs.close()
        # Python ends daemonic processes by SIGTERM and waits for them, but this one ignores it; so it is killed before.
        Finalize(None, process.kill, exitpriority=10)
        return process, ours


def _serve_calls(connection: Connection, function: Callable[[Any], Any], seconds: float, memory_bytes: int) -> None:
    import resource

    begin_worker()
    with suppress(ValueError, OSError):  # not every system supports them
        resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    with suppress(EOFError):
        while True:
            given = connection.recv()
            # SIGALRM with its default action kills the process, even inside a C library.
            signal.setitimer(signal.ITIMER_REAL, seconds)
            try:
                answer = True, function(given)
            except Exception as error:  # noqa: BLE001 - the caller raises it
                answer = False, f"{type(error).__name__}: {error}"
            signal.setitimer(signal.ITIMER_REAL, 0)
            del given
            connection.send(answer)
