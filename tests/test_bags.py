"""Bags and archives that others made: what the standard calls valid is good, and what it forbids is found.

The cases of the Library of Congress's conformance suite are made here anew, and so are zips as macOS and Windows write
them. Properties hold the rest to bagit-python and to the hashing programs of the system.
"""

import hashlib
import io
import os
import re
import shutil
import stat
import struct
import subprocess
import sys
import tarfile
import time
import unicodedata
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import bagit
import pytest
from hypothesis import assume, given, reject, settings
from hypothesis import strategies as st

from craftkit_archive.errors import ArchiveError, RequestError
from craftkit_archive.export.check import check_export
from craftkit_archive.records import Finding, Note, Skipped, Summary
from tests.worlds import ROOT, command, needs

PAYLOAD = {"data/a.txt": b"first", "data/b/two words.txt": b"second", "data/empty": b""}


@dataclass
class Bag:
    """A bag in the making; its fields are what the cases vary."""

    payload: dict[str, bytes] = field(default_factory=lambda: dict(PAYLOAD))
    version: str = "1.0"
    algorithms: tuple[str, ...] = ("sha256",)
    encoding: str = "UTF-8"
    codec: str = "utf-8"
    line: str = "{digest}  {path}"
    end: str = "\n"
    info: str = "Source-Organization: Somebody\nContact-Name: a name\n\tthat goes on\n"
    info_name: str = "bag-info.txt"
    declaration: bytes | None = None
    tags: bool = True
    fetch: str = ""
    more: dict[str, list[str]] = field(default_factory=dict)
    gone: tuple[str, ...] = ()

    def _lines(self, algorithm: str, files: dict[str, bytes]) -> str:
        digests = {path: hashlib.new(algorithm, body).hexdigest() for path, body in files.items()}
        lines = [self.line.format(digest=digest, path=_encoded(path)) for path, digest in digests.items()]
        return "".join(f"{line}{self.end}" for line in lines)

    def files(self) -> dict[str, bytes]:
        """Return every file of it, by path."""
        declared = f"BagIt-Version: {self.version}\nTag-File-Character-Encoding: {self.encoding}\n".encode()
        tags = {
            "bagit.txt": declared if self.declaration is None else self.declaration,
            self.info_name: self.info.encode(self.codec),
        }
        for algorithm in self.algorithms:
            name = f"manifest-{algorithm}.txt"
            text = self._lines(algorithm, self.payload) + "".join(
                f"{line}{self.end}" for line in self.more.get(name, [])
            )
            tags[name] = text.encode(self.codec)
        if self.fetch:
            tags["fetch.txt"] = self.fetch.encode(self.codec)
        if self.tags:
            lists = {f"tagmanifest-{name}.txt": self._lines(name, tags).encode(self.codec) for name in self.algorithms}
            tags |= lists
        files = {**tags, **self.payload}
        return {path: body for path, body in files.items() if path not in self.gone}

    def write(self, folder: Path) -> Path:
        """Write it into a folder."""
        write(folder, self.files())
        (folder / "data").mkdir(exist_ok=True)
        return folder


def _encoded(path: str) -> str:
    return path.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def write(folder: Path, files: dict[str, bytes]) -> None:
    """Write files, by path."""
    for path, body in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(body)


@dataclass
class Checked:
    """How a check ended."""

    outcome: str
    found: dict[str, str]
    notes: list[str]
    skipped: list[str]
    text: str = ""


def check(path: Path) -> Checked:
    """Check an export; one that is refused as a whole has problems."""
    try:
        records = list(check_export(path))
    except ArchiveError as error:
        return Checked("refused" if isinstance(error, RequestError) else "problems", {}, [], [], str(error))
    assert isinstance(records[-1], Summary)
    return Checked(
        records[-1].outcome,
        {record.key: record.verdict for record in records if isinstance(record, Finding)},
        [record.key for record in records if isinstance(record, Note)],
        [record.key for record in records if isinstance(record, Skipped)],
        str(records),
    )


# --- what is valid ---------------------------------------------------------------------------------------------------

