"""Fixtures that more than one file uses."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from craftkit_archive.archive import Archive
from tests.browser import Browser
from tests.worlds import World, fill, needs


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    """Return an empty archive."""
    return Archive.create(tmp_path / "archive")


@pytest.fixture
def world(tmp_path: Path) -> World:
    """Return an archive with five fetched renders."""
    return fill(tmp_path)


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    """Return a headless Chromium of its own; whatever its page complains of fails the test."""
    with Browser(needs("chromium"), tmp_path / "browser") as chromium:
        yield chromium
        assert chromium.problems == []
