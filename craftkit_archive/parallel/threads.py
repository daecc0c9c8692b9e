"""Threads for work that waits for a network: ahead of the reader, in lanes, or in the background."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from functools import lru_cache, partial
from threading import Event, Thread

from craftkit_archive.parallel.batches import R, Stop, T
from craftkit_archive.parallel.pool import StoppedError, stopped_by


def prefetch(function: Callable[[T], R], items: Iterable[T], count: int) -> Iterator[tuple[T, Callable[[], R]]]:
    """Yield each item with a callable that waits for `function(item)`; threads call it for `count` items ahead.

    This is for work that waits for a network: while one answer is handled, others are on their way. With a count of 1,
    the function is called when its result is asked for.
    """
    if count == 1:
        for item in items:
            yield item, partial(function, item)
        return
    begun: deque[tuple[T, Callable[[], R]]] = deque()
    for item in items:
        begun.append((item, _lanes(count).submit(function, item).result))
        if len(begun) > count:
            yield begun.popleft()
    yield from begun


def map_threads(function: Callable[[T], R], items: Iterable[T], lanes: int, *, stop: Stop | None = None) -> list[R]:
    """Apply a function to items in threads of this process, `lanes` at a time; return the results in order.

    This is for work that waits for a network; with one lane, everything is done in the calling thread. If a call
    raises, no further one is begun, and the exception is raised when the running calls have ended.

    Args:
        function: Called with one item. It may ask `task_stop`, and raise `StoppedError`.
        items: Drawn one by one.
        lanes: How many calls at a time.
        stop: Asked before each item; once it returns true, only the results of the items before are returned.
    """
    if stop is not None:
        return _stoppable_lanes(function, items, lanes, stop)
    if lanes == 1:
        return list(map(function, items))
    waiting = deque(enumerate(items))
    done: dict[int, R] = {}

    def work() -> None:
        # Each lane takes the next item itself: handing each over as a future would take longer than a small item does.
        try:
            while True:
                try:
                    number, item = waiting.popleft()
                except IndexError:
                    return
                done[number] = function(item)
        except BaseException:
            waiting.clear()
            raise

    running = [_lanes(lanes).submit(work) for _ in range(min(lanes, len(waiting)))]
    wait(running)
    for lane in running:
        lane.result()
    return [done[number] for number in range(len(done))]


def _stoppable_lanes(function: Callable[[T], R], items: Iterable[T], lanes: int, stop: Stop) -> list[R]:
    def one(item: T) -> R | StoppedError:
        if stop():
            return StoppedError()
        try:
            with stopped_by(stop):
                return function(item)
        except StoppedError as stopped:
            return stopped

    results: list[R] = []
    for result in map_threads(one, items, lanes):
        if isinstance(result, StoppedError):
            break
        results.append(result)
    return results


# Cached, so that threads are reused and not started again for each batch.
@lru_cache(maxsize=4)
def _lanes(lanes: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(lanes, thread_name_prefix="lane")


@contextmanager
def background(function: Callable[[Stop], R]) -> Iterator[Callable[[], R]]:
    """Call a function in a thread, and yield a function that waits for its result.

    At the end of the block the call is asked to stop, and waited for up to a second, because a network may block it.
    """
    over = Event()
    result: Future[R] = Future()

    def call() -> None:
        try:
            result.set_result(function(over.is_set))
        except BaseException as error:  # noqa: BLE001 - it is raised where the result is asked for
            result.set_exception(error)

    thread = Thread(target=call, daemon=True)
    thread.start()
    try:
        yield result.result
    finally:
        over.set()
        thread.join(1)
