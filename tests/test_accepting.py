"""Accept: a known loss is no news, whatever command meets it; anything else still is."""

import csv
import io
import json
from pathlib import Path

import pytest

from craftkit_archive.report.gather import WRITERS, gather_report
from craftkit_archive.states import Standing
from tests.worlds import Done, World, command, load, render, render_id


def at(world: World, *words: str | Path) -> Done:
    return command(*words, archive=world.archive.path)


def ids(world: World, *numbers: int) -> Path:
    file = world.folder / "ids.txt"
    file.write_text("\n".join(map(render_id, numbers)))
    return file


def standing(world: World) -> Standing:
    return world.archive.catalog.standing()


@pytest.fixture
def lossy(world: World) -> World:
    """Return an archive with five good PDFs, and one render whose PDF its source never had."""
    load(world.archive, world.folder, "renders", [render(20)])
    return world


def codes(world: World, name: str) -> list[int]:
    """Run all that meets a loss, and return how each ended."""
    out = world.folder / name
    words: list[list[str | Path]] = [["verify"], ["fetch", world.bucket], ["fetch", world.bucket, "--dry-run"]]
    words += [["export", out, "--dry-run"], ["export", out], ["export-check", out]]
    return [at(world, *line).code for line in words]


def test_a_pdf_that_was_never_stored_is_news_until_it_is_accepted(lossy: World) -> None:
    assert codes(lossy, "before") == [0, 3, 3, 3, 3, 3]
    done = at(lossy, "accept", "--ids", ids(lossy, 20), "--reason", "deleted upstream")
    assert (done.code, done.err.splitlines()[-1]) == (0, "accept: 1 accepted")
    assert codes(lossy, "after") == [0] * 6
    assert (standing(lossy).not_stored, standing(lossy).acknowledged) == (0, 1)
    [row] = csv.DictReader((lossy.folder / "after/missing.csv").read_text().splitlines())
    assert (row["render_id"], row["reason"], row["acknowledged"]) == (render_id(20), "not-stored", "deleted upstream")


def test_the_next_loss_is_news(lossy: World) -> None:
    at(lossy, "accept", "--ids", ids(lossy, 20), "--reason", "known")
    load(lossy.archive, lossy.folder, "renders", [render(21)])
    assert codes(lossy, "out") == [0, 3, 3, 3, 3, 3]
    assert "1 not stored: missing at the source; 1 acknowledged" in at(lossy, "fetch", lossy.bucket).err


@pytest.mark.long
def test_damage_can_be_accepted_too(world: World) -> None:
    world.asset(1).write_bytes(b"%PDF-1.4 damaged")
    (world.bucket / render(1)["asset_key"]).unlink()
    assert codes(world, "before")[::5] == [1, 3]
    assert at(world, "status").code == 1
    at(world, "accept", "--ids", ids(world, 1), "--reason", "no copy is left")
    assert codes(world, "after") == [0] * 6
    assert [at(world, *words).code for words in (["status"], ["doctor"], ["repair", world.bucket])] == [0, 0, 0]
    [finding] = [line for line in at(world, "--json", "verify").lines if line["type"] == "finding"]
    assert finding["acknowledged"] == "no copy is left"
    world.asset(2).unlink()
    assert codes(world, "worse")[::5] == [1, 3]
    for form, write in WRITERS.items():
        out = io.StringIO()
        write(gather_report(world.archive), out)
        assert form == "prometheus" or "no copy is left" in out.getvalue()


def test_it_ends_when_the_pdf_is_good_again(lossy: World) -> None:
    key = render(20)["asset_key"]
    at(lossy, "accept", "--ids", ids(lossy, 20), "--reason", "known")
    (lossy.bucket / key).write_bytes((lossy.bucket / render(0)["asset_key"]).read_bytes())
    assert at(lossy, "fetch", lossy.bucket).code == 0
    assert (standing(lossy).acknowledged, standing(lossy).stored) == (0, 6)
    lossy.asset(20).unlink()
    assert at(lossy, "verify").code == 1
    at(lossy, "accept", "--ids", ids(lossy, 20), "--reason", "known")
    assert at(lossy, "repair", lossy.bucket).code == 0
    assert lossy.archive.catalog.acknowledgements(None) == []


def test_what_is_accepted_is_one_state(lossy: World) -> None:
    """An acceptance of one state says nothing of another."""
    at(lossy, "accept", "--ids", ids(lossy, 20), "--reason", "known")
    lossy.asset(3).unlink()
    at(lossy, "verify")
    at(lossy, "accept", "--ids", ids(lossy, 3), "--reason", "gone")
    at(lossy, "accept", "--ids", ids(lossy, 3), "--reason", "gone for good")
    assert [one.reason for one in lossy.archive.catalog.acknowledgements(None)] == ["gone for good", "known"]
    lossy.asset(3).mkdir()
    lossy.archive.catalog.record_checks(lossy.archive.now(), "unreadable", [render_id(3)])
    assert standing(lossy).unreadable == 1
    assert "no longer in this state" in at(lossy, "accept", "--list").out


def test_listed_and_revoked(lossy: World) -> None:
    at(lossy, "accept", "--ids", ids(lossy, 20), "--reason", "deleted\nupstream")
    listed = at(lossy, "accept", "--list")
    assert (listed.code, render_id(20) in listed.out, "deleted upstream" in listed.out) == (0, True, True)
    assert json.loads(at(lossy, "--json", "accept", "--list").out.splitlines()[0])["state"] == "not-stored"
    assert at(lossy, "accept", "--revoke", "--ids", ids(lossy, 20)).code == 0
    assert at(lossy, "accept", "--revoke", "--ids", ids(lossy, 20)).code == 3
    assert codes(lossy, "after")[1] == 3


def test_what_is_good_or_unknown_is_not_accepted(lossy: World) -> None:
    load(lossy.archive, lossy.folder, "renders", [render(30, status="failed")])
    done = at(lossy, "accept", "--ids", ids(lossy, 0, 20, 30, 99), "--reason", "known")
    assert (done.code, done.err.splitlines()[-1]) == (3, "accept: 1 accepted, 3 refused")
    assert "nothing to accept" in done.err
    assert "no render has this id" in done.err


@pytest.mark.parametrize(
    "words", [[], ["--reason", "x"], ["--reason", " ", "--ids"], ["--list", "--revoke"], ["--revoke"]]
)
def test_a_call_without_sense_is_2(lossy: World, words: list[str]) -> None:
    more = [ids(lossy, 20)] if words[-1:] == ["--ids"] else []
    assert at(lossy, "accept", *words, *more).code == 2
