"""The workers of a running Dask cluster instead of worker processes.

A worker receives the name of a function of this package, and a task of addresses, keys and digests: no open handle, and
no credentials, of which each worker has its own. The catalog stays with the command.

A worker gets tasks only after it has proved that it runs the same version and sees the same store and target; so each
task names the workers that have. If a worker dies, Dask gives its task to another of them.
"""

from __future__ import annotations

import logging
import pickle
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor, Future, InvalidStateError
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from functools import partial
from secrets import token_hex
from threading import Event, RLock, Thread
from typing import Any, NamedTuple

from craftkit_archive import __version__
from craftkit_archive.errors import ArchiveError, RemoteError, RequestError, install_hint
from craftkit_archive.overriding import override
from craftkit_archive.parallel.pool import AHEAD, ASK_SECONDS, Stoppable, processes, stopped_by

CONNECT_SECONDS = 10.0
PROOF_SECONDS = 60.0
# How often a command looks for workers that joined or left, and how long it waits for a worker when all have left.
WATCH_SECONDS = 1.0
WORKERLESS_SECONDS = 60.0
CLOSE_SECONDS = 5.0
# For each thread, one task runs and one waits at the worker, so that no thread waits for the command.
TASKS_A_THREAD = 2

# A context manager, open while a worker is asked: the function that the worker calls to prove that it sees the same
# places as this machine.
Proof = Callable[[], AbstractContextManager[Callable[[], object]]]


class WorkerState(NamedTuple):
    """The state of a worker.

    Attributes:
        address: Its address, as Dask writes it.
        threads: How many tasks it runs at a time.
        problem: Why it cannot be used; None if it can.
    """

    address: str
    threads: int
    problem: ArchiveError | None


def prove_by(task: Callable[[], object]) -> Proof:
    """Make a proof that needs no preparation."""
    return lambda: nullcontext(task)


@contextmanager
def workers(cluster: Cluster | None, jobs: int, setup: Callable[[], Callable[[], object]]) -> Iterator[Executor]:
    """Yield the cluster, or, without one, `processes` of this machine, which begin by calling what `setup` returns."""
    if cluster is not None:
        yield cluster
        return
    with processes(jobs, setup()) as executor:
        yield executor


def details_of(cluster: Cluster | None) -> dict[str, Any]:
    """Return the details about a cluster for a summary; empty without a cluster."""
    return {} if cluster is None else {"cluster": cluster.details()}


@contextmanager
def clustered(address: str | None, jobs: int | None, proof: Proof) -> Iterator[Cluster | None]:
    """Yield an executor of the workers of a cluster, or None without an address.

    Args:
        address: Of the scheduler, such as `tcp://scheduler:8786`.
        jobs: How many tasks are in flight at a time; None for `TASKS_A_THREAD` for each thread of the cluster, as
            workers join and leave.
        proof: What each worker has to prove before it gets a task, also one that joins later.

    Raises:
        RequestError: Dask is not installed, the address is not valid, or a worker runs another version.
        RemoteError: The scheduler cannot be reached, or has no workers.
        ArchiveError: A worker's proof failed; the error is the worker's.
    """
    if address is None:
        yield None
        return
    with _connected(address) as client:
        cluster = Cluster(client, address, jobs, proof)
        try:
            cluster.begin()
            yield cluster
        except KeyboardInterrupt:
            cluster.abandon()
            raise
        finally:
            cluster.end()


def survey(address: str, proof: Proof) -> list[WorkerState]:
    """Ask each worker of a cluster for its version and a proof, and return the results.

    Raises:
        RequestError: Dask is not installed, or the address is not valid.
        RemoteError: The scheduler cannot be reached.
    """
    with _connected(address) as client:
        return _examine(client, _threads(client, address), proof)


