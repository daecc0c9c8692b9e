"""Bounded parallel work, and its progress."""

import io
import itertools
import os
import re
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import suppress
from multiprocessing import resource_tracker

import pytest
from hypothesis import given
from hypothesis import strategies as st

from craftkit_archive.errors import NoSpaceError, RequestError
from craftkit_archive.parallel import pool, progress
from craftkit_archive.parallel.batches import Stop, in_batches
from craftkit_archive.parallel.pool import AHEAD, StoppedError, map_ordered, processes, task_stop, until
from craftkit_archive.parallel.progress import show_progress
from craftkit_archive.parallel.threads import background, map_threads, prefetch
from craftkit_archive.records import Plan, Progress, Record
from craftkit_archive.values import format_duration, format_size


def double(number: int) -> int:
    """Double a number, in whatever process."""
    return 2 * number


def process_id(_number: int) -> int:
    """Say where this runs."""
    return os.getpid()


@pytest.mark.parametrize("make", [lambda: processes(0), lambda: processes(2), lambda: ThreadPoolExecutor(3)])
def test_results_come_in_the_order_of_the_tasks(make: object) -> None:
    assert callable(make)
    with make() as executor:
        assert list(map_ordered(executor, double, range(50), jobs=2)) == [2 * number for number in range(50)]


@pytest.mark.parametrize("waiting", [0, 6])
def test_workers_that_are_given_up_say_nothing(monkeypatch: pytest.MonkeyPatch, waiting: int) -> None:
    """An exception in a thread of the executor's would fail this test."""
    monkeypatch.setattr(pool, "GRACE_SECONDS", 0.2)
    monkeypatch.setattr(pool, "AHEAD", 1 + waiting)
    others = set(threading.enumerate())

    def tasks() -> Iterator[float]:
        for _ in range(1 + waiting):
            time.sleep(0.05)  # so that the executor looks at each, and passes on three; the rest are cancelled
            yield 60.0

    with processes(1) as executor:
        executor.submit(double, 1).result()  # its worker is up
        stop_at = time.monotonic() + 0.5
        assert list(map_ordered(executor, time.sleep, tasks(), jobs=1, stop=lambda: time.monotonic() > stop_at)) == []
    for thread in set(threading.enumerate()) - others:
        thread.join(5)