OLD: dict[str, object] = {"version": "0.97"}
VALID: dict[str, dict[str, object]] = {
    "basic": {},
    "0.93": {"version": "0.93", "info_name": "package-info.txt", "end": "\r\n", "algorithms": ("md5",)},
    "0.94": {"version": "0.94", "info_name": "package-info.txt", "end": "\r\n", "algorithms": ("sha1",)},
    "0.95": {"version": "0.95", "info_name": "package-info.txt", "end": "\r\n"},
    "0.96": {"version": "0.96", "line": "{digest} {path}"},
    "0.97": OLD,
    "one space": {"line": "{digest} {path}"},
    "a tab": {"line": "{digest}\t{path}"},
    "many spaces and tabs": {"line": "{digest} \t  \t{path}"},
    "md5sum's binary mark": {"line": "{digest} *{path}"},
    "leading dot slash": {"line": "{digest}  ./{path}"},
    "CRLF": {"end": "\r\n"},
    "CR": {"end": "\r"},
    "no tag manifest": {"tags": False},
    "md5": {"algorithms": ("md5",)},
    "sha224": {"algorithms": ("sha224",)},
    "sha384": {"algorithms": ("sha384",)},
    "sha512": {"algorithms": ("sha512",)},
    "several manifests": {"algorithms": ("md5", "sha1", "sha256", "sha512")},
    "empty payload": {"payload": {}},
    "no bag-info": {"gone": ("bag-info.txt",), "tags": False},
    "payload-oxum": {"info": "Payload-Oxum: 11.3\n"},
    "payload-oxum of an empty payload": {"payload": {}, "info": "Payload-Oxum: 0.0\n"},
    "labels more than once": {"info": "Contact-Name: A\nContact-Name: B\n"},
    "uncommon separators": {**OLD, "info": "Test-Tag: 1\nTest-Tag:   2\nTest-Tag : 3\nTest-Tag\t:\t4\n"},
    "spaces in names": {"payload": {"data/ a  b .txt": b"x", "data/ ": b"y"}},
    "names with %, CR and LF": {
        "payload": {"data/100%.txt": b"1", "data/%0A": b"2", "data/a\r\nb": b"3", "data/%25": b""}
    },
    "names that look like codes, before 1.0": {
        **OLD,
        "line": "{digest} {path}",
        "payload": {"data/dir1/~test3.txt": b"a"},
    },
    "names in every alphabet": {
        "payload": {f"data/{name}": b"x" for name in ("é", "日本", "a\\b", "=1+1", "-x", "*x")}
    },
    "UTF-16 tag files": {"encoding": "UTF-16", "codec": "utf-16", "payload": {"data/ü": b"x"}},
    "UTF-16LE tag files": {"encoding": "utf-16le", "codec": "utf-16le", "payload": {"data/ü": b"x"}},
    "ISO-8859-1 tag files": {"encoding": "ISO-8859-1", "codec": "latin-1", "payload": {"data/ü": b"x"}},
    "a mark before UTF-8 in tag files": {"codec": "utf-8-sig"},
    "a bag in a bag": {"payload": {f"data/bag/{path}": body for path, body in Bag().files().items()}},
    "payload named like tag files": {"payload": {"data/bagit.txt": b"x", "data/manifest-md5.txt": b"y"}},
    "CRLF in bagit.txt": {"declaration": b"BagIt-Version: 1.0\r\nTag-File-Character-Encoding: UTF-8\r\n"},
    "no line end in bagit.txt": {"declaration": b"BagIt-Version: 1.0\nTag-File-Character-Encoding: UTF-8"},
    "spaces in an old bagit.txt": {
        "declaration": b"BagIt-Version : 0.96 \nTag-File-Character-Encoding :  UTF-8\n\n",
    },
    "a file of an old bag in one manifest of two": {
        **OLD,
        "algorithms": ("md5", "sha1"),
        "more": {"manifest-md5.txt": [f"{hashlib.md5(b'more').hexdigest()} data/more"]},
        "tags": False,
    },
    "upper-case digits": {"line": "{digest!u}  {path}"},
}


def make(case: dict[str, object], folder: Path) -> Path:
    """Write the bag of a case."""
    case = dict(case)
    if case.get("line") == "{digest!u}  {path}":
        case["line"] = "{digest}  {path}"
        bag = Bag(**case)  # type: ignore[arg-type]
        files = bag.files()
        name = "manifest-sha256.txt"
        files[name] = re.sub(rb"^[0-9a-f]{64}", lambda found: found[0].upper(), files[name], flags=re.MULTILINE)
        files.pop("tagmanifest-sha256.txt")
        write(folder, files)
        return folder
    Bag(**case).write(folder)  # type: ignore[arg-type]
    if case.get("more") and case is not None and "data/more" in str(case["more"]):
        (folder / "data/more").write_bytes(b"more")
    return folder


@pytest.mark.parametrize("name", VALID)
def test_what_the_standard_calls_valid_is_good(tmp_path: Path, name: str) -> None:
    made = make(VALID[name], tmp_path / "bag")
    checked = check(made)
    assert (checked.outcome, checked.found) == ("ok", {}), checked.text


@pytest.mark.parametrize("algorithm", sorted(hashlib.algorithms_guaranteed - {"shake_128", "shake_256"}))
@pytest.mark.parametrize("spell", [str, lambda name: name.replace("_", "")])
def test_every_algorithm_is_known_and_compared(tmp_path: Path, algorithm: str, spell: Callable[[str], str]) -> None:
    files = {"bagit.txt": Bag().files()["bagit.txt"], "data/a": b"x"}
    files[f"manifest-{spell(algorithm)}.txt"] = f"{hashlib.new(algorithm, b'x').hexdigest()} data/a\n".encode()
    write(tmp_path / "bag", files)
    assert check(tmp_path / "bag").outcome == "ok"
    (tmp_path / "bag/data/a").write_bytes(b"y")
    assert check(tmp_path / "bag").found == {"data/a": "wrong-digest"}


