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


@pytest.fixture(scope="session")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """Return the one Chromium of this run; see `browser`."""
    with Browser(needs("chromium"), tmp_path_factory.mktemp("chromium")) as chromium:
        yield chromium


@pytest.fixture
def browser(chromium: Browser) -> Iterator[Browser]:
    """Return a headless Chromium that knows nothing yet; whatever its page complains of fails the test."""
    chromium.renew()
    yield chromium
    assert chromium.problems == []
