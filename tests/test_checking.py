"""The check of an export finds whatever became of it, with no archive at hand."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from craftkit_archive.errors import AssetUnreadableError, RequestError
from craftkit_archive.export.check import check_export
from craftkit_archive.export.destination import Options
from craftkit_archive.export.reader import CATALOGUE, INDEX, MANIFEST, SEAL, Export
from craftkit_archive.export.run import export_assets
from craftkit_archive.records import Finding, Summary
from tests.worlds import World, command, fill, needs, summary_of

FORMS = {"dir": ("out", None), "bag": ("out", "bagit"), "zip": ("out.zip", None), "tar": ("out.tar", None)}
every_form = pytest.mark.parametrize("form", FORMS)


def exported(world: World, folder: Path, form: str) -> Path:
    name, given = FORMS[form]
    summary_of(export_assets(world.archive, folder / name, options=Options(given)))  # type: ignore[arg-type]
    return folder / name


def check(path: Path, jobs: int = 1) -> tuple[Summary, dict[str, str]]:
    records = list(check_export(path, jobs=jobs))
    assert isinstance(records[-1], Summary)
    return records[-1], {record.key: record.verdict for record in records if isinstance(record, Finding)}


@every_form
def test_a_bit_in_any_file_is_found(world: World, tmp_path: Path, form: str) -> None:
    whole = exported(world, tmp_path, form)
    for path, part in list(Export(whole).parts()):
        if path.startswith("."):
            continue
        with Path(part.file).open("r+b") as file:
            file.seek(part.offset + part.size_bytes // 2)
            byte = file.read(1)
            file.seek(-1, os.SEEK_CUR)
            file.write(bytes([byte[0] ^ 1]))
            file.flush()
            try:
                summary, found = check(whole)
                assert summary.outcome == "problems", path
                assert path in found or path == MANIFEST or path.startswith("tagmanifest"), (path, found)
            except AssetUnreadableError:
                assert path in (MANIFEST, "tagmanifest-sha256.txt", INDEX, "bagit.txt")
            file.seek(-1, os.SEEK_CUR)
            file.write(byte)
    assert check(whole)[0].outcome == "ok"


@pytest.mark.parametrize("form", ["dir", "bag"])
def test_what_is_gone_and_what_is_extra_is_found(world: World, tmp_path: Path, form: str) -> None:
    whole = exported(world, tmp_path, form)
    gone = next(whole.rglob("*.pdf"))
    gone.unlink()
    (gone.parent / "new.pdf").write_bytes(b"new")
    (gone.parent / ".DS_Store").write_bytes(b"a file manager was here")
    (gone.parent / "link.pdf").symlink_to("/etc/passwd")
    summary, found = check(whole)
    assert summary.outcome == "problems"
    assert found == {
        gone.relative_to(whole).as_posix(): "missing",
        (gone.parent / "new.pdf").relative_to(whole).as_posix(): "orphan",
        (gone.parent / "link.pdf").relative_to(whole).as_posix(): "orphan",
    }
    assert (summary.counts["missing"], summary.counts["orphan"]) == (1, 2)


@pytest.mark.parametrize("keep", [0, 100, 5000, -20_000])
@pytest.mark.parametrize("form", ["zip", "tar"])
def test_a_packed_export_that_was_cut_is_told(world: World, tmp_path: Path, form: str, keep: int) -> None:
    whole = exported(world, tmp_path, form)
    whole.write_bytes(whole.read_bytes()[:keep])
    with pytest.raises((AssetUnreadableError, RequestError)):
        check(whole)


@pytest.mark.parametrize("form", ["zip", "tar"])
def test_a_packed_export_that_unpackers_refuse_is_told(world: World, tmp_path: Path, form: str) -> None:
    whole = exported(world, tmp_path, form)
    packed = whole.read_bytes()
    for _, part in list(Export(whole).parts()):
        head = packed.rindex(b"PK\3\4", 0, part.offset) if form == "zip" else part.offset - 512
        for place in (head, head + 14, head + 30):
            damaged = bytearray(packed)
            damaged[place] ^= 1
            whole.write_bytes(damaged)
            with pytest.raises(AssetUnreadableError, match=r"damaged|checksum"):
                check(whole)
    whole.write_bytes(packed)
    assert check(whole)[0].outcome == "ok"


def test_a_zip_of_a_version_that_nobody_knows_is_told(world: World, tmp_path: Path) -> None:
    whole = exported(world, tmp_path, "zip")
    packed = bytearray(whole.read_bytes())
    packed[packed.index(b"PK\1\2") + 6] = 200
    whole.write_bytes(packed)
    with pytest.raises(AssetUnreadableError, match="version"):
        check(whole)


def test_a_file_whose_name_is_no_text_is_told(world: World, tmp_path: Path) -> None:
    whole = exported(world, tmp_path, "dir")
    Path(os.fsdecode(os.fsencode(whole) + b"/\xff.pdf")).write_bytes(b"")
    done = command("--json", "export-check", whole)
    assert (done.code, done.lines[-2]["key"], done.lines[-2]["verdict"]) == (1, r"\udcff.pdf", "orphan")


def test_lists_that_were_changed_together_do_not_fit_the_seal_on_paper(world: World, tmp_path: Path) -> None:
    whole = exported(world, tmp_path, "dir")
    noted = check(whole)[0].details["seal"]
    gone = next(whole.rglob("*.pdf"))
    name = gone.relative_to(whole).as_posix()
    gone.unlink()
    lines = [line for line in (whole / MANIFEST).read_text().splitlines() if name not in line]
    index = (whole / INDEX).read_bytes().splitlines(keepends=True)
    (whole / INDEX).write_bytes(b"".join(line for line in index if name.encode() not in line))
    told = subprocess.run([needs("sha256sum"), INDEX], cwd=whole, capture_output=True, text=True, check=True).stdout
    lines = [told.strip() if line.endswith(f"  {INDEX}") else line for line in lines]
    (whole / MANIFEST).write_text("".join(f"{line}\n" for line in lines))
    summary, found = check(whole)
    assert found == {SEAL: "wrong-digest"}
    assert summary.details["seal"] == noted


def test_an_index_that_tells_of_other_files_is_found(world: World, tmp_path: Path) -> None:
    whole = exported(world, tmp_path, "dir")
    text = (whole / INDEX).read_text().replace("northwind/2026", "northwind/2027", 1)
    (whole / INDEX).write_text(text, newline="")
    assert check(whole)[1][INDEX] == "wrong-digest"


def test_several_processes_find_the_same(tmp_path: Path) -> None:
    whole = exported(fill(tmp_path, count=200), tmp_path, "dir")
    for number, file in enumerate(sorted(whole.rglob("*.pdf"))):
        if number % 40 == 7:
            file.write_bytes(b"%PDF-damaged")
    assert check(whole, jobs=2)[1] == check(whole)[1]
    assert len(check(whole)[1]) == 5


def test_a_bag_of_others_can_be_checked(tmp_path: Path) -> None:
    bag = tmp_path / "bag"
    bag.mkdir()
    (bag / "100%.pdf").write_bytes(b"%PDF-")
    subprocess.run([sys.executable, "-m", "bagit", "--sha256", "--quiet", bag], check=True)
    (bag / MANIFEST).write_text((bag / MANIFEST).read_text().replace("100%.pdf", "100%25.pdf"))
    (bag / "tagmanifest-sha256.txt").unlink()
    summary, found = check(bag)
    assert [listed.path for listed in Export(bag).listed()] == ["data/100%.pdf"]
    assert (summary.outcome, found, summary.counts["ok"]) == ("ok", {}, 1)


def test_a_path_that_leads_out_is_not_followed(world: World, tmp_path: Path) -> None:
    whole = exported(world, tmp_path, "dir")
    with (whole / MANIFEST).open("a") as manifest:
        manifest.write(f"{'0' * 64}  ../archive/archive.db\n")
    assert check(whole)[1]["../archive/archive.db"] == "missing"


def test_what_is_no_export_is_told(tmp_path: Path, world: World) -> None:
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "none", tmp_path / "empty"):
        with pytest.raises(RequestError, match="export"):
            check(path)
    whole = exported(world, tmp_path, "dir")
    (whole / MANIFEST).write_bytes(b"\xff\n")
    with pytest.raises(AssetUnreadableError, match=MANIFEST):
        check(whole)
    (whole / CATALOGUE).unlink()
