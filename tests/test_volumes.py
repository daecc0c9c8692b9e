"""Packed volumes that a worker writes, and what can go wrong at a worker: its mounts, its disk, the names."""

import errno
import os
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from secrets import token_hex
from typing import Any

import pytest

from craftkit_archive.errors import NoSpaceError, StoreOfflineError
from craftkit_archive.export import run as export_run
from craftkit_archive.export.destination import Options
from craftkit_archive.export.run import export_assets
from craftkit_archive.export.volumes import VolumeTask
from craftkit_archive.records import Record, Summary
from craftkit_archive.stores import reach
from craftkit_archive.stores.bucket import bucket_address
from craftkit_archive.verify import run as verify_run
from craftkit_archive.verify.run import verify_assets
from tests.services import BUCKET
from tests.worlds import World, fill, summary_of

SPLIT = Options(split_bytes=1 << 20)
AT_A_WORKER = ((export_run, "run_volume"), (export_run, "run"), (verify_run, "check_assets"))


class Team(ThreadPoolExecutor):
    """A cluster of one worker in this process, so that a test can look over its shoulder."""

    def __init__(self) -> None:
        super().__init__(1)

    def details(self) -> dict[str, Any]:
        """Return nothing."""
        return {}


@pytest.fixture
def world(tmp_path: Path) -> World:
    """Return an archive with five PDFs."""
    return fill(tmp_path)


@pytest.fixture
def bucket(moto: str) -> str:
    """Return the address of an empty place in a bucket."""
    return bucket_address(f"s3://{BUCKET}/{token_hex(8)}", endpoint_url=moto)


def in_it(place: str, name: str) -> str:
    """Return the address of an object there."""
    bare, mark, service = place.partition("?")
    return f"{bare}/{name}{mark}{service}"


@pytest.fixture(autouse=True)
def _team(monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def clustered(address: str | None, *_: object) -> Iterator[Team | None]:
        if address is None:
            yield None
            return
        with Team() as team:
            yield team

    for module in (export_run, verify_run):
        monkeypatch.setattr(module, "clustered", clustered)
    monkeypatch.setattr(reach, "APPEAR_SECONDS", 0)


def exported(world: World, target: str | Path, options: Options = SPLIT) -> Iterator[Record]:
    """Export by a worker of the cluster."""
    return export_assets(world.archive, target, options=options, cluster="tcp://worker")


def export(world: World, target: str | Path, options: Options = SPLIT) -> Summary:
    """Do so to the end."""
    return summary_of(exported(world, target, options))


def before_each_task(monkeypatch: pytest.MonkeyPatch, happens: Callable[[Any], object]) -> None:
    """Let something happen at the worker before it runs a task."""

    def run(real: Callable[[Any], Any], task: Any) -> Any:
        happens(task)
        return real(task)

    for module, function in AT_A_WORKER:
        monkeypatch.setattr(module, function, partial(run, getattr(module, function)))


# --- a worker that does not see what the command sees ----------------------------------------------------------------


def test_a_worker_whose_target_is_another_folder_writes_nothing(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mount that is lost leaves an empty folder, on the worker's own disk."""
    shared = tmp_path / "shared"

    def lose(_: VolumeTask) -> None:
        shared.rename(tmp_path / "away")
        shared.mkdir()

    before_each_task(monkeypatch, lose)
    with pytest.raises(StoreOfflineError, match="Mount the same one on every worker"):
        export(world, shared / "out.zip")
    assert not list(shared.iterdir())


def test_a_worker_makes_no_folder(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shared = tmp_path / "shared"
    before_each_task(monkeypatch, lambda _: shared.rename(tmp_path / "away"))
    with pytest.raises(StoreOfflineError, match="Mount the same one on every worker"):
        export(world, shared / "out.zip")
    assert not shared.exists()


@pytest.mark.parametrize("name", ["out", "out.zip", "out.tar", "verify"])
def test_a_worker_that_lost_the_store_ends_the_command(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """All PDFs seem to be gone at the worker alone: that is no finding, and no gap of an export."""
    (tmp_path / "empty").mkdir()

    def without(real: Callable[[Any], Any], task: Any) -> Any:
        return real(task._replace(store=str(tmp_path / "empty")))

    for module, function in AT_A_WORKER:
        monkeypatch.setattr(module, function, partial(without, getattr(module, function)))
    records = (
        verify_assets(world.archive, cluster="tcp://worker")
        if name == "verify"
        else exported(world, tmp_path / "exports" / name, SPLIT if name != "out" else Options())
    )
    with pytest.raises(StoreOfflineError, match=r"not mounted at .*/empty"):
        summary_of(records)
    assert not list((tmp_path / "exports").rglob("*-001*"))


# --- the worker's disk -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("in_bucket", [True, False])
def test_a_full_temporary_folder_is_named(
    world: World, tmp_path: Path, bucket: str, monkeypatch: pytest.MonkeyPatch, in_bucket: bool
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    before_each_task(monkeypatch, lambda _: monkeypatch.setattr(tempfile, "TemporaryFile", full))
    with pytest.raises(NoSpaceError, match=f"to write {tempfile.gettempdir()}\\."):
        export(world, in_it(bucket, "out.zip") if in_bucket else tmp_path / "out.zip")
    monkeypatch.undo()


@pytest.mark.parametrize("name", ["out.zip", "o\nut.zip", "o.0123456789abcdef.part.zip", "*[a].zip"])
def test_pieces_of_a_killed_worker_are_removed_whatever_their_name(world: World, tmp_path: Path, name: str) -> None:
    folder = tmp_path / "exports"
    folder.mkdir()
    volume = name.replace(".zip", "-001.zip")
    (folder / f".{volume}.0123456789abcdef.part").touch()
    others = {folder / f".x{volume}.0123456789abcdef.part", folder / f".{volume}.0123.part"}
    for other in others:
        other.touch()
    export(world, folder / name)
    assert set(folder.iterdir()) == {folder / volume, *others}