# --- what is not -----------------------------------------------------------------------------------------------------

ZEROS = "0" * 64
DIGEST = hashlib.sha256(b"first").hexdigest()


def bagit_txt(text: str) -> dict[str, object]:
    """Return the case of a `bagit.txt`."""
    return {"declaration": text.encode(), "tags": False}


def listed(*lines: str, **more: object) -> dict[str, object]:
    """Return the case of lines that a manifest has besides."""
    return {"more": {"manifest-sha256.txt": list(lines)}, **more}


UNSAFE = [
    "../../../README.md", "data/../../x", "data/..", "/tmp/foo", "~/foo", "~root/foo", "C:\\Windows\\setx.exe", "c:/x",
    "%HomeDrive%\\Windows", "\\\\?\\UNC\\server\\x", "\\\\server\\share", "data/..\\..\\x", "..",
]  # fmt: skip
INVALID: dict[str, dict[str, object]] = {
    "BOM in bagit.txt": {"declaration": b"\xef\xbb\xbf" + Bag().files()["bagit.txt"]},
    "UTF-16 bagit.txt": {"declaration": Bag().files()["bagit.txt"].decode().encode("utf-16")},
    "bagit.txt without encoding": bagit_txt("BagIt-Version: 1.0\n"),
    "bagit.txt without version": bagit_txt("Tag-File-Character-Encoding: UTF-8\n"),
    "empty bagit.txt": bagit_txt(""),
    "bagit.txt in another order": bagit_txt("Tag-File-Character-Encoding: UTF-8\nBagIt-Version: 1.0\n"),
    "bagit.txt with a third line": bagit_txt("BagIt-Version: 1.0\nTag-File-Character-Encoding: UTF-8\nX: 1\n"),
    "bagit.txt with spaces": bagit_txt("BagIt-Version : 1.0\nTag-File-Character-Encoding : UTF-8\n"),
    "bagit.txt with a space at the end": bagit_txt("BagIt-Version: 1.0 \nTag-File-Character-Encoding: UTF-8\n"),
    "version .97": bagit_txt("BagIt-Version: .97\nTag-File-Character-Encoding: UTF-8\n"),
    "version 2.0": bagit_txt("BagIt-Version: 2.0\nTag-File-Character-Encoding: UTF-8\n"),
    "endless version": bagit_txt(f"BagIt-Version: {'9' * 900}.0\nTag-File-Character-Encoding: UTF-8\n"),
    "an encoding that is none": bagit_txt("BagIt-Version: 1.0\nTag-File-Character-Encoding: UTF-9\n"),
    "an encoding that is Python's": bagit_txt("BagIt-Version: 1.0\nTag-File-Character-Encoding: punycode\n"),
    "an encoding that is no text": bagit_txt("BagIt-Version: 1.0\nTag-File-Character-Encoding: base64\n"),
    "another encoding than it says": {"codec": "utf-16", "payload": {"data/ü": b"x"}},
    "tag files not in UTF-8": {"codec": "latin-1", "payload": {"data/ü": b"x"}},
    "a file is gone": {"gone": ("data/a.txt",)},
    "a tag file is gone": {"gone": ("bag-info.txt",)},
    "the manifest is gone": {"gone": ("manifest-sha256.txt",)},
    "a name twice": listed(f"{DIGEST}  data/a.txt"),
    "a name twice, spelled otherwise": listed(f"{DIGEST}  ./data/a.txt"),
    "a name twice with another digest": listed(f"{ZEROS}  data/a.txt"),
    "a name twice with another digest in an old bag": listed(f"{ZEROS}  data/a.txt", **OLD),
    "a tag file in the payload's manifest": listed(f"{hashlib.sha256(Bag().info.encode()).hexdigest()}  bag-info.txt"),
    "a line that is none": listed("what is this?"),
    "a comment": listed("# a comment"),
    "a digest of another length": listed(f"{'0' * 32}  data/a.txt"),
    "payload-oxum of other bytes": {"info": "Payload-Oxum: 12.3\n"},
    "payload-oxum of other files": {"info": "Payload-Oxum: 11.4\n"},
    "payload-oxum that is none": {"info": "Payload-Oxum: eleven\n"},
    "bag-info with a line that is none": {"info": "no label here\n"},
    "fetch.txt with a line that is none": {"fetch": "data/a.txt\n"},
    "fetch.txt with what no manifest lists": {"fetch": "https://example.org/x - data/x\n"},
    "fetch.txt with a tag file": {"fetch": "https://example.org/x - bag-info.txt\n"},
    "not all manifests list all files": {
        "algorithms": ("sha256", "md5"),
        "more": {"manifest-md5.txt": [f"{hashlib.md5(b'more').hexdigest()} data/more"]},
        "tags": False,
    },
    **{f"unsafe {path}": listed(f"{DIGEST}  {path}") for path in UNSAFE},
    **{f"unsafe {path} in an old bag": listed(f"{DIGEST}  {path}", **OLD) for path in UNSAFE},
    **{f"unsafe {path} to fetch": {"fetch": f"https://example.org/x - {path}\n"} for path in UNSAFE},
}  # fmt: skip


