"""Zips and tars at their limits: many entries, large ones, long and foreign names."""

import subprocess
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from hashlib import sha256
from io import BytesIO
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from craftkit_archive.archive import Archive
from craftkit_archive.catalog.rows import NewAsset
from craftkit_archive.export.check import check_export
from craftkit_archive.export.packing import FORMS
from craftkit_archive.export.run import export_assets
from craftkit_archive.records import Summary
from tests.worlds import needs, put, summary_of

_NAMES = st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="/\\"), min_size=1, max_size=150)


def pack(form: str, files: dict[str, bytes], modified: int) -> bytes:
    out, directory, kind = b"", b"", FORMS[form]
    for path, body in files.items():
        crc, size = zlib.crc32(body), len(body)
        directory += kind.record(path, size, modified, crc, len(out))
        entry = kind.head(path, size, modified, crc) + body + kind.tail(size)
        assert len(entry) == kind.measure(path, size)
        out += entry
    return out + directory + kind.end(len(files), len(out), len(directory))


@given(st.dictionaries(_NAMES.filter(lambda name: name not in (".", "..")), st.binary(max_size=1500), max_size=5),
       st.integers(-(10**9), 10**11))  # fmt: skip
def test_python_reads_back_whatever_is_packed(files: dict[str, bytes], modified: int) -> None:
    with zipfile.ZipFile(BytesIO(pack("zip", files, modified))) as packed:
        assert packed.testzip() is None
        assert {name: packed.read(name) for name in packed.namelist()} == files
    with tarfile.open(fileobj=BytesIO(pack("tar", files, modified)), mode="r:") as tar:
        assert {entry.name: tar.extractfile(entry).read() for entry in tar} == files  # type: ignore[union-attr]


def many(archive: Archive, count: int) -> None:
    """Record `count` renders with the same few bytes."""
    store = Path(archive.store.address)
    digest = sha256(put(store, "renders/p/0.pdf", b"%PDF- small").read_bytes()).hexdigest()
    with archive.catalog.transaction():
        ids = [f"r{number:07}" for number in range(count)]
        keys = [f"renders/p/{number}.pdf" for number in range(count)]
        for key in keys[1:]:
            (store / key).write_bytes(b"%PDF- small")
        made = "2026-06-05T10:00:00.120Z"
        archive.catalog.put(
            "renders",
            ((i, "p", None, "succeeded", None, key, made, made, None, None) for i, key in zip(ids, keys, strict=True)),
        )
        archive.catalog.add_assets(
            NewAsset(i, key, 11, digest, "first-read", "x", made) for i, key in zip(ids, keys, strict=True)
        )


def proven(archive: Archive, target: Path) -> Summary:
    assert summary_of(export_assets(archive, target, jobs=2)).outcome == "ok"
    return summary_of(check_export(target, jobs=2))


@pytest.mark.long
def test_a_zip_of_more_than_65535_entries_is_read_back(tmp_path: Path) -> None:
    with Archive.create(tmp_path / "archive") as archive:
        many(archive, 66_000)
        checked = proven(archive, tmp_path / "many.zip")
    assert (checked.outcome, checked.counts["ok"]) == ("ok", 66_003)
    with zipfile.ZipFile(tmp_path / "many.zip") as packed:
        assert len(packed.infolist()) == 66_004
        assert packed.read("p/2026/06/r0065999.pdf") == b"%PDF- small"
    subprocess.run([needs("unzip"), "-tqq", tmp_path / "many.zip"], check=True)


@pytest.fixture
def large(tmp_path: Path) -> Iterator[Archive]:
    """Make an archive of a sparse asset of 4 GiB and a byte, and small ones before and after it."""
    with Archive.create(tmp_path / "archive") as archive:
        store = Path(archive.store.address)
        made = "2026-06-05T10:00:00.120Z"
        sizes = {"a": 100, "b": (4 << 30) + 1, "c": 100}
        with archive.catalog.transaction():
            for name, size in sizes.items():
                key = f"renders/p/{name}.pdf"
                file = put(store, key, b"%PDF-")
                with file.open("r+b") as body:
                    body.truncate(size)
                with file.open("rb") as body:
                    hashed = sha256()
                    while chunk := body.read(1 << 22):
                        hashed.update(chunk)
                archive.catalog.put("renders", [(name, "p", None, "succeeded", None, key, made, made, None, None)])
                archive.catalog.add_assets([NewAsset(name, key, size, hashed.hexdigest(), "first-read", "x", made)])
        yield archive


@pytest.mark.long
@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", ["large.zip", "large.tar"])
def test_an_export_beyond_4_gib_is_read_back(large: Archive, tmp_path: Path, name: str) -> None:
    target = tmp_path / name
    assert proven(large, target).counts["ok"] == 6
    assert target.stat().st_size > 4 << 30
    if name.endswith(".zip"):
        with zipfile.ZipFile(target) as packed:
            assert packed.getinfo("p/2026/06/b.pdf").file_size == (4 << 30) + 1
            assert packed.read("p/2026/06/c.pdf") == b"%PDF-" + bytes(95)
        listed = subprocess.run([needs("unzip"), "-l", target], check=True, capture_output=True, text=True).stdout
    else:
        listed = subprocess.run([needs("bsdtar"), "-tvf", target], check=True, capture_output=True, text=True).stdout
    assert str((4 << 30) + 1) in listed
    target.unlink()
