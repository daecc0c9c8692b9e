"""Bounded parallel work over any `concurrent.futures.Executor`, and how it is stopped."""

import gc
import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from functools import partial
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from threading import Event, Thread, local
from typing import Any

from craftkit_archive.errors import ArchiveError, NoSpaceError, starvation
from craftkit_archive.parallel.batches import R, Stop, T, never
from craftkit_archive.parallel.spawning import CONTEXT

AHEAD = 4  # tasks a worker that are drawn and held at a time

# How often the stop signal is asked during a wait, and how long running tasks may then take.
ASK_SECONDS = 0.2
GRACE_SECONDS = 5.0


def default_jobs() -> int:
    """Return how many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class StoppedError(Exception):
    """The work is to end now; what was under way is not recorded."""


_own = local()

# The stop signal of a worker process's tasks; `stopped_by` sets another for one thread.
_worker_stop: Stop = never


def task_stop() -> Stop:
    """Return the stop signal of this thread's task; long tasks ask it between their items."""
    stop: Stop | None = getattr(_own, "stop", None)
    return stop or _worker_stop


def until(stop: Stop, items: Iterable[T]) -> Iterator[T]:
    """Pass items on until the stop signal is given.

    Raises:
        StoppedError: It was given.
    """
    for item in items:
        if stop():
            raise StoppedError
        yield item


@contextmanager
def stopped_by(stop: Stop) -> Iterator[None]:
    """Make a stop signal the one that `task_stop` returns in this thread."""
    before: Stop | None = getattr(_own, "stop", None)
    _own.stop = stop
    try:
        yield
    finally:
        _own.stop = before