@pytest.mark.parametrize("name", INVALID)
def test_what_the_standard_forbids_is_found(tmp_path: Path, name: str) -> None:
    checked = check(make(INVALID[name], tmp_path / "bag"))
    assert checked.outcome == "problems", checked.text
    assert checked.found or checked.text.endswith("."), checked.text


def test_an_extra_file_and_a_payload_folder_that_is_gone_are_found(tmp_path: Path) -> None:
    made = Bag().write(tmp_path / "bag")
    (made / "data/extra").write_bytes(b"")
    assert check(made).found == {"data/extra": "orphan"}
    made = Bag(payload={}).write(tmp_path / "empty")
    (made / "data").rmdir()
    assert check(made).found == {"data/": "missing"}


def test_a_bag_with_no_algorithm_that_is_known_is_not_called_good(tmp_path: Path) -> None:
    made = Bag(tags=False).write(tmp_path / "bag")
    (made / "manifest-sha256.txt").rename(made / "manifest-whirlpool.txt")
    assert "whirlpool" in check(made).text
    assert check(made).outcome == "problems"
    Bag(tags=False).write(tmp_path / "bag")
    checked = check(made)
    assert (checked.outcome, checked.notes) == ("ok", ["manifest-whirlpool.txt"])


def test_what_is_odd_and_allowed_is_a_note(tmp_path: Path) -> None:
    made = make(listed(f"{DIGEST}  data/a.txt", **OLD), tmp_path / "twice")
    assert (check(made).outcome, check(made).notes) == ("ok", ["manifest-sha256.txt"])
    made = Bag(payload={unicodedata.normalize("NFD", "data/Núñez"): b""}).write(tmp_path / "accents")
    (made / unicodedata.normalize("NFD", "data/Núñez")).rename(made / unicodedata.normalize("NFC", "data/Núñez"))
    assert (check(made).outcome, check(made).notes) == ("ok", [unicodedata.normalize("NFC", "data/Núñez")])


def test_a_weak_digest_that_is_wrong_beside_a_strong_one_that_is_right_is_found(tmp_path: Path) -> None:
    made = Bag(algorithms=("md5", "sha512"), tags=False).write(tmp_path / "bag")
    manifest = made / "manifest-md5.txt"
    manifest.write_text(manifest.read_text().replace(hashlib.md5(b"first").hexdigest(), "0" * 32))
    checked = check(made)
    assert checked.found == {"data/a.txt": "wrong-digest"}
    assert "its sha512 is right" in checked.text


def test_manifests_in_different_orders_are_compared_as_well(tmp_path: Path) -> None:
    made = Bag(algorithms=("md5", "sha512"), tags=False).write(tmp_path / "bag")
    manifest = made / "manifest-md5.txt"
    manifest.write_text("".join(reversed(manifest.read_text().splitlines(keepends=True))))
    assert check(made).outcome == "ok"
    (made / "data/a.txt").write_bytes(b"First")
    assert check(made).found == {"data/a.txt": "wrong-digest"}


# --- holes -----------------------------------------------------------------------------------------------------------


def test_a_bag_with_holes_is_incomplete_and_nothing_is_fetched(tmp_path: Path) -> None:
    fetch = "http://127.0.0.1:1/a - data/a.txt\r\nhttp://127.0.0.1:1/b 6 data/b/two words.txt\r\n"
    made = Bag(fetch=fetch, gone=("data/a.txt",), info="Payload-Oxum: 11.3\n").write(tmp_path / "bag")
    checked = check(made)
    assert (checked.outcome, checked.found, checked.skipped) == ("incomplete", {}, ["data/a.txt"])
    done = command("--json", "export-check", made)
    assert (done.code, done.lines[-1]["counts"]["lacking"]) == (3, 1)
    (made / "data/empty").unlink()
    assert check(made).found == {"data/empty": "missing"}


# --- links -----------------------------------------------------------------------------------------------------------


def test_a_link_that_leads_out_is_not_followed_and_one_inside_is(tmp_path: Path) -> None:
    made = Bag().write(tmp_path / "bag")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/a.txt").write_bytes(b"first")
    (made / "data/a.txt").unlink()
    (made / "data/a.txt").symlink_to(tmp_path / "outside/a.txt")
    assert check(made).found == {"data/a.txt": "missing"}
    (made / "data/a.txt").unlink()
    (made / "tag.txt").write_bytes(b"first")
    (made / "data/a.txt").symlink_to("../tag.txt")
    assert check(made).outcome == "ok"
    (made / "data/a.txt").unlink()
    (made / "data/a.txt").symlink_to("a.txt")
    assert check(made).found == {"data/a.txt": "missing"}
    shutil.rmtree(made / "data")
    (made / "data").symlink_to(tmp_path / "outside")
    assert check(made).found["data/a.txt"] == "missing"


