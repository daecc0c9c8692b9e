"""A stream in batches, and the signal that stops one; needs nothing that takes long to import."""

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")
Stop = Callable[[], bool]


def never() -> bool:
    """Answer "go on": the stop signal of work that nobody can interrupt."""
    return False


def in_batches(
    items: Iterable[T], size: int, *, weigh: Callable[[T], int] | None = None, limit: int = 0
) -> Iterator[list[T]]:
    """Cut a stream into lists of `size`, or, with `weigh`, of a weight of about `limit`; the last may be shorter."""
    if weigh is None:
        iterator = iter(items)
        while batch := list(islice(iterator, size)):
            yield batch
        return
    batch, weight = [], 0
    for item in items:
        batch.append(item)
        weight += weigh(item)
        if len(batch) == size or weight >= limit:
            yield batch
            batch, weight = [], 0
    if batch:
        yield batch