@contextmanager
def _connected(address: str) -> Iterator[Any]:
    try:
        import dask
        from distributed import Client
        from distributed.comm.addressing import parse_address
        from distributed.comm.registry import get_backend
    except ImportError as error:
        raise RequestError(f"A cluster needs Dask, which is not installed. {install_hint('cluster')}") from error
    try:
        get_backend(parse_address(address)[0])  # before a client is made, which would try it by itself at its end
    except ValueError as error:
        raise RequestError(
            f"{address} is not the address of a Dask scheduler. Write --cluster tcp://host:8786."
        ) from error
    # Dask logs lost connections; the error that ends the command reports them once.
    logger = logging.getLogger("distributed")
    before = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        try:
            client: Any = Client(address, timeout=CONNECT_SECONDS, set_as_default=False)  # type: ignore[no-untyped-call]
        except OSError as error:  # a TimeoutError too
            raise RemoteError(
                f"Cannot reach the scheduler {address}. Start it with `dask scheduler`, or correct --cluster."
            ) from error
        try:
            # The task of an export's volume contains its manifests, and Dask warns about tasks larger than 10 MB.
            with dask.config.set({"distributed.admin.large-graph-warning-threshold": "1 GiB"}):
                yield client
        finally:
            with suppress(OSError, RuntimeError, TimeoutError):
                client.close(timeout=CLOSE_SECONDS)
    finally:
        logger.setLevel(before)


def _threads(client: Any, address: str) -> dict[str, int]:
    """Return the threads of each worker that is connected to the scheduler.

    Raises:
        RemoteError: The connection to the scheduler is lost.
    """
    try:
        return dict(client.nthreads())
    except (OSError, RuntimeError, TimeoutError, AttributeError) as error:  # AttributeError: it was closing just then
        raise _lost_scheduler(address) from error


def _lost_scheduler(address: str) -> RemoteError:
    return RemoteError(
        f"The scheduler {address} has gone. What was recorded until then stays: start it, then run the command again."
    )


def _examine(client: Any, threads: Mapping[str, int], proof: Proof) -> list[WorkerState]:
    """Compare the versions of workers, then have those with the right one prove what they see."""
    workers = list(threads)
    # By a built-in function: a worker with another version may lack ours.
    version = "__import__('craftkit_archive').__version__"
    versions = client.run(eval, version, workers=workers, on_error="return") if workers else {}
    problems = {worker: _wrong_version(worker, versions.get(worker)) for worker in workers}
    right = [worker for worker, problem in problems.items() if problem is None]
    with proof() as task:
        packed = _packed(task)
        # As tasks, not by `run`, which blocks the worker's event loop and so its heartbeat while the network is slow.
        asked = {worker: client.submit(pickle.loads, packed, workers=[worker], pure=False) for worker in right}
        for worker, future in asked.items():
            problems[worker] = _unproved(worker, future)
    return [WorkerState(worker, threads[worker], problems[worker]) for worker in workers]


class _Call:
    """A function call that is made when this is unpickled; the result takes the object's place.

    The scheduler unpickles the tasks that it is given, and would need this package for ours. Bytes it passes on as is.
    """

    def __init__(self, function: Callable[..., object], arguments: tuple[object, ...]) -> None:
        self._parts = function, arguments

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self._parts


def _packed(function: Callable[..., object], *arguments: object) -> bytes:
    return pickle.dumps(_Call(function, arguments), protocol=pickle.HIGHEST_PROTOCOL)


def _wrong_version(worker: str, version: object) -> ArchiveError | None:
    if version == __version__:
        return None
    has = f"runs craftkit-archive {version}" if isinstance(version, str) else "cannot import craftkit-archive"
    return RequestError(f"The worker {worker} {has}, and this is {__version__}. Install the same version there.")


def _unproved(worker: str, future: Any) -> ArchiveError | None:
    from dask.utils import typename
    from distributed import CancelledError

    try:
        error = future.exception(timeout=PROOF_SECONDS)
    except (OSError, CancelledError) as failure:  # a TimeoutError too
        error = failure
    if error is None:
        return None
    if not isinstance(error, ArchiveError):
        return RemoteError(f"The worker {worker} did not answer ({typename(type(error))}: {error}). Look at its log.")
    return type(error)(f"The worker {worker} cannot work on this archive. {error}")


