"""One command over many archives: one summary, one exit code."""

import signal
import subprocess
from pathlib import Path

import pytest

from craftkit_archive.commands.fleet import archives_before
from tests.worlds import ROOT, World, command, fill, program


@pytest.fixture
def fleet(tmp_path: Path) -> list[World]:
    """Return three archives."""
    return [fill(tmp_path / name) for name in ("a", "b", "c")]


def named(fleet: list[World]) -> list[str]:
    """Return the options that name archives."""
    return [word for world in fleet for word in ("--archive", str(world.archive.path))]


def test_all_are_done_and_the_worst_counts(fleet: list[World]) -> None:
    done = command(*named(fleet), "verify")
    assert (done.code, "verify: 3 archives, all ok" in done.err) == (0, True), done.err
    fleet[1].asset(2).unlink()
    done = command(*named(fleet), "verify")
    assert done.code == 1
    assert done.err.splitlines()[-2:] == ["verify: 3 archives, 2 ok", f"  exit code 1: {fleet[1].archive.path}"]
    assert command("status", archive=fleet[2].archive.path).code == 0
    done = command(*named(fleet), "status")
    assert done.code == 1
    assert done.out.count("northwind") == 3


def test_json_names_the_archive_of_each_line_and_ends_with_one_summary(fleet: list[World]) -> None:
    fleet[1].asset(2).unlink()
    done = command("--json", *named(fleet), "verify")
    *lines, summary = done.lines
    assert [line["archive"] for line in lines if line["type"] == "archive"] == [str(w.archive.path) for w in fleet]
    assert [line["archive"] for line in lines if line["type"] == "finding"] == [str(fleet[1].archive.path)]
    assert (summary["type"], summary["command"], summary["outcome"], summary["exit_code"]) == (
        "summary",
        "verify",
        "problems",
        1,
    )
    assert summary["counts"] == {"checked": 15, "ok": 14, "missing": 1}
    assert [one["exit_code"] for one in summary["details"]["archives"]] == [0, 1, 0]
    assert done.code == 1


def test_one_that_is_not_there_does_not_keep_the_others_from_theirs(fleet: list[World], tmp_path: Path) -> None:
    missing = ["--archive", str(tmp_path / "missing")]
    done = command("--json", *missing, *named(fleet), "verify")
    assert done.code == 10
    assert done.lines[-1]["counts"]["checked"] == 15
    fleet[0].asset(1).unlink()
    assert command(*named(fleet), *missing, "verify").code == 10


@pytest.mark.parametrize(
    "words", [["fetch"], ["export", "out"], ["verify", "--report", "r.html"], ["report", "-o", "r.html"], []]
)
def test_what_goes_with_one_archive_is_refused(fleet: list[World], words: list[str]) -> None:
    done = command(*named(fleet), *words)
    assert (done.code, "one" in done.err.lower()) == (2, True), done.err


def test_one_archive_before_and_one_after_is_one(fleet: list[World]) -> None:
    done = command("--archive", "nowhere", "status", "--archive", fleet[0].archive.path)
    assert done.code == 0


def test_the_words_before_the_command_are_told_apart() -> None:
    given = ["-q", "--archive", "a", "--config=c", "--archive=b", "--progress", "plain", "verify", "--archive", "x"]
    assert archives_before(given) == (
        ["a", "b"],
        ["-q", "--config", "c", "--progress", "plain"],
        ["verify", "--archive", "x"],
    )


def test_a_signal_ends_all(fleet: list[World]) -> None:
    before = (
        "import time; from craftkit_archive.commands import fleet; real = fleet._run_one\n"
        "def slow(*given, **named):\n"
        "    print('begun', flush=True); time.sleep(1); return real(*given, **named)\n"
        "fleet._run_one = slow"
    )
    words = program(*named(fleet), "status", before=before)
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=60)
    assert "begun" not in out, err
    assert "1 of 3 archives" in err
