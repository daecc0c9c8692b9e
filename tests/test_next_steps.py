"""Next steps: one table over how commands end, and the last line that people see of it."""

import json
import shlex
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from craftkit_archive.archive import Archive
from craftkit_archive.next_steps import command_line, next_step
from craftkit_archive.records import Outcome, Summary
from craftkit_archive.verify.run import verify_assets
from tests.worlds import (
    World,
    command,
    fill,
    keys,
    load,
    projects,
    render,
    summary_of,
    write_ndjson,
)


def _ended(name: str, outcome: Outcome = "ok", /, _details: dict[str, Any] | None = None, **counts: int) -> Summary:
    return Summary(command=name, outcome=outcome, counts=counts, details=_details or {})


FETCH = ["--archive", "a b", "--json", "fetch", "-qv", "--progress", "none", "--dry-run", "/b", "--limit", "2"]
IMPORT = ["-q", "import", "renders", "r.csv"]
TABLE: list[tuple[Summary, Sequence[str], str | None]] = [
    (_ended("init"), [], "import projects FILE"),
    (_ended("import", inserted=3, _details={"renders": False}), [], "import renders FILE"),
    (_ended("import", inserted=3, _details={"renders": True}), [], None),
    (_ended("import", inserted=3, _details={"to_fetch": True}), [], "fetch SOURCE"),
    (_ended("import", inserted=3, _details={"to_fetch": True, "adoptable": True}), [], "fetch"),
    (_ended("import", unchanged=3), [], None),
    (_ended("import", inserted=3, _details={"dry_run": True}), [*IMPORT, "--dry-run"], "import renders r.csv"),
    (_ended("import", "problems", rejected=1), IMPORT, "import renders r.csv --rejects rejects.ndjson"),
    (_ended("import", "problems", rejected=1), ["import", "renders", "-"], None),
    (
        _ended("import", "problems", rejected=1, _details={"kind": "renders"}),
        [*IMPORT, "--rejects", "bad ones.ndjson"],
        "import renders 'bad ones.ndjson'",
    ),
    (
        _ended("import", "problems", rejected=1, _details={"kind": "keys"}),
        ["import", "keys", "-", "--rejects=x"],
        "import keys x",
    ),
    (_ended("fetch", expected=5, copied=5), [], "verify"),
    (_ended("fetch", expected=5, adopted=5), [], "verify"),
    (_ended("fetch", expected=0, copied=0), [], None),
    (_ended("fetch", "incomplete", expected=5, copied=3, absent=2), [], "verify"),
    (_ended("fetch", "incomplete", expected=5, absent=5), [], "fetch SOURCE"),
    (_ended("fetch", "problems", expected=5, refused=5), [], "fetch SOURCE"),
    (_ended("fetch", "incomplete", expected=5, unavailable=5), FETCH, "fetch /b --limit 2"),
    (
        _ended("fetch", "incomplete", expected=5, absent=5, _details={"did_you_mean": "/a/b c"}),
        FETCH,
        "fetch '/a/b c'",
    ),
    (_ended("fetch", expected=5, _details={"dry_run": True}), FETCH, "fetch /b --limit 2"),
    (_ended("fetch", "incomplete", expected=5, absent=5, _details={"dry_run": True}), FETCH, "fetch SOURCE"),
    (_ended("fetch", "interrupted", expected=5, copied=2), FETCH, "fetch /b --limit 2"),
    (_ended("verify", checked=5, ok=5), [], None),
    (_ended("verify", checked=5, ok=4, acknowledged=1), [], None),
    (_ended("verify", "problems", checked=5, ok=4, missing=1), [], "repair SOURCE"),
    (_ended("verify", "incomplete", checked=5, ok=4, unreadable=1), [], "repair SOURCE"),
    (_ended("verify", "incomplete", checked=5, ok=5, unrecorded=1), [], "fetch"),
    (_ended("verify", "incomplete", checked=5, unverified=5), [], None),
    (_ended("verify", checked=5, ok=5, orphan=2), [], None),
    (_ended("verify", checked=0, ok=0, _details={"stored": 0, "renders": True}), [], "fetch SOURCE"),
    (_ended("verify", checked=0, ok=0, _details={"stored": 0, "renders": False}), [], "import renders FILE"),
    (_ended("verify", checked=0, ok=0, _details={"stored": 5, "next_due": "2026-12-03"}), [], None),
    (_ended("verify", "limited", checked=3, ok=3), ["verify", "--max-bytes", "1"], "verify --due 30d"),
    (
        _ended("verify", "limited", checked=3, ok=3),
        ["-q", "verify", "--due", "7d", "--time-limit", "2h"],
        "verify --due 7d --time-limit 2h",
    ),
    (_ended("verify", "interrupted", checked=3, missing=1), ["verify", "--new"], "verify --new"),
    (_ended("repair", damaged=2, repaired=2), [], "verify"),
    (_ended("repair", damaged=2, healed=2), [], None),
    (_ended("repair", "problems", damaged=2, repaired=1, absent=1), [], "repair SOURCE"),
    (_ended("repair", "problems", damaged=2, absent=2, _details={"did_you_mean": "/c"}), [], "repair /c"),
    (_ended("repair", damaged=2, repaired=2, _details={"dry_run": True}), ["repair", "--dry-run", "/b"], "repair /b"),
    (_ended("repair", damaged=0, _details={"last_verified": "2026-11-01"}), [], None),
    (_ended("repair", damaged=0, _details={"last_verified": None}), [], "verify"),
    (_ended("export", selected=5, written=5), [], None),
    (_ended("export", "problems", selected=5, failed=1), [], "verify"),
    (_ended("export", "incomplete", selected=5, not_stored=1, _details={"to_fetch": True}), [], "fetch SOURCE"),
    (_ended("export", "incomplete", selected=5, not_stored=1), [], None),
    (
        _ended("export", selected=5, written=5, _details={"dry_run": True}),
        ["export", "--dry-run", "out.zip"],
        "export out.zip",
    ),
    (_ended("status", renders=0, _details={"projects": 0}), [], "import projects FILE"),
    (_ended("status", renders=0, _details={"projects": 2}), [], "import renders FILE"),
    (_ended("status", "problems", renders=5, damaged=1, not_stored=1), [], "repair SOURCE"),
    (_ended("status", "incomplete", renders=5, unreadable=1), [], "repair SOURCE"),
    (_ended("status", renders=5, not_stored=5), [], "fetch SOURCE"),
    (_ended("status", renders=5, not_stored=5, _details={"did_you_mean": "/x"}), [], "fetch /x"),
    (_ended("status", renders=5, unchecked=2), [], "verify --new"),
    (_ended("status", renders=5, verified_ok=5), [], None),
    (_ended("seal", "problems", sealed=5), [], "verify"),
    (_ended("seal", sealed=5), [], None),
    (_ended("keys list", keys=0), [], "keys create --project SLUG"),
    (_ended("keys list", keys=0, _details={"projects": 0}), [], "import projects FILE"),
    (_ended("keys list", keys=0, _details={"filtered": True, "projects": 1}), [], None),
    (_ended("keys list", keys=1), [], None),
    (_ended("fetch", expected=0, _details={"renders": False}), [], "import renders FILE"),
    (_ended("report", _details={"damaged": True}), [], "repair SOURCE"),
    (_ended("doctor", "problems", problems=1, _details={"damaged": True}), [], "repair SOURCE"),
    (_ended("doctor", "problems", problems=1), [], None),
    (_ended("findings list", findings=1, _details={"current": True}), [], "repair SOURCE"),
    (_ended("findings list", findings=1, _details={"current": False}), [], None),
    (_ended("renders list", renders=1, _details={"states": ["damaged"]}), [], "repair SOURCE"),
    (_ended("renders list", renders=1, _details={"states": ["not-stored"]}), [], "fetch SOURCE"),
    (_ended("renders list", renders=1, _details={"states": []}), [], None),
    (_ended("quarantine drop", "incomplete", dropped=1, kept=1), [], "repair SOURCE"),
    (_ended("audit verify", "incomplete", behind=2), [], "verify"),
    (_ended("audit verify", "problems", behind=2, faults=1), [], None),
    (_ended("rebuild", adopted=5), [], "verify"),
    (_ended("rebuild", "incomplete", adopted=5, absent=1), [], "fetch SOURCE"),
    (_ended("restore"), [], "verify"),
    (_ended("restore", unrecorded=1), [], "fetch"),
    (_ended("restore", unrecorded=1, extra=1), [], "import renders FILE"),
    (_ended("restore", extra=1, _details={"alive_again": ["k-1", "k-2"]}), [], "keys revoke k-1 k-2"),
    (_ended("quarantine restore", restored=1), [], "verify --failed"),
    (_ended("backup"), [], None),
    (_ended("serve", "interrupted"), ["serve"], None),
]