# --- bagit-python ----------------------------------------------------------------------------------------------------

NAMES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="/\0"), min_size=1, max_size=20).filter(
    lambda name: name not in (".", "..") and len(name.encode()) < 200
)
ALGORITHMS = sorted(hashlib.algorithms_guaranteed - {"shake_128", "shake_256"})
FILES = st.dictionaries(
    st.lists(NAMES, min_size=1, max_size=2).map("/".join), st.binary(max_size=200), min_size=1, max_size=5
)


def bag_of(folder: Path, files: dict[str, bytes], algorithms: list[str]) -> Path:
    """Let bagit-python make a bag."""
    files = {
        path: body for path, body in files.items() if not any(f"{path}/" == other[: len(path) + 1] for other in files)
    }
    write(folder, files)
    try:
        bagit.make_bag(str(folder), {"Contact-Name": "Étienne"}, checksums=algorithms)
    except bagit.BagError:  # it opens what it made, and takes a path with odd spaces in it for another
        reject()
    return folder


@settings(max_examples=60, deadline=None)
@given(files=FILES, algorithms=st.lists(st.sampled_from(ALGORITHMS), min_size=1, max_size=3, unique=True))
def test_every_bag_of_bagit_python_is_good(
    tmp_path_factory: pytest.TempPathFactory, files: dict[str, bytes], algorithms: list[str]
) -> None:
    made = bag_of(tmp_path_factory.mktemp("bag") / "bag", files, algorithms)
    checked = check(made)
    # A name that is the code of another's name stands there as the same line.
    assume(len({path.replace("%0D", "\r").replace("%0A", "\n") for path in files}) == len(files))
    assert (checked.outcome, checked.found) == ("ok", {}), checked.text


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_every_single_change_is_found(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    algorithms = data.draw(st.lists(st.sampled_from(["md5", "sha1", "sha256", "sha512"]), min_size=1, max_size=2))
    files = {"a.pdf": b"%PDF-1", "b/c d.pdf": b"%PDF-22", "ü.pdf": b""}
    made = bag_of(tmp_path_factory.mktemp("bag") / "bag", files, sorted(set(algorithms)))
    paths = sorted(path for path in made.rglob("*") if path.is_file())
    path = data.draw(st.sampled_from(paths))
    change = data.draw(st.sampled_from(["flip", "delete", "add", "cut", "line"]))
    body = path.read_bytes()
    if change == "flip":
        assume(body)
        place = data.draw(st.integers(0, len(body) - 1))
        changed = bytearray(body)
        changed[place] ^= data.draw(st.sampled_from([1, 2, 4, 8, 16, 64, 128]))
        path.write_bytes(changed)
    elif change == "delete":
        assume(not path.name.startswith("tagmanifest-"))
        path.unlink()
    elif change == "add":
        (made / "data" / data.draw(st.sampled_from(["new", ".hidden", "a.pdf2"]))).write_bytes(b"")
    elif change == "cut":
        assume(body and not path.name.startswith("tagmanifest-"))
        path.write_bytes(body[: data.draw(st.integers(0, len(body) - 1))])
    else:
        path = data.draw(st.sampled_from([one for one in paths if "manifest-" in one.name]))
        lines = path.read_bytes().splitlines(keepends=True)
        assume(len(lines) > 0)
        lines.insert(data.draw(st.integers(0, len(lines))), b"0" * len(lines[0].split()[0]) + b"  data/new\n")
        path.write_bytes(b"".join(lines))
    assume(_means_something_else(path, body))
    assert check(made).outcome == "problems", (path.name, change)


def _means_something_else(path: Path, before: bytes) -> bool:
    """Leave out changes of a tag manifest, which nothing else vouches for, that change only how it is spaced."""
    if not path.name.startswith("tagmanifest-") or not path.exists():
        return True
    meant = [b" ".join(line.replace(b" *", b" ").split()).lower() for line in re.split(rb"[\r\n]+", path.read_bytes())]
    return meant != [b" ".join(line.split()).lower() for line in re.split(rb"[\r\n]+", before)]


@pytest.mark.parametrize("name", [*VALID, *INVALID])
def test_bagit_python_agrees_where_it_keeps_to_the_standard(tmp_path: Path, name: str) -> None:
    made = make((VALID | INVALID)[name], tmp_path / "bag")
    try:
        bagit.Bag(str(made)).validate()
        theirs = True
    except (bagit.BagError, UnicodeError, LookupError, ValueError, OSError, AttributeError, TypeError):
        theirs = False
    assert (check(made).outcome == "ok") == theirs or name in DISAGREED


# Where bagit-python 1.9 does not keep to the standard: it cuts spaces off names, takes `%25` for itself, looks less
# closely at bagit.txt, skips comments, and asks neither what fetch.txt is for nor whether every manifest is complete.
DISAGREED = {
    "spaces in names",
    "names with %, CR and LF",
    "bagit.txt in another order",
    "bagit.txt with a third line",
    "bagit.txt with spaces",
    "bagit.txt with a space at the end",
    "a comment",
    "fetch.txt with what no manifest lists",
    "fetch.txt with a tag file",
    "not all manifests list all files",
    *(f"unsafe {path} to fetch" for path in UNSAFE if path.startswith(("data/", "%", "C:", "c:", "\\\\"))),
}


# --- packed ----------------------------------------------------------------------------------------------------------


def zipped(files: dict[str, bytes], path: Path, how: int = zipfile.ZIP_STORED) -> None:
    """Pack as Python does."""
    with zipfile.ZipFile(path, "w", how) as packed:
        for name, body in files.items():
            packed.writestr(name, body)


def tarred(files: dict[str, bytes], path: Path, mode: str = "w") -> None:
    """Pack into a tar, compressed or not."""
    with tarfile.open(path, mode) as packed:  # type: ignore[call-overload]
        for name, body in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(body)
            packed.addfile(entry, io.BytesIO(body))


def zip_by_hand(
    files: dict[str, bytes],
    *,
    host: int = 3,
    flags: int = 0,
    name: Callable[[str], bytes] = str.encode,
    packed: Callable[[bytes], bytes] | None = None,
    follows: bool = False,
) -> bytes:
    """Pack as APPNOTE.TXT has it, in ways that Python does not write; with `follows`, sizes stand behind the bytes."""
    out, directory = b"", b""
    method = 8 if packed else 0
    flags |= 8 if follows else 0
    for path, body in files.items():
        raw, bytes_ = name(path), packed(body) if packed else body
        known = (zlib.crc32(body), len(bytes_), len(body))
        head = struct.pack("<HHHI", 20, flags, method, 0)
        directory += b"PK\1\2" + struct.pack("<H", host << 8 | 20) + head + struct.pack("<III", *known)
        directory += struct.pack("<HHHHHII", len(raw), 0, 0, 0, 0, 0, len(out)) + raw
        out += b"PK\3\4" + head + struct.pack("<III", *((0, 0, 0) if follows else known))
        out += struct.pack("<HH", len(raw), 0) + raw + bytes_
        out += b"PK\7\x08" + struct.pack("<III", *known) if follows else b""
    end = struct.pack("<HHHHIIH", 0, 0, len(files), len(files), len(directory), len(out), 0)
    return out + directory + b"PK\5\6" + end


def deflated(body: bytes) -> bytes:
    """Compress as zip has it."""
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(body) + packer.flush()


PACKED: dict[str, Callable[[dict[str, bytes], Path], None]] = {
    "zip": zipped,
    "deflated.zip": lambda files, path: zipped(files, path, zipfile.ZIP_DEFLATED),
    "tar": tarred,
    "tar.gz": lambda files, path: tarred(files, path, "w:gz"),
    "tgz": lambda files, path: tarred(files, path, "w:gz"),
    "tar.bz2": lambda files, path: tarred(files, path, "w:bz2"),
    "tar.xz": lambda files, path: tarred(files, path, "w:xz"),
    "descriptors.zip": lambda files, path: _by_hand(path, files, packed=deflated, follows=True),
    "unflagged.zip": lambda files, path: _by_hand(path, files),
    "windows.zip": lambda files, path: _by_hand(path, files, host=0, name=lambda one: one.replace("/", "\\").encode()),
    "macos.zip": lambda files, path: _by_hand(path, files | _apple_doubles(files), packed=deflated, follows=True),
}


def _by_hand(path: Path, files: dict[str, bytes], **how: object) -> None:
    path.write_bytes(zip_by_hand(files, **how))  # type: ignore[arg-type]


def _apple_doubles(files: dict[str, bytes]) -> dict[str, bytes]:
    doubles = {f"__MACOSX/{path.rpartition('/')[0]}/._{path.rpartition('/')[2]}": b"\0\5\x16\7" for path in files}
    return {**doubles, "__MACOSX/._bag": b"\0\5\x16\7", ".DS_Store": b"Bud1"}


def in_folder(files: dict[str, bytes], folder: str = "bag/") -> dict[str, bytes]:
    """Put files into the one folder around everything."""
    return {f"{folder}{path}": body for path, body in files.items()}


ACCENTS = PAYLOAD | {"data/Müller.txt": b"accents"}


@pytest.mark.parametrize("folder", ["", "bag/"])
@pytest.mark.parametrize("form", PACKED)
def test_a_packed_bag_is_checked_as_a_folder_is(tmp_path: Path, form: str, folder: str) -> None:
    files = Bag(payload=ACCENTS, info="Payload-Oxum: 18.4\n").files()
    PACKED[form](in_folder(files, folder), tmp_path / f"bag.{form}")
    checked = check(tmp_path / f"bag.{form}")
    assert (checked.outcome, checked.found) == ("ok", {}), checked.text
    files["data/a.txt"] = b"First"
    files["data/new"] = b""
    PACKED[form](in_folder(files, folder), tmp_path / f"bag.{form}")
    assert check(tmp_path / f"bag.{form}").found == {"data/a.txt": "wrong-digest", "data/new": "orphan"}


def test_the_alphabet_of_dos_is_read(tmp_path: Path) -> None:
    files = in_folder(Bag(payload=ACCENTS).files())
    (tmp_path / "bag.zip").write_bytes(zip_by_hand(files, host=0, name=lambda one: one.encode("cp437")))
    assert check(tmp_path / "bag.zip").outcome == "ok"


def test_what_unpacks_a_compressed_tar_leaves_nothing_behind(tmp_path: Path) -> None:
    tarred(Bag().files(), tmp_path / "bag.tgz", "w:gz")
    (tmp_path / "tmp").mkdir()
    done = command("export-check", tmp_path / "bag.tgz", env={"TMPDIR": str(tmp_path / "tmp")})
    assert done.code == 0, done.err
    assert not list((tmp_path / "tmp").iterdir())
    (tmp_path / "bag.tgz").write_bytes((tmp_path / "bag.tgz").read_bytes()[:-20])
    done = command("export-check", tmp_path / "bag.tgz", env={"TMPDIR": str(tmp_path / "tmp")})
    assert (done.code, done.err.count("\n")) == (1, 1), done.err
    assert not list((tmp_path / "tmp").iterdir())


def test_a_file_that_a_tar_holds_under_two_names_is_good(tmp_path: Path) -> None:
    made = Bag(payload={"data/a": b"same", "data/b": b"same"}).write(tmp_path / "bag")
    (made / "data/b").unlink()
    (made / "data/b").hardlink_to(made / "data/a")
    with tarfile.open(tmp_path / "bag.tar", "w") as packed:
        packed.add(made, "bag")
    checked = check(tmp_path / "bag.tar")
    assert (checked.outcome, checked.found) == ("ok", {}), checked.text


# --- plain exports of others -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("manifest", ["manifest-sha256.txt", "SHA256SUMS", "sha256sums.txt", "SHA512SUMS", "MD5SUMS"])
@pytest.mark.parametrize("options", [[], ["--binary"], ["--tag"]])
def test_what_the_hashing_programs_of_the_system_write_is_read(
    tmp_path: Path, manifest: str, options: list[str]
) -> None:
    names = [
        b"a.pdf",
        b"new\nline",
        b"back\\slash",
        b"not UTF-8 \xff",
        " ü ".encode(),
        b"(x) = y",
        b"100%25",
        b"dir/*star",
    ]
    (tmp_path / "dir").mkdir()
    for name in names:
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name)).write_bytes(name)
    program = f"{re.search('md5|sha[0-9]+', manifest.lower())[0]}sum"  # type: ignore[index]
    told = subprocess.run([needs(program), *options, *names], cwd=tmp_path, capture_output=True, check=True).stdout
    (tmp_path / manifest).write_bytes(b"# made by a program of the system\n" + told)
    checked = check(tmp_path)
    assert (checked.outcome, checked.found) == ("ok", {}), checked.text
    (tmp_path / "new\nline").write_bytes(b"")
    (tmp_path / "extra\nline").write_bytes(b"")
    assert check(tmp_path).found == {"new\\nline": "wrong-digest", "extra\\nline": "orphan"}


