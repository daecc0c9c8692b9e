"""The tag files of a bag, written as BagIt 1.0 and read from version 0.93 on; independent of archives.

Source: RFC 8493; draft-kunze-bagit-00 to -14 for the versions before 1.0.
"""

import codecs
import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from craftkit_archive.errors import RequestError

PAYLOAD = "data/"
INFO = "bag-info.txt"
OLD_INFO = "package-info.txt"  # until 0.95
FETCH = "fetch.txt"
MOST_DECLARATION_BYTES = 1000
DECLARATION_TEXT = b"BagIt-Version: 1.0\nTag-File-Character-Encoding: UTF-8\n"
# Labels that the export writes itself.
OWN_LABELS = ("payload-oxum", "bagging-date", "external-identifier", "bag-count", "bag-group-identifier")

_VERSION = re.compile(r"BagIt-Version: (\d{1,4})\.(\d{1,4})")
_OLD_VERSION = re.compile(r"BagIt-Version\s*:\s*(\d{1,4})\.(\d{1,4})\s*")
_ENCODING = re.compile(r"Tag-File-Character-Encoding: (\S+)")
_OLD_ENCODING = re.compile(r"Tag-File-Character-Encoding\s*:\s*(\S+)\s*")
_OLDEST, _NEWEST_DRAFT, _STANDARD = (0, 93), (0, 99), (1, 0)
# Only character encodings are allowed: Python's other codecs may take forever, or execute what they read.
_ALPHABETS = re.compile(r"utf-(8|16|32)|ascii|iso|cp\d|euc|gb|big5|koi8|mac-|shift_jis|tis-620")
_FETCH_LINE = re.compile(r"(\S+)[ \t]+(\d{1,20}|-)[ \t]+(.+)")
_OXUM = re.compile(r"(\d{1,20})\.(\d{1,20})")
_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


class Declaration(NamedTuple):
    """The content of `bagit.txt`: the version of BagIt, and the encoding of the other tag files by Python's name."""

    version: tuple[int, int]
    encoding: str

    @property
    def is_standard(self) -> bool:
        """Whether it is version 1.0, which requires that every manifest lists every file exactly once."""
        return self.version >= _STANDARD


class Hole(NamedTuple):
    """A file that is missing from a bag, and that its `fetch.txt` says where to fetch."""

    url: str
    size_bytes: int | None
    path: str


def parse_declaration(data: bytes) -> Declaration:
    """Parse `bagit.txt`.

    Raises:
        ValueError: It violates the standard, or is of an unknown version; the message says how.
    """
    if data.startswith((codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise ValueError("it begins with a byte order mark")
    try:
        lines = re.split(r"\r\n|\r|\n", data.decode())
    except UnicodeDecodeError as error:
        raise ValueError("it is not UTF-8") from error
    if len(lines) > 2 and not lines[-1]:
        lines.pop()
    old = _OLD_VERSION.fullmatch(lines[0])
    is_draft = old is not None and _OLDEST <= (int(old[1]), int(old[2])) <= _NEWEST_DRAFT
    while is_draft and len(lines) > 2 and not lines[-1].strip():
        lines.pop()
    found = old if is_draft else _VERSION.fullmatch(lines[0])
    named = (_OLD_ENCODING if is_draft else _ENCODING).fullmatch(lines[1]) if len(lines) == 2 else None
    if found is None or named is None:
        raise ValueError("it must have two lines, BagIt-Version: 1.0 and Tag-File-Character-Encoding: UTF-8")
    version = int(found[1]), int(found[2])
    if not is_draft and version != _STANDARD:
        raise ValueError(f"BagIt {found[1]}.{found[2]} is not a known version")
    return Declaration(version, _alphabet(named[1]))


def _alphabet(name: str) -> str:
    try:
        known = codecs.lookup(name).name
    except (LookupError, ValueError) as error:
        raise ValueError(f"the encoding {name} is unknown") from error
    if not _ALPHABETS.match(known):
        raise ValueError(f"the encoding {name} is unknown")
    # Editors on Windows put a byte-order mark before UTF-8, which is forbidden only in bagit.txt itself.
    return "utf-8-sig" if known == "utf-8" else known


def parse_fetch_line(line: str) -> Hole | None:
    """Parse a line of `fetch.txt` without its line break; None if it is not valid."""
    found = _FETCH_LINE.fullmatch(line)
    return Hole(found[1], None if found[2] == "-" else int(found[2]), found[3]) if found else None


def parse_oxums(lines: Iterable[str]) -> Iterator[tuple[int, int] | None]:
    """Yield each `Payload-Oxum` in `bag-info.txt` as bytes and files of the payload; None for one that is malformed.

    Raises:
        ValueError: A line is neither a label with its value nor the continuation of one.
    """
    for number, line in enumerate(lines, 1):
        text = line.rstrip("\r\n")
        if not text.strip() or (number > 1 and text[0] in " \t"):
            continue
        label, colon, value = text.partition(":")
        if not colon or not label.strip():
            raise ValueError(f"line {number} has no label")
        if label.strip().lower() == "payload-oxum":
            found = _OXUM.fullmatch(value.strip())
            yield (int(found[1]), int(found[2])) if found else None


def parse_info(text: str) -> tuple[str, str]:
    """Parse `KEY=VALUE` from the command line for `bag-info.txt`.

    Raises:
        RequestError: The text is not KEY=VALUE, or the label is one that the export writes itself.
    """
    label, separator, value = text.partition("=")
    if not separator or not _LABEL.fullmatch(label) or not value.strip() or not value.isprintable():
        raise RequestError(f"Invalid --bag-info {text!r}. Use KEY=VALUE, such as Source-Organization='Acme Ltd'.")
    if label.lower() in OWN_LABELS:
        raise RequestError(f"The export writes {label} into {INFO} itself. Leave it out.")
    return label, value.strip()


def info(fields: Iterable[tuple[str, str]]) -> bytes:
    """Return `bag-info.txt`: a line for each label and value, in their order."""
    return "".join(f"{label}: {' '.join(value.split())}\n" for label, value in fields).encode()


def manifest_line(digest: str, path: str) -> str:
    """Return a line of a manifest.

    Raises:
        ValueError: The path contains `%` or a line break, on whose encoding validators do not agree.
    """
    if "%" in path or "\n" in path or "\r" in path:
        raise ValueError(f"{path!r} cannot stand in a manifest that every validator reads.")
    return f"{digest}  {path}\n"
