"""States: one definition of what is wrong, and everything that says it says the same."""

import io
import json
import re
import sqlite3
from contextlib import closing
from itertools import product
from pathlib import Path

import pytest

from craftkit_archive.archive import CATALOG
from craftkit_archive.doctor import examine_archive
from craftkit_archive.outcomes import describe_outcome
from craftkit_archive.records import Diagnosis, Verdict
from craftkit_archive.report.gather import WRITERS, describe_archive, gather_report, nagios_status
from craftkit_archive.states import STATES, Standing, by_state
from craftkit_archive.verify.run import verify_assets
from tests.worlds import World, command, fill, load, put, render, render_id, summary_of


def judge(world: World, verdicts: dict[int, str | None]) -> None:
    """Write verdicts into the ledger, as checks would."""
    with closing(sqlite3.connect(world.archive.path / CATALOG)) as connection, connection:
        for number, verdict in verdicts.items():
            when = "2026-06-06T00:00:00.000Z" if verdict else None
            sql = "UPDATE assets SET verdict = ?, verified_at = ? WHERE render_id = ?"
            connection.execute(sql, (verdict, when, render_id(number)))


def states(world: World) -> dict[str, str]:
    with closing(sqlite3.connect(world.archive.path / CATALOG)) as connection, connection:
        found = dict(connection.execute("SELECT render_id, state FROM asset_states"))
    return found


def test_every_verdict_has_a_state() -> None:
    assert set(STATES) == set(Verdict.__args__)  # type: ignore[attr-defined]


def test_the_view_and_the_function_agree_on_every_verdict(tmp_path: Path) -> None:
    verdicts = [verdict for verdict in STATES if verdict not in ("orphan", "unrecorded")]
    world = fill(tmp_path, count=len(verdicts) + 1)
    judge(world, dict(enumerate(verdicts)))
    found = states(world)
    assert {verdict: found[render_id(number)] for number, verdict in enumerate(verdicts)} == {
        verdict: STATES[verdict] for verdict in verdicts
    }
    assert found[render_id(len(verdicts))] == "unchecked"


def test_a_succeeded_render_without_bytes_is_not_stored_and_others_owe_nothing(world: World, tmp_path: Path) -> None:
    rows = [render(20), render(21, status="failed"), render(22, status="queued")]
    load(world.archive, tmp_path, "renders", rows)
    assert [states(world)[render_id(number)] for number in (20, 21, 22)] == ["not-stored", None, None]


@pytest.mark.parametrize(("damaged", "unreadable", "unverified"), list(product((0, 2), repeat=3)))
def test_all_that_counts_counts_the_same(tmp_path: Path, damaged: int, unreadable: int, unverified: int) -> None:
    """Whatever is wrong: status, nagios, every report, doctor, the views and the metrics agree on it."""
    world = fill(tmp_path, count=8)
    load(world.archive, tmp_path, "renders", [render(30)])
    put(Path(world.archive.store.address), "renders/nobody's.pdf", b"x")
    summary_of(verify_assets(world.archive))
    bad = (
        ["wrong-digest", "missing"][:damaged] + ["unreadable", "unavailable"][:unreadable] + ["unverified"] * unverified
    )
    judge(world, dict(enumerate(bad)))
    counts = (damaged, unreadable, unverified, 1, 1)
    names = ("damaged", "unreadable", "unverified", "not_stored", "extra")
    words = ", ".join(f"{n} {name.replace('_', ' ')}" for n, name in zip(counts, names, strict=True) if n)

    standing = world.archive.catalog.standing()
    assert tuple(getattr(standing, name) for name in names) == counts
    status = summary_of(describe_archive(world.archive))
    assert status.details["standing"] == standing
    assert status.outcome == ("problems" if damaged else "incomplete" if unreadable or unverified else "ok")
    assert words in re.sub(" PDFs?", "", describe_outcome(status), count=1)
    code, line = nagios_status(world.archive)
    assert (code, words in line) == (2 if damaged else 1 if unreadable or unverified else 0, True)
    assert f"bad={damaged};;0" in line
    [diagnosis] = [one for one in examine_archive(world.archive) if isinstance(one, Diagnosis) and one.name == "PDFs"]
    assert (words in diagnosis.seen, diagnosis.fix is None) == (True, not bad)
    report = gather_report(world.archive)
    for form, write in WRITERS.items():
        out = io.StringIO()
        write(report, out)
        if form == "prometheus":
            for name, count in zip(names, counts, strict=True):
                state = name.replace("_", "-")
                assert re.search(
                    rf'craftkit_archive_assets{{archive="[0-9a-f-]+",state="{state}"}} {count}\n', out.getvalue()
                )
            assert f'craftkit_archive_bad_assets{{archive="{report.archive_id}"}} {damaged}\n' in out.getvalue()
        elif form in ("text", "html", "ndjson"):
            assert not bad or ", ".join(words.split(", ")[:-2]) in out.getvalue()
    stored = world.archive.catalog.totals().standing
    assert (stored.damaged, stored.unreadable, stored.unverified) == counts[:3]
    with closing(sqlite3.connect(world.archive.path / CATALOG)) as connection, connection:
        sql = "SELECT SUM(damaged), SUM(unreadable), SUM(unverified), SUM(not_stored) FROM project_summary"
        assert connection.execute(sql).fetchone() == counts[:4]
        assert connection.execute("SELECT COUNT(*) FROM extra_files").fetchone() == (1,)


