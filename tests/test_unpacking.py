"""Finding the files in zips and tars that anybody made."""

import io
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from craftkit_archive.errors import AssetUnreadableError
from craftkit_archive.export.unpacking import MemberIndex, Part

Files = dict[str, bytes]
Pack = Callable[[Files, Path], None]

ROOT_FILE = "manifest.txt"
NAMES = st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="/\\"), min_size=1, max_size=40)
FILES = st.dictionaries(
    st.lists(NAMES.filter(lambda name: name not in (".", "..")), min_size=1, max_size=3).map("/".join),
    st.binary(max_size=2000),
    min_size=1,
    max_size=8,
)


def zipped(files: Files, path: Path) -> None:
    """Pack as Python does."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.mkdir("empty folder")
        for name, body in files.items():
            archive.writestr(name, body)


def zipped_wide(files: Files, path: Path) -> None:
    """Pack with 64 bits for everything, and a comment."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.comment = b"PK\5\6 is how an end begins"
        for name, body in files.items():
            with archive.open(name, "w", force_zip64=True) as file:
                file.write(body)


def zipped_as_it_came(files: Files, path: Path) -> None:
    """Pack into what cannot be sought in: the checksums follow."""

    class Pipe(io.RawIOBase):
        def __init__(self) -> None:
            self.written = b""

        def writable(self) -> bool:
            return True

        def write(self, data: object) -> int:
            self.written += bytes(data)  # type: ignore[call-overload]
            return len(data)  # type: ignore[arg-type]

    pipe = Pipe()
    with zipfile.ZipFile(pipe, "w") as archive:
        for name, body in files.items():
            archive.writestr(name, body)
    path.write_bytes(pipe.written)


def tarred(files: Files, path: Path) -> None:
    """Pack as tar does of a folder."""
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        for name, body in files.items():
            entry = tarfile.TarInfo(f"./{name}")
            entry.size = len(body)
            archive.addfile(entry, io.BytesIO(body))


PACKERS = [zipped, zipped_wide, zipped_as_it_came, tarred]


def body_of(part: Part | None) -> bytes:
    """Read what is in a place."""
    assert part is not None
    with open(part.file, "rb") as file:  # noqa: PTH123
        file.seek(part.offset)
        return file.read(part.size_bytes)


@pytest.mark.long
@pytest.mark.parametrize("pack", PACKERS)
@settings(deadline=None)  # files on a disk that others use too
@given(files=FILES)
def test_every_file_is_found_where_its_bytes_are(
    tmp_path_factory: pytest.TempPathFactory, pack: Pack, files: Files
) -> None:
    # A name that is also a folder of another cannot be in a real folder.
    files = {name: body for name, body in files.items() if not any(other.startswith(f"{name}/") for other in files)}
    path = tmp_path_factory.mktemp("packed") / "out"
    files[ROOT_FILE] = b"at the top"
    pack(files, path)
    places = MemberIndex(path, ROOT_FILE.__eq__)
    assert {name: body_of(places.find(name)) for name in files} == files
    assert {name: body_of(part) for name, part in places} == files
    assert places.find("no such file") is None


@pytest.mark.parametrize("pack", [zipped_wide, tarred])
def test_the_one_folder_around_everything_does_not_count(tmp_path: Path, pack: Pack) -> None:
    pack({f"bag/{ROOT_FILE}": b"m", "bag/data/a.pdf": b"a"}, tmp_path / "out")
    places = MemberIndex(tmp_path / "out", ROOT_FILE.__eq__)
    assert body_of(places.find("data/a.pdf")) == b"a"
    assert sorted(name for name, _ in places) == ["data/a.pdf", ROOT_FILE]


@pytest.mark.parametrize("pack", PACKERS)
def test_a_name_that_is_there_twice_is_refused(tmp_path: Path, pack: Pack) -> None:
    pack({"a.pdf": b"a", "b.pdf": b"b", ROOT_FILE: b""}, tmp_path / "out")
    packed = (tmp_path / "out").read_bytes().replace(b"b.pdf", b"a.pdf")
    if pack is tarred:
        with tarfile.open(tmp_path / "out", "w") as archive:
            for _ in range(2):
                archive.addfile(tarfile.TarInfo("a.pdf"))
    else:
        (tmp_path / "out").write_bytes(packed)
    with pytest.raises(AssetUnreadableError, match=r"'a\.pdf' twice"):
        MemberIndex(tmp_path / "out", ROOT_FILE.__eq__)


def test_what_is_packed_in_a_way_that_is_not_read_here_is_reported(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "out", "w", zipfile.ZIP_BZIP2) as archive:
        archive.writestr("a.pdf", b"a" * 100)
    with pytest.raises(AssetUnreadableError, match="Unpack it"):
        MemberIndex(tmp_path / "out", ROOT_FILE.__eq__)


@pytest.mark.parametrize("pack", PACKERS)
@settings(deadline=None)
@given(data=st.data())
def test_no_damage_whatever_is_a_bug_of_ours(
    tmp_path_factory: pytest.TempPathFactory, pack: Pack, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("packed") / "out"
    pack({"a.pdf": b"a" * 50, "b.pdf": b"b" * 50, ROOT_FILE: b"m"}, path)
    packed = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        packed[data.draw(st.integers(0, len(packed) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(packed[: data.draw(st.integers(0, len(packed)))])
    try:
        for _, part in MemberIndex(path, ROOT_FILE.__eq__):
            assert part.offset >= 0
    except AssetUnreadableError:
        pass


def test_what_stands_before_a_zip_is_told(tmp_path: Path) -> None:
    zipped({"a.pdf": b"a"}, tmp_path / "plain")
    (tmp_path / "out").write_bytes(b"#!/bin/sh\n" + (tmp_path / "plain").read_bytes())
    with pytest.raises(AssetUnreadableError, match="not where its end says"):
        MemberIndex(tmp_path / "out", ROOT_FILE.__eq__)


def test_a_directory_that_says_more_or_less_than_its_end_is_told(tmp_path: Path) -> None:
    for change in (-1, 1):
        zipped({"a.pdf": b"a", "b.pdf": b"b"}, tmp_path / "out")
        packed = bytearray((tmp_path / "out").read_bytes())
        count = struct.unpack_from("<H", packed, len(packed) - 12)[0]
        struct.pack_into("<H", packed, len(packed) - 12, count + change)
        (tmp_path / "out").write_bytes(packed)
        with pytest.raises(AssetUnreadableError):
            MemberIndex(tmp_path / "out", ROOT_FILE.__eq__)
