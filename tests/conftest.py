"""Fixtures that more than one file uses."""

from pathlib import Path

import pytest

from craftkit_archive.archive import Archive
from tests.worlds import World, fill


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    """Return an empty archive."""
    return Archive.create(tmp_path / "archive")


@pytest.fixture
def world(tmp_path: Path) -> World:
    """Return an archive with five fetched renders."""
    return fill(tmp_path)