def test_a_report_of_a_part_says_how_the_whole_archive_is(world: World) -> None:
    summary_of(verify_assets(world.archive, selection=world.archive.select(projects=("northwind",))))
    good = "All 5 PDFs are what was stored. The whole archive: nothing is damaged"
    assert gather_report(world.archive).headline == good
    summary_of(verify_assets(world.archive))
    assert gather_report(world.archive).headline == "All 5 PDFs are what was stored"
    for number in (0, 1, 2):
        world.asset(number).unlink()
    summary_of(verify_assets(world.archive))
    assert gather_report(world.archive).headline == "3 of 5 PDFs are not what was stored"
    ids = world.folder / "ids.txt"
    ids.write_text(render_id(4))
    summary_of(verify_assets(world.archive, selection=world.archive.select(ids=ids)))
    report = gather_report(world.archive)
    assert report.headline == "The one PDF is as stored. The whole archive: 3 damaged"
    page = io.StringIO()
    WRITERS["html"](report, page)
    assert 'class="mark" d="M17 17' in page.getvalue()
    assert "In the whole archive: 3 damaged" in page.getvalue()


def test_extra_files_are_those_of_the_last_whole_verification(world: World) -> None:
    file = put(Path(world.archive.store.address), "renders/nobody's.pdf", b"x")
    summary_of(verify_assets(world.archive))
    summary_of(verify_assets(world.archive, selection=world.archive.select(projects=("southwind",))))
    assert world.archive.catalog.count_extra() == 1
    file.unlink()
    summary_of(verify_assets(world.archive))
    assert world.archive.catalog.count_extra() == 0


def test_the_words_of_a_standing() -> None:
    assert (
        Standing(stored=5001, damaged=36, unreadable=4, not_stored=1).text == "36 damaged, 4 unreadable, 1 not stored"
    )
    assert Standing(stored=2, ok=2).text == "all 2 stored PDFs are good"
    assert by_state({"checked": 9, "ok": 5, "missing": 2, "wrong-digest": 1, "orphan": 1, "unavailable": 1}) == {
        "damaged": 3,
        "unreadable": 1,
        "extra": 1,
    }


def test_status_says_what_is_wrong_and_ends_with_it(world: World) -> None:
    assert command("status", archive=world.archive.path).code == 0
    judge(world, {0: "wrong-digest", 1: "unreadable", 2: "ok", 3: "ok", 4: "ok"})
    done = command("status", archive=world.archive.path)
    *_, said, following = done.err.splitlines()
    assert (done.code, said.startswith("status: 1 PDF damaged, 1 unreadable: see `report`; ")) == (1, True)
    assert following == f"Next: craftkit-archive --archive {world.archive.path} repair SOURCE"
    judge(world, {0: "unverified"})
    assert command("status", archive=world.archive.path).code == 3
    quiet = command("-q", "status", archive=world.archive.path)
    assert (quiet.code, quiet.out, "1 PDF unreadable, 1 unverified" in quiet.err) == (3, "", True)
    last = json.loads(command("--json", "status", archive=world.archive.path).out.splitlines()[-1])
    assert (last["exit_code"], last["details"]["standing"]["unreadable"]) == (3, 1)