def test_tables_of_others_that_are_named_like_ours_are_not_taken_for_them(tmp_path: Path) -> None:
    files = {"index.csv": b"what;ever\n\xff", "seal.txt": b"\xff", "missing.csv": b"a\nb\n", "data/x.txt": b"x"}
    write(tmp_path / "out", files)
    lines = [f"{hashlib.sha256(body).hexdigest()}  {path}\n" for path, body in files.items()]
    (tmp_path / "out/SHA256SUMS").write_text("".join(lines))
    (tmp_path / "out/SHA256SUMS.asc").write_text("a signature")
    assert check(tmp_path / "out").outcome == "ok"


# --- hostile ---------------------------------------------------------------------------------------------------------


def _bomb() -> bytes:
    """Pack a thousand files that all share the same bytes."""
    one = zip_by_hand({"data/x0000": b"\0" * (10 << 20)}, packed=deflated)
    place = one.index(b"PK\1\2")
    body, record = one[:place], one[place : one.index(b"PK\5\6")]
    directory = b"".join(record.replace(b"x0000", b"x%04d" % number) for number in range(1000))
    return body + directory + b"PK\5\6" + struct.pack("<HHHHIIH", 0, 0, 1000, 1000, len(directory), len(body), 0)


def _lying(size: int) -> bytes:
    """Pack a file whose directory gives it another size than it has."""
    body = b"x" * 1000
    files = {"SHA256SUMS": f"{hashlib.sha256(body).hexdigest()}  x\n".encode(), "x": body}
    packed = zip_by_hand(files, packed=deflated)
    return packed.replace(struct.pack("<I", 1000), struct.pack("<I", size))