class _UnderWay:
    """A task that is not done: its call, the workers that it may run on, and Dask's future for it."""

    def __init__(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        self.function = function
        self.arguments = arguments
        self.workers: frozenset[str] = frozenset()
        self.sent: Future[Any] | None = None


class _RemoteFuture(Future[Any]):
    """The future of a task; it cannot be cancelled once a worker may have begun it."""

    def __init__(self, cluster: Cluster) -> None:
        super().__init__()
        self._cluster = cluster

    def cancel(self) -> bool:
        if self._cluster.may_have_begun(self) or not super().cancel():
            return False
        self._cluster.forget(self)
        return True


class Cluster(Stoppable):
    """The workers of a cluster as an executor."""

    def __init__(self, client: Any, address: str, jobs: int | None, proof: Proof) -> None:
        self._client = client
        self._address = address
        self._jobs = jobs
        self._proof = proof
        self._run = token_hex(8)
        self._lock = RLock()  # reentrant: Dask calls back in the submitting thread if the task is done already
        self._moved, self._over = Event(), Event()
        self._fit: dict[str, int] = {}
        self._unfit: dict[str, ArchiveError] = {}
        self._lost = 0
        self._most = 0
        self._tasks: dict[Future[Any], _UnderWay] = {}
        self._watcher = Thread(target=self._watch, name="cluster", daemon=True)

    def begin(self) -> None:
        """Check that each worker can be used, and start to watch for changes.

        Raises:
            ArchiveError: One cannot, or there are none.
        """
        threads = _threads(self._client, self._address)
        if not threads:
            raise RemoteError(f"The cluster at {self._address} has no workers. Start some with `dask worker`.")
        for worker in _examine(self._client, threads, self._proof):
            if worker.problem is not None:
                raise worker.problem
            self._fit[worker.address] = worker.threads
        self._most = len(self._fit)
        self._watcher.start()

    @property
    def size(self) -> int:
        """How many workers there are now; at least 1."""
        return max(len(self._fit), 1)

    def details(self) -> dict[str, Any]:
        """Return the details for the summary: scheduler, most workers at a time, workers lost, workers left out."""
        left_out = [{"worker": worker, "problem": str(problem)} for worker, problem in self._unfit.items()]
        return {"scheduler": self._address, "workers": self._most, "lost": self._lost, "left_out": left_out}

    # --- the executor

    @override
    def submit(self, function: Callable[..., Any], /, *arguments: Any, **_names: Any) -> Future[Any]:
        future = _RemoteFuture(self)
        with self._lock:
            self._tasks[future] = task = _UnderWay(function, arguments)
            if self._fit:
                self._send(future, task)
        return future

    def _send(self, future: Future[Any], task: _UnderWay) -> None:
        """Submit a task for the workers that can be used now; the caller holds the lock."""
        task.workers = frozenset(self._fit)
        # Not pure: Dask runs equal pure tasks only once.
        executor = self._client.get_executor(pure=False, workers=list(self._fit))
        task.sent = executor.submit(pickle.loads, _packed(_do, self._run, task.function, *task.arguments))
        task.sent.add_done_callback(partial(self._settle, future, task))

    def _settle(self, future: Future[Any], task: _UnderWay, sent: Future[Any]) -> None:
        """Pass on the result of a task."""
        with self._lock:
            if task.sent is not sent or self._tasks.pop(future, None) is None:
                return  # it was given to other workers in the meantime
        error = _lost_scheduler(self._address) if sent.cancelled() else sent.exception()
        with suppress(InvalidStateError):  # it was cancelled
            if error is None:
                future.set_result(sent.result())
            else:
                future.set_exception(self._translated(error))
        self._moved.set()

    def _translated(self, error: BaseException) -> BaseException:
        from distributed import CancelledError
        from distributed.scheduler import KilledWorker

        if isinstance(error, KilledWorker):
            return RemoteError(
                "The same task has killed several workers, most likely for want of memory. Give them more, or start"
                " them with fewer threads, then run the command again."
            )
        return _lost_scheduler(self._address) if isinstance(error, CancelledError) else error

    def may_have_begun(self, future: Future[Any]) -> bool:
        """Return whether a task may be running: the oldest ones may, as many as the cluster has threads."""
        with self._lock:
            begun = list(self._tasks)[: sum(self._fit.values())]
        return not self.abandoned and future in begun

    def forget(self, future: Future[Any]) -> None:
        """Withdraw a task."""
        with self._lock:
            task = self._tasks.pop(future, None)
        if task is not None and task.sent is not None:
            task.sent.cancel()

    @override
    def has_room(self, held: int, _jobs: int) -> bool:
        # At least one, even without a worker: it waits for the next one to join.
        limit = self._jobs or max(TASKS_A_THREAD * sum(self._fit.values()), 1)
        return len(self._tasks) < limit and held < AHEAD * limit

    @override
    def wait_for(self, _future: Future[Any]) -> None:
        # Any task that is done makes room, not only this one.
        self._moved.wait(ASK_SECONDS)
        self._moved.clear()

    @override
    def stop_tasks(self) -> None:
        # In a thread, so that a worker that does not answer cannot delay the end.
        Thread(target=self._ring, daemon=True).start()

    def _ring(self) -> None:
        with suppress(OSError, RuntimeError, TimeoutError):  # the connection is lost, or being closed
            self._client.run(_end_run, self._run, on_error="ignore")

    @override
    def end(self) -> None:
        self._over.set()
        with self._lock:
            left = [task.sent for task in self._tasks.values() if task.sent is not None]
            self._tasks.clear()
        if left:
            self.stop_tasks()
        for sent in left:
            sent.cancel()
        if self._watcher.is_alive() and not self.abandoned:
            self._watcher.join(CLOSE_SECONDS)

    # --- who is there

    def _watch(self) -> None:
        began_without = None
        while not self._over.wait(WATCH_SECONDS):
            try:
                self._tend()
            except ArchiveError as error:
                self._fail(error)
                return
            now = time.monotonic()
            began_without = None if self._fit else began_without or now
            if began_without is not None and now - began_without > WORKERLESS_SECONDS:
                self._fail(RemoteError(f"The cluster at {self._address} has lost all its workers. Look at their logs."))
                return

    def _tend(self) -> None:
        """Add workers that joined, drop those that left, and give their tasks to others."""
        threads = _threads(self._client, self._address)
        new = {worker: count for worker, count in threads.items() if worker not in self._fit | self._unfit}
        try:
            states = _examine(self._client, new, self._proof) if new else []
        except OSError as error:
            raise _lost_scheduler(self._address) from error
        with self._lock:
            gone = self._fit.keys() - threads.keys()
            self._lost += len(gone)
            self._fit = {worker: count for worker, count in self._fit.items() if worker not in gone}
            for state in states:
                if state.problem is None:
                    self._fit[state.address] = state.threads
                else:
                    self._unfit[state.address] = state.problem
            self._most = max(self._most, len(self._fit))
            if not self._fit:
                return
            for future, task in list(self._tasks.items()):
                if not task.workers & self._fit.keys():
                    before = task.sent
                    self._send(future, task)
                    if before is not None:
                        before.cancel()
        if new:
            self._moved.set()

    def _fail(self, error: ArchiveError) -> None:
        """Fail all tasks with an error."""
        with self._lock:
            futures = list(self._tasks)
            self._tasks.clear()
        for future in futures:
            with suppress(InvalidStateError):
                future.set_exception(error)
        self._moved.set()


# --- at a worker -----------------------------------------------------------------------------------------------------

_ended: set[str] = set()


def _do(run: str, function: Callable[..., Any], *arguments: Any) -> Any:
    """Run a task, which is asked to stop when its command stops."""
    with stopped_by(partial(_ended.__contains__, run)):
        return function(*arguments)


def _end_run(run: str) -> None:
    _ended.add(run)