@pytest.mark.parametrize(("summary", "words", "expected"), TABLE)
def test_the_table(summary: Summary, words: Sequence[str], expected: str | None) -> None:
    step = next_step(summary, words)
    assert step == (None if expected is None else shlex.split(expected))


@given(
    name=st.sampled_from(sorted({summary.command for summary, _, _ in TABLE} | {"doctor", "accept"})),
    outcome=st.sampled_from(get_args(Outcome)),
    counts=st.dictionaries(st.sampled_from(sorted({n for s, _, _ in TABLE for n in s.counts})), st.integers(0, 3)),
    words=st.lists(st.text(max_size=8), max_size=5),
    archive=st.none() | st.text(max_size=8),
)
def test_a_shell_reads_it_as_it_is_meant(
    name: str, outcome: Outcome, counts: dict[str, int], words: list[str], archive: str | None
) -> None:
    step = next_step(Summary(command=name, outcome=outcome, counts=counts), words)
    if step is None:
        return
    where = [] if archive is None else ["--archive", archive]
    assert shlex.split(command_line(step, archive)) == ["craftkit-archive", *where, *step]
    assert "--dry-run" not in step


def _last(archive: Path, *words: str | Path) -> str:
    """Run a command in two voices, and return what it says is next, which is the same in both."""
    before = archive.parent / "before"
    shutil.rmtree(before, ignore_errors=True)
    if archive.exists():
        shutil.copytree(archive, before, symlinks=True)
    spoken = command("--json", *words, archive=archive).lines[-1]["next"]
    shutil.rmtree(archive)
    if before.exists():
        shutil.move(before, archive)
    done = command(*words, archive=archive)
    line = done.err.splitlines()[-1]
    said = line.removeprefix("Next: ") if line.startswith("Next: ") else None
    assert said == spoken, done.err
    assert done.err.count("Next:") == (said is not None)
    return said or ""