def workers_for(count: int, size_bytes: int, jobs: int) -> int:
    """Return how many processes are worth starting, up to `jobs`: one for each 100 files or 64 MB; 0 if not even two.

    Starting a process takes about as long as working through that many files or bytes.
    """
    worth = max(count // 100, size_bytes // (64 << 20))
    return 0 if min(worth, jobs) < 2 else min(worth, jobs)


@contextmanager
def processes(jobs: int, prepare: Callable[[], object] = never) -> Iterator[Executor]:
    """Yield an executor of `jobs` processes; with 0, of one thread of this process.

    The workers inherit no connections, leave signals to their parent, and end when it dies, however it dies. At the end
    running tasks are waited for, except after a `KeyboardInterrupt`, which kills the workers.

    Args:
        jobs: How many; they start at once, in the background.
        prepare: Called first in each worker, for example to import what takes long; an `ArchiveError` of it is
            ignored, as the tasks will meet the same problem.

    Raises:
        NoSpaceError: A worker was killed or could not start.
    """
    executor = _Processes(jobs, prepare) if jobs else _OneThread()
    try:
        for _ in range(jobs):
            executor.submit(never)
        yield executor
    except KeyboardInterrupt:
        executor.abandon()
        raise
    except BrokenExecutor as error:
        raise _lost_worker() from error
    finally:
        executor.end()


class Stoppable(Executor):
    """An executor whose tasks can be asked to stop (see `task_stop`), and are abandoned if they do not."""

    abandoned = False
    starved: BaseException | None = None

    def has_room(self, held: int, jobs: int) -> bool:
        """Return whether another task may be submitted while `held` are held, finished or not."""
        return _has_room(held, jobs)

    def wait_for(self, future: Future[Any]) -> None:
        """Wait until a task is done, until there may be room for another, or for `ASK_SECONDS`."""
        wait([future], ASK_SECONDS)

    def stop_tasks(self) -> None:
        """Ask the running tasks to stop."""

    def abandon(self) -> None:
        """Stop waiting for any task."""
        self.abandoned = True

    def end(self) -> None:
        """Shut the executor down, and wait for running tasks unless they were abandoned."""
        self.stop_tasks()
        # After workers were killed, the executor fails each task itself, and raises for one that was cancelled.
        self.shutdown(wait=not self.abandoned, cancel_futures=not self.abandoned)


def _has_room(held: int, jobs: int) -> bool:
    return held < AHEAD * max(jobs, 1)


class _Starvation:
    """Notifies executors of processes when a thread of the program died because memory ran out.

    An executor starts a thread inside a thread. If there is no memory for it, the outer one dies with the exception,
    and its tasks would never finish. The exception does not show whose thread it was, so all executors stop.
    """

    def __init__(self) -> None:
        self._executors: set[Stoppable] = set()
        self._hook = self._before = threading.excepthook

    def watch(self, executor: Stoppable) -> None:
        """Start watching for an executor."""
        if not self._executors:
            self._install(threading.excepthook)
        self._executors.add(executor)

    def _install(self, before: Callable[[threading.ExceptHookArgs], object]) -> None:
        def note(failed: threading.ExceptHookArgs) -> None:
            if not self._executors or failed.exc_value is None or starvation(failed.exc_value) is None:
                before(failed)
                return
            for executor in list(self._executors):
                executor.starved = failed.exc_value

        self._before, self._hook, threading.excepthook = before, note, note

    def leave(self, executor: Stoppable) -> None:
        """Stop watching for an executor; after the last one, the program's own hook is restored."""
        self._executors.discard(executor)
        if not self._executors and threading.excepthook is self._hook:
            threading.excepthook = self._before


_starvation = _Starvation()


class _OneThread(ThreadPoolExecutor, Stoppable):
    """One thread of this process. A task that is abandoned runs on until the process ends."""

    def __init__(self) -> None:
        self._bell = Event()
        super().__init__(1, initializer=setattr, initargs=(_own, "stop", self._bell.is_set))

    def stop_tasks(self) -> None:
        self._bell.set()

    def abandon(self) -> None:
        super().abandon()
        _given_up.append(self)


class _Processes(ProcessPoolExecutor, Stoppable):
    """Our own worker processes. Their tasks poll a pipe that is never read, and stop as soon as a byte is in it."""

    def __init__(self, jobs: int, prepare: Callable[[], object]) -> None:
        with starting():
            self._theirs, self._bell = CONTEXT.Pipe(duplex=False)
        super().__init__(jobs, mp_context=CONTEXT, initializer=begin_worker, initargs=(prepare, self._theirs))
        _starvation.watch(self)

    def submit(self, function: Callable[..., Any], /, *arguments: Any, **names: Any) -> Future[Any]:
        with starting():
            return super().submit(function, *arguments, **names)

    def stop_tasks(self) -> None:
        # If a worker is killed, Python 3.11 fails each future that it still holds, and its thread dies at the first one
        # that was cancelled. So these are replaced.
        for item in list(self._pending_work_items.values()):
            if item.future.cancelled():
                item.future = Future()
        with suppress(OSError):
            self._bell.send_bytes(b"!")

    def abandon(self) -> None:
        super().abandon()
        # Not all children of this process: the caller may have processes of its own.
        for worker in list((self._processes or {}).values()):
            worker.kill()

    def end(self) -> None:
        super().end()
        _starvation.leave(self)
        self._theirs.close()
        self._bell.close()


# Executors whose thread was abandoned: Python would wait for it at exit.
_given_up: list[Executor] = []


def has_given_up() -> bool:
    """Return whether a thread of this process may still run an abandoned task."""
    return bool(_given_up)


@contextmanager
def starting() -> Iterator[None]:
    """Block signals while processes are started, so that none kills a child before it ignores them.

    `timeout` and systemd signal the whole process group, which may reach a child before its first line of Python runs.
    Children inherit the block, and the signals stay pending.

    Raises:
        NoSpaceError: Memory, processes or open files ran out.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    try:
        # With the first process, Python starts its resource tracker and then unblocks the signals; so start it before.
        resource_tracker.ensure_running()
        signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
        yield
    except (OSError, MemoryError, RuntimeError) as error:
        starved = starvation(error)
        if starved is None:
            raise
        raise starved from error
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _lost_worker() -> NoSpaceError:
    return NoSpaceError(
        "A worker process was killed or could not start, most likely for want of memory or open files. Run it again"
        " with fewer --jobs, or raise the limits (ulimit -v, ulimit -n)."
    )


def spawn(target: Callable[..., object], *arguments: object) -> multiprocessing.process.BaseProcess:
    """Start a process that ends when its parent dies, however it dies; arguments are picklable (sockets are, too)."""
    process = CONTEXT.Process(target=_run_spawned, args=(target, arguments))
    process.start()
    return process


def _run_spawned(target: Callable[..., object], arguments: tuple[object, ...]) -> None:
    Thread(target=_die_with_parent, daemon=True).start()
    target(*arguments)


def begin_worker(prepare: Callable[[], object] = never, bell: Connection | None = None) -> None:
    """Prepare a new worker process: ignore signals, set the stop signal, end with the parent, and call `prepare`."""
    global _worker_stop
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGINT, signal.SIGTERM))
    if bell is not None:
        _worker_stop = partial(bell.poll, 0)
    # Tasks make many small objects and hardly any cycles. With its default threshold of 700 objects, the garbage
    # collector took a tenth of a worker's time. `freeze` keeps it from looking at what was imported.
    gc.freeze()
    gc.set_threshold(100_000)
    Thread(target=_die_with_parent, daemon=True).start()
    with suppress(ArchiveError):
        prepare()


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def map_ordered(
    executor: Executor, function: Callable[[T], R], tasks: Iterable[T], *, jobs: int, stop: Stop = never
) -> Iterator[R]:
    """Apply a function to tasks in parallel and yield the results in the tasks' order.

    At most `AHEAD` tasks a worker are drawn and held at a time. Once `stop` returns true, no further task is drawn, and
    running tasks are asked to stop (see `task_stop`). Tasks that have not ended after `GRACE_SECONDS` are abandoned:
    their results are not yielded.

    Args:
        executor: Any executor; with processes, function and tasks must be picklable.
        function: Called with one task.
        tasks: Drawn as room comes free, from the calling thread.
        jobs: How many workers the executor has; 0 counts as 1.
        stop: Asked before each task is drawn, and while one is waited for.

    Raises:
        NoSpaceError: A worker was killed from outside, which the system does when memory runs out.
    """
    running: deque[Future[R]] = deque()
    source = iter(tasks)
    more = True
    ending = _Ending(executor, stop)
    has_room = executor.has_room if isinstance(executor, Stoppable) else _has_room
    try:
        while True:
            while more and has_room(len(running), jobs) and not stop():
                try:
                    running.append(executor.submit(function, next(source)))
                except StopIteration:
                    more = False
            if more and stop():
                # From the back, so that no gap is left in the order.
                while running and running[-1].cancel():
                    running.pop()
            if not running:
                return
            if not ending.wait_for(running[0]):
                running.clear()
                return
            if running[0].done():
                yield running.popleft().result()
    except BrokenExecutor as error:
        raise _lost_worker() from error
    except KeyboardInterrupt:
        running.clear()  # the workers are about to be killed
        raise
    finally:
        for future in running:
            future.cancel()


class _Ending:
    """Waits for results; after the stop signal, for `GRACE_SECONDS` at most."""

    def __init__(self, executor: Executor, stop: Stop) -> None:
        self._executor = executor
        self._stop = stop
        self._deadline: float | None = None

    def wait_for(self, future: Future[Any]) -> bool:
        """Wait briefly for a task, and return whether to keep waiting for it."""
        if future.done():
            return True
        if self._deadline is None and self._stop():
            self._deadline = time.monotonic() + GRACE_SECONDS
            if isinstance(self._executor, Stoppable):
                self._executor.stop_tasks()
        if self._deadline is not None and time.monotonic() > self._deadline:
            if isinstance(self._executor, Stoppable):
                self._executor.abandon()
            return False
        if not isinstance(self._executor, Stoppable):
            wait([future], ASK_SECONDS)
            return True
        self._executor.wait_for(future)
        if self._executor.starved is not None:
            self._executor.abandon()
            raise _lost_worker() from self._executor.starved
        return True
