"""Files that are whole or not there, and names that are on the disk."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from craftkit_archive.durable import flush, remove_unfinished, replaced_when_whole
from craftkit_archive.errors import NoSpaceError
from tests.worlds import ROOT


def test_a_file_is_replaced_at_the_end_and_never_before(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_text("old")
    with replaced_when_whole(file) as new:
        new.write_text("new")
        assert file.read_text() == "old"
    assert [(one.name, one.read_text()) for one in tmp_path.iterdir()] == [("a.txt", "new")]


@pytest.mark.parametrize("error", [ValueError("a bug"), OSError(errno.ENOSPC, "full")])
def test_what_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path, error: Exception) -> None:
    file = tmp_path / "a.txt"
    file.write_text("old")

    def fail(new: Path) -> None:
        new.write_text("half")
        raise error

    with pytest.raises(NoSpaceError if isinstance(error, OSError) else ValueError), replaced_when_whole(file) as new:
        fail(new)
    assert [(one.name, one.read_text()) for one in tmp_path.iterdir()] == [("a.txt", "old")]


def test_what_a_killed_process_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    script = (
        "import os, signal, sys; from pathlib import Path; from craftkit_archive.durable import replaced_when_whole\n"
        "with replaced_when_whole(Path(sys.argv[1])) as new: new.touch(); os.kill(os.getpid(), signal.SIGKILL)"
    )
    for name in ("a.zip", "b.zip"):
        subprocess.run([sys.executable, "-c", script, tmp_path / name], cwd=ROOT)
    (tmp_path / "a.zip").touch()
    assert len(list(tmp_path.iterdir())) == 3
    remove_unfinished(tmp_path, {"a.zip"})
    assert {path.name[:6] for path in tmp_path.iterdir()} == {"a.zip", ".b.zip"}


def test_a_folder_that_cannot_be_flushed_is_no_trouble_and_a_file_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on CIFS, which writes folders through."""
    (tmp_path / "a").touch()

    def refuse(_descriptor: int) -> None:
        raise OSError(errno.EINVAL, "invalid")

    monkeypatch.setattr(os, "fsync", refuse)
    flush(tmp_path)
    with pytest.raises(OSError, match="invalid"):
        flush(tmp_path / "a")
    monkeypatch.setattr(os, "fsync", lambda _descriptor: (_ for _ in ()).throw(OSError(errno.EIO, "broken")))
    with pytest.raises(OSError, match="broken"):
        flush(tmp_path)