@pytest.mark.long
def test_from_nothing_to_a_repaired_archive_each_command_names_the_next(tmp_path: Path) -> None:
    """Following the last lines, with what only a person knows filled in, leads all the way."""
    world = fill(tmp_path / "filled", count=3)
    path = tmp_path / "an archive"
    files = {
        "projects": write_ndjson(tmp_path / "p.ndjson", projects()),
        "keys": write_ndjson(tmp_path / "k.ndjson", keys()),
        "renders": write_ndjson(tmp_path / "r.ndjson", [render(number) for number in range(3)]),
    }
    start = shlex.join(["craftkit-archive", "--archive", str(path)])
    assert _last(path, "init") == f"{start} import projects FILE"
    assert _last(path, "status") == f"{start} import projects FILE"
    assert _last(path, "verify") == f"{start} import renders FILE"
    assert _last(path, "keys", "list") == f"{start} import projects FILE"
    assert _last(path, "import", "projects", files["projects"]) == f"{start} import renders FILE"
    assert _last(path, "keys", "list") == f"{start} keys create --project SLUG"
    assert _last(path, "status") == f"{start} import renders FILE"
    assert _last(path, "import", "renders", files["renders"]) == f"{start} fetch SOURCE"
    assert _last(path, "import", "keys", files["keys"]) == ""
    assert _last(path, "status") == f"{start} fetch SOURCE"
    assert _last(path, "verify") == f"{start} fetch SOURCE"
    assert _last(path, "export", tmp_path / "out") == f"{start} fetch SOURCE"
    assert _last(path, "fetch", "--dry-run", world.bucket) == f"{start} fetch {world.bucket}"
    assert _last(path, "fetch", world.bucket) == f"{start} verify"
    assert _last(path, "status") == f"{start} verify --new"
    assert _last(path, "verify") == ""
    (path / "assets" / render(1)["asset_key"]).unlink()
    assert _last(path, "verify") == f"{start} repair SOURCE"
    assert _last(path, "status") == f"{start} repair SOURCE"
    assert _last(path, "repair", "--dry-run", world.bucket) == f"{start} repair {world.bucket}"
    assert _last(path, "repair", world.bucket) == f"{start} verify"
    assert _last(path, "verify") == ""
    assert _last(path, "status") == ""


def test_an_archive_that_is_the_default_or_of_the_environment_is_not_named(world: World, tmp_path: Path) -> None:
    world.asset(0).unlink()
    summary_of(verify_assets(world.archive))
    path = str(world.archive.path)
    done = command("--json", "status", env={"CRAFTKIT_ARCHIVE": path})
    assert done.lines[-1]["next"] == "craftkit-archive repair SOURCE"
    named = command("--json", "status", archive=world.archive.path)
    assert named.lines[-1]["next"] == f"craftkit-archive --archive {path} repair SOURCE"


def test_quiet_is_silent_on_success_and_names_the_next_step_on_anything_else(world: World) -> None:
    assert command("-q", "status", archive=world.archive.path).err == ""  # never verified: a step, and no problem
    world.asset(0).unlink()
    done = command("-q", "verify", archive=world.archive.path)
    assert done.err.splitlines()[-1] == f"Next: craftkit-archive --archive {world.archive.path} repair SOURCE"


def test_rejected_records_lead_to_the_file_that_is_to_be_corrected(tmp_path: Path) -> None:
    archive = Archive.create(tmp_path / "a")
    load(archive, tmp_path, "projects", projects())
    file = tmp_path / "r.json"
    file.write_text(json.dumps([render(1), render(2) | {"status": "odd"}]))
    done = command("import", "renders", file, archive=archive.path)
    start = f"Next: craftkit-archive --archive {archive.path} import renders"
    assert done.err.splitlines()[-1] == f"{start} {file} --rejects rejects.ndjson"
    done = command("import", "renders", file, "--rejects", tmp_path / "bad.ndjson", archive=archive.path)
    assert done.err.splitlines()[-1] == f"{start} {tmp_path / 'bad.ndjson'}"