def _tar_of(*entries: tarfile.TarInfo) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as packed:
        for entry in entries:
            packed.addfile(entry)
    return out.getvalue()


def _linked(name: str, to: str, kind: bytes = tarfile.LNKTYPE) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname = kind, to
    return entry


def _long_head() -> bytes:
    """Write a tar whose one file has a name of gigabytes, as it says."""
    head = tarfile.TarInfo("x")
    head.type, head.size = tarfile.GNUTYPE_LONGNAME, 4 << 30
    return head.tobuf(tarfile.GNU_FORMAT) + b"x" * 4096


def _heads(count: int) -> bytes:
    """Write a tar of heads each of which extends the next."""
    head = tarfile.TarInfo("x")
    head.type = tarfile.XHDTYPE
    return head.tobuf(tarfile.USTAR_FORMAT) * count


HOSTILE: dict[str, Callable[[], bytes]] = {
    "a bomb of shared bytes": _bomb,
    "a file that unpacks to more than it says": lambda: _lying(999),
    "a file that unpacks to less than it says": lambda: _lying(1001),
    "a file that says 4 GiB": lambda: _lying(0xFFFFFFF0),
    "a zip that writes outside": lambda: zip_by_hand({"SHA256SUMS": b"", "../x": b"x"}),
    "a tar that writes outside": lambda: _tar_of(tarfile.TarInfo("SHA256SUMS"), tarfile.TarInfo("a/../../x")),
    "a tar of the root": lambda: _tar_of(tarfile.TarInfo("SHA256SUMS"), tarfile.TarInfo("/etc/x")),
    "links in a circle": lambda: _tar_of(tarfile.TarInfo("SHA256SUMS"), _linked("a", "b"), _linked("b", "a")),
    "links that lead out": lambda: _tar_of(
        tarfile.TarInfo("SHA256SUMS"), _linked("a", "/etc/passwd", tarfile.SYMTYPE), _linked("b", "../../x")
    ),
    "a name of gigabytes": _long_head,
    "heads of heads": lambda: _heads(3000),
    "a thousand manifests": lambda: zip_by_hand({f"manifest-x{number}.txt": b"" for number in range(1200)}),
    "a manifest that is a folder": lambda: zip_by_hand({"SHA256SUMS/x": b""}),
    "gzip of nothing": lambda: b"\x1f\x8b\x08\0\0\0\0\0\0\3\3\0\0\0\0\0\0\0\0\0",
    "gzip that breaks off": lambda: b"\x1f\x8b\x08\0",
    "xz that is none": lambda: b"\xfd7zXZ\0" + b"x" * 100,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_archive_ends_in_a_sentence(tmp_path: Path, name: str) -> None:
    (tmp_path / "x.zip").write_bytes(HOSTILE[name]())
    begun = time.monotonic()
    done = command("--json", "export-check", tmp_path / "x.zip")
    assert done.code in (1, 2), done.err
    assert "Traceback" not in done.err
    assert time.monotonic() - begun < 30


def test_lines_of_gigabytes_do_not_fill_the_memory(tmp_path: Path) -> None:
    for name, declaration in (("bag", Bag().files()["bagit.txt"]), ("plain", b"")):
        (tmp_path / name / "data").mkdir(parents=True)
        if declaration:
            (tmp_path / name / "bagit.txt").write_bytes(declaration)
        with (tmp_path / name / "manifest-sha256.txt").open("wb") as file:
            file.truncate(3 << 30)
        code = (
            "import resource; resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30));"
            f"import cli, sys; sys.argv[1:] = ['export-check', {str(tmp_path / name)!r}]; cli.main()"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
        assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
        assert "line 1" in done.stderr


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    made = Bag().write(tmp_path / "bag")
    (made / "data/a.txt").unlink()
    os.mkfifo(made / "data/a.txt")
    assert stat.S_ISFIFO((made / "data/a.txt").stat().st_mode)
    assert check(made).found == {"data/a.txt": "missing"}
    (made / "data/a.txt").unlink()
    (made / "data/a.txt").mkdir()
    assert check(made).found == {"data/a.txt": "missing"}


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_no_damage_to_any_file_of_a_bag_is_a_bug_of_ours(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    files = Bag(algorithms=("md5", "sha256"), fetch="https://x/ - data/a.txt\n", version="0.97").files()
    path = data.draw(st.sampled_from([path for path in files if not path.startswith("data/")]))
    body = data.draw(st.binary(max_size=40) | st.text(max_size=20).map(str.encode))
    place = data.draw(st.integers(0, len(files[path])))
    files[path] = files[path][:place] + body + files[path][place + data.draw(st.integers(0, 40)) :]
    folder = tmp_path_factory.mktemp("bag")
    write(folder, files)
    check(folder)
    zipped(files, folder / "bag.zip", zipfile.ZIP_DEFLATED)
    check(folder / "bag.zip")
