"""Bounded parallel work over any `concurrent.futures.Executor`, and the progress of it."""

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

AHEAD = 4

# How often a stop is asked for while something is waited for, and how long what is under way then may take.
ASK_SECONDS = 0.2
GRACE_SECONDS = 5.0


def default_jobs() -> int:
    """Count the processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class StoppedError(Exception):
    """The work is to end now: what it was busy with is not recorded."""


_own = local()

# What the tasks of a worker process ask; a thread may have something of its own.
_worker_stop: Stop = never


def task_stop() -> Stop:
    """Return what says whether the task of this thread is to end: long ones ask it between their items."""
    stop: Stop | None = getattr(_own, "stop", None)
    return stop or _worker_stop


def until(stop: Stop, items: Iterable[T]) -> Iterator[T]:
    """Pass items on until the work is to end.

    Raises:
        StoppedError: It is to.
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
    """Say how many processes are worth starting: each costs as much as some 100 files, or 64 MB; 0 for none."""
    worth = max(count // 100, size_bytes // (64 << 20))
    return 0 if min(worth, jobs) < 2 else min(worth, jobs)


@contextmanager
def processes(jobs: int, prepare: Callable[[], object] = never) -> Iterator[Executor]:
    """Make an executor of `jobs` processes; with 0, a thread of this one.

    The workers inherit no connection, leave signals to their parent, and end when it dies, however it dies. At the end
    their work is waited for, except after a `KeyboardInterrupt`, which ends them at once.

    Args:
        jobs: How many; they start at once, while the caller goes on.
        prepare: What each begins with, such as what takes long to import; what it raises is left to the tasks.
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
    """An executor whose tasks can be asked to end (see `task_stop`), and given up if they do not."""

    abandoned = False
    starved: BaseException | None = None

    def has_room(self, held: int, jobs: int) -> bool:
        """Say whether one more task may be submitted while `held` are kept, finished or not."""
        return _has_room(held, jobs)

    def wait_for(self, future: Future[Any]) -> None:
        """Wait until a task is done, until there may be room for another, or for `ASK_SECONDS`."""
        wait([future], ASK_SECONDS)

    def stop_tasks(self) -> None:
        """Ask the tasks that are under way to end."""

    def abandon(self) -> None:
        """Wait for no task any more."""
        self.abandoned = True

    def end(self) -> None:
        """Let go of the workers; wait for those that still work, unless they were given up."""
        self.stop_tasks()
        # Where workers were killed, the executor ends each task itself, and fails at one that was cancelled.
        self.shutdown(wait=not self.abandoned, cancel_futures=not self.abandoned)


def _has_room(held: int, jobs: int) -> bool:
    return held < AHEAD * max(jobs, 1)


class _Starvation:
    """Tells executors of processes that a thread of the program died for want of memory.

    An executor starts a thread inside a thread. If there is no memory for it, the outer one dies with the exception,
    and nobody would ever finish the tasks. The exception does not say whose thread it was, so all executors stop.
    """

    def __init__(self) -> None:
        self._executors: set[Stoppable] = set()
        self._hook = self._before = threading.excepthook

    def watch(self, executor: Stoppable) -> None:
        """Begin to watch for an executor."""
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
        """Watch for an executor no longer; the program gets its own hook back after the last one."""
        self._executors.discard(executor)
        if not self._executors and threading.excepthook is self._hook:
            threading.excepthook = self._before


_starvation = _Starvation()


class _OneThread(ThreadPoolExecutor, Stoppable):
    """A thread of this process. What it is busy with when it is given up goes on until the process ends."""

    def __init__(self) -> None:
        self._bell = Event()
        super().__init__(1, initializer=setattr, initargs=(_own, "stop", self._bell.is_set))

    def stop_tasks(self) -> None:
        self._bell.set()

    def abandon(self) -> None:
        super().abandon()
        _given_up.append(self)


class _Processes(ProcessPoolExecutor, Stoppable):
    """Our own processes. They watch a pipe that is never read, and end as soon as something is in it."""

    def __init__(self, jobs: int, prepare: Callable[[], object]) -> None:
        with starting():
            self._theirs, self._bell = CONTEXT.Pipe(duplex=False)
        super().__init__(jobs, mp_context=CONTEXT, initializer=begin_worker, initargs=(prepare, self._theirs))
        _starvation.watch(self)

    def submit(self, function: Callable[..., Any], /, *arguments: Any, **names: Any) -> Future[Any]:
        with starting():
            return super().submit(function, *arguments, **names)

    def stop_tasks(self) -> None:
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


# Threads that were given up: Python would wait for them at its end.
_given_up: list[Executor] = []


def has_given_up() -> bool:
    """Say whether a thread of this process still works on something that was given up."""
    return bool(_given_up)


@contextmanager
def starting() -> Iterator[None]:
    """Start processes that no signal ends before they can ignore it; report what keeps them from starting.

    A signal to the whole process group, as `timeout` and systemd send it, would come before the first line of Python
    runs there. A blocked one is kept back, in the children too.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    try:
        # With the first process Python starts one of its own, and lets signals through again after that.
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
    """Start a process that ends when its parent dies, however that dies; arguments are picklable, sockets too."""
    process = CONTEXT.Process(target=_run_spawned, args=(target, arguments))
    process.start()
    return process


def _run_spawned(target: Callable[..., object], arguments: tuple[object, ...]) -> None:
    Thread(target=_die_with_parent, daemon=True).start()
    target(*arguments)


def begin_worker(prepare: Callable[[], object] = never, bell: Connection | None = None) -> None:
    """Prepare a process that was just started for its tasks."""
    global _worker_stop
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGINT, signal.SIGTERM))
    if bell is not None:
        _worker_stop = partial(bell.poll, 0)
    # Tasks make many small objects and hardly a cycle: looking for them after each 700 would take a tenth of the time.
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

    At most `AHEAD` tasks a worker are drawn and held at a time. When `stop` answers true no further task is drawn, and
    those under way are asked to end (see `task_stop`). What is not finished some seconds later is given up: its result
    never comes.

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
                # From the back, so that what is left is in order.
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
        running.clear()  # its workers are about to be killed
        raise
    finally:
        for future in running:
            future.cancel()


class _Ending:
    """Waits for results, and not for ever once the work is to stop."""

    def __init__(self, executor: Executor, stop: Stop) -> None:
        self._executor = executor
        self._stop = stop
        self._deadline: float | None = None

    def wait_for(self, future: Future[Any]) -> bool:
        """Wait a moment for a task, and say whether it is worth waiting on."""
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
