"""Batches of a stream, and the stop signal of bulk work; imports nothing that takes long to load."""

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")
Stop = Callable[[], bool]


def never() -> bool:
    """Return False: the stop signal of work that is never interrupted."""
    return False


def in_batches(
    items: Iterable[T], size: int, *, weigh: Callable[[T], int] | None = None, limit: int = 0
) -> Iterator[list[T]]:
    """Split a stream into lists of up to `size` items; with `weigh`, a list also ends at a weight of `limit`."""
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