def test_a_worker_that_is_killed_ends_the_work_although_another_has_nothing_to_do() -> None:
    with pytest.raises(NoSpaceError), processes(2) as executor:  # noqa: PT012 - it must end, too
        list(map_ordered(executor, time.sleep, [0.2] * 4, jobs=2))  # both are up
        assert isinstance(executor, pool._Processes)
        victim = next(iter(executor._processes))
        os.kill(victim, signal.SIGKILL)
        list(map_ordered(executor, time.sleep, [0.2] * 4, jobs=2))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_no_signal_comes_through_while_processes_start(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Python's own helper process, started with the first of ours, unblocks signals when it is up."""
    monkeypatch.setattr(resource_tracker._resource_tracker, "_fd", None)
    with pool.starting():
        resource_tracker.ensure_running()
        assert number in signal.pthread_sigmask(signal.SIG_BLOCK, ())
    assert number not in signal.pthread_sigmask(signal.SIG_BLOCK, ())


def test_a_task_that_asks_ends_early_and_is_counted() -> None:
    """What has come of a task until it was stopped is its result; what waits is not begun, or ends at once."""
    with processes(1) as executor:
        executor.submit(double, 1).result()  # its worker is up
        stop_at = time.monotonic() + 0.5
        done = list(
            map_ordered(executor, _count_until_stopped, [60.0] * 9, jobs=1, stop=lambda: time.monotonic() > stop_at)
        )
    assert 1 <= len(done) <= pool.AHEAD
    assert sum(done) < 10


def _count_until_stopped(most: float) -> float:
    began = time.monotonic()
    with suppress(StoppedError):
        for _ in until(task_stop(), iter(lambda: time.sleep(0.01), 0)):
            assert time.monotonic() - began < most
    return time.monotonic() - began


def test_several_processes_are_other_processes() -> None:
    with processes(2) as executor:
        assert os.getpid() not in set(map_ordered(executor, process_id, range(4), jobs=2))


def test_no_more_tasks_are_drawn_than_are_worked_on() -> None:
    drawn = itertools.count()
    with ThreadPoolExecutor(2) as executor:
        results = map_ordered(executor, double, (next(drawn) for _ in range(1000)), jobs=2)
        for done in range(1, 20):
            next(results)
            assert next(drawn) <= 2 * (done + AHEAD * 2 + 1)
        results.close()  # type: ignore[attr-defined]


def test_a_stop_finishes_what_is_under_way_and_draws_no_more() -> None:
    with ThreadPoolExecutor(2) as executor:
        answers = iter([False] * 5)
        done = list(map_ordered(executor, double, range(1000), jobs=2, stop=lambda: next(answers, True)))
    assert done == [2 * number for number in range(len(done))]
    assert 0 < len(done) <= 5


@pytest.mark.parametrize("lanes", [1, 3, 20])
def test_lanes_keep_the_order_and_share_the_work(lanes: int) -> None:
    assert map_threads(double, range(10), lanes) == [2 * number for number in range(10)]
    together = threading.Barrier(lanes)

    def meet(_number: int) -> int:
        together.wait(5)
        return threading.get_ident()

    assert len(set(map_threads(meet, range(lanes), lanes))) == lanes


@pytest.mark.parametrize("lanes", [1, 3])
def test_an_error_in_a_lane_ends_all_and_is_told(lanes: int) -> None:
    done: list[int] = []

    def fail(number: int) -> None:
        if number == 5:
            raise ValueError("five")
        done.append(number)
        time.sleep(0.01)

    with pytest.raises(ValueError, match="five"):
        map_threads(fail, range(1000), lanes)
    assert len(done) < 20


@given(st.lists(st.integers(), max_size=20), st.integers(1, 8))
def test_what_is_fetched_ahead_comes_in_order_and_never_too_early(items: list[int], count: int) -> None:
    drawn = 0

    def draw() -> Iterator[int]:
        nonlocal drawn
        for item in items:
            drawn += 1
            yield item

    seen = []
    for item, result in prefetch(double, draw(), count):
        seen.append((item, result()))
        assert drawn <= len(seen) + count
    assert seen == [(item, 2 * item) for item in items]


def test_what_is_done_aside_is_told_when_it_is_over() -> None:
    def wait(over: Stop) -> str:
        while not over():
            time.sleep(0.001)
        return "over"

    with background(wait):
        pass
    with background(lambda _over: "done") as result:
        assert result() == "done"
    with pytest.raises(ZeroDivisionError), background(lambda _over: 1 // 0) as failed:
        failed()


def test_workers_begin_with_what_prepares_them_and_outlive_its_failure() -> None:
    with processes(2, prepare=fail_to_prepare) as executor:
        assert list(map_ordered(executor, double, range(4), jobs=2)) == [0, 2, 4, 6]


def fail_to_prepare() -> None:
    """Fail as a worker does that finds its source gone."""
    raise RequestError("not here")


def test_a_stop_leaves_out_what_only_waits() -> None:
    begun: list[int] = []

    def slow(number: int) -> int:
        begun.append(number)
        time.sleep(0.1)
        return number

    with ThreadPoolExecutor(1) as executor:
        done = list(map_ordered(executor, slow, range(100), jobs=1, stop=lambda: bool(begun)))
    assert done == begun
    assert len(done) <= 2


def test_a_consumer_that_leaves_early_leaves_no_task_behind() -> None:
    begun: list[int] = []

    def slow(number: int) -> int:
        begun.append(number)
        time.sleep(0.05)
        return number

    with ThreadPoolExecutor(1) as executor:
        results = map_ordered(executor, slow, range(100), jobs=1)
        next(results)
        results.close()  # type: ignore[attr-defined]
    assert len(begun) <= 3


@given(st.lists(st.integers(0, 20)), st.integers(1, 5), st.integers(1, 30))
def test_heavy_items_make_small_batches(weights: list[int], size: int, limit: int) -> None:
    batches = list(in_batches(weights, size, weigh=lambda weight: weight, limit=limit))
    assert list(itertools.chain(*batches)) == weights
    for batch in batches:
        assert len(batch) <= size
        assert sum(batch[:-1]) < limit


@pytest.mark.parametrize(
    ("count", "size", "jobs", "workers"),
    [(0, 0, 4, 0), (150, 0, 2, 0), (300, 0, 2, 2), (10, 10**9, 2, 2), (10**6, 0, 1, 0), (10**6, 0, 8, 8)],
)
def test_processes_are_started_where_there_is_work_for_them(count: int, size: int, jobs: int, workers: int) -> None:
    assert pool.workers_for(count, size, jobs) == workers


def test_an_error_in_a_task_is_raised() -> None:
    with ThreadPoolExecutor(1) as executor, pytest.raises(ZeroDivisionError):
        list(map_ordered(executor, lambda number: 1 // number, [1, 0, 1], jobs=1))


@given(st.lists(st.integers()), st.integers(1, 5))
def test_batches_are_the_stream_in_pieces(items: list[int], size: int) -> None:
    batches = list(in_batches(items, size))
    assert list(itertools.chain(*batches)) == items
    assert all(len(batch) == size for batch in batches[:-1])


def test_any_executor_will_do() -> None:
    class Immediate(Executor):
        def submit(self, function, /, *arguments, **names):  # type: ignore[no-untyped-def]
            from concurrent.futures import Future

            future = Future()  # type: ignore[var-annotated]
            future.set_result(function(*arguments, **names))
            return future

    assert list(map_ordered(Immediate(), double, range(3), jobs=1)) == [0, 2, 4]


# --- progress --------------------------------------------------------------------------------------------------------


def records(count: int) -> Iterator[Record]:
    yield Plan(count=count)
    for _ in range(count):
        yield Progress(count=1, size_bytes=1000)


def test_plain_progress_is_a_line_now_and_then() -> None:
    clock = itertools.count(0, 5)
    out = io.StringIO()
    passed = list(progress._with_lines(records(100), out, clock=lambda: next(clock)))
    assert passed == list(records(100))
    lines = out.getvalue().splitlines()
    assert "\r" not in out.getvalue()
    assert 10 <= len(lines) <= 20
    assert re.fullmatch(r"6 of 100 \(6%\), 6\.00? kB, \d+ B/s, \d+ \w+ left", lines[0].replace("6 kB", "6.0 kB"))


def test_short_work_shows_nothing_off_a_terminal() -> None:
    out = io.StringIO()
    assert len(list(show_progress(records(100), mode="auto", stream=out))) == 101
    assert out.getvalue() == ""


def test_the_bar_shows_count_bytes_and_what_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("craftkit_archive.parallel.progress.BAR_DELAY_SECONDS", 0)
    out = io.StringIO()
    assert len(list(show_progress(records(100), mode="bar", stream=out))) == 101
    assert "100" in out.getvalue()


def test_no_progress_is_no_output() -> None:
    out = io.StringIO()
    list(show_progress(records(100), mode="none", stream=out))
    assert out.getvalue() == ""


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1 kB"), (86_400, "86.4 kB"), (1.8e9, "1.8 GB"), (5e14, "500 TB")],
)
def test_sizes_are_written_as_people_read_them(size: float, text: str) -> None:
    assert format_size(int(size)) == text


@pytest.mark.parametrize(("seconds", "text"), [(0, "0 s"), (99, "99 s"), (600, "10 min"), (7500, "2 h 05 min")])
def test_durations_are_written_as_people_read_them(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


def test_executors_that_overlap_hear_of_a_lost_thread_and_leave_no_hook(monkeypatch: pytest.MonkeyPatch) -> None:
    own: list[threading.ExceptHookArgs] = []
    monkeypatch.setattr(threading, "excepthook", own.append)
    hook = threading.excepthook

    def fail(error: BaseException) -> None:
        def raises() -> None:
            raise error

        thread = threading.Thread(target=raises)
        thread.start()
        thread.join()

    first, second = processes(1), processes(1)
    one, other = first.__enter__(), second.__enter__()
    fail(ValueError("somebody else's"))
    assert [args.exc_type for args in own] == [ValueError]
    first.__exit__(None, None, None)
    fail(RuntimeError("can't start new thread"))
    assert isinstance(one, pool._Processes)
    assert isinstance(other, pool._Processes)
    assert (one.starved, type(other.starved)) == (None, RuntimeError)
    with pytest.raises(NoSpaceError):
        list(map_ordered(other, time.sleep, [5.0], jobs=1))
    second.__exit__(None, None, None)
    assert threading.excepthook is hook
    fail(RuntimeError("can't start new thread"))
    assert [args.exc_type for args in own] == [ValueError, RuntimeError]
