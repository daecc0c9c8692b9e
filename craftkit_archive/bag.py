"""BagIt 1.0: the tag files of a bag. Knows no archive.

Source: RFC 8493.
"""

import re
from collections.abc import Iterable

from craftkit_archive.errors import RequestError

PAYLOAD = "data/"
INFO = "bag-info.txt"
DECLARATION_TEXT = b"BagIt-Version: 1.0\nTag-File-Character-Encoding: UTF-8\n"
# What a bag says of itself, and nobody else.
OWN_LABELS = ("payload-oxum", "bagging-date", "external-identifier", "bag-count", "bag-group-identifier")

_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


def parse_info(text: str) -> tuple[str, str]:
    """Read `KEY=VALUE` as a person gives it for `bag-info.txt`.

    Raises:
        RequestError: It is none, or a label that a bag fills in by itself.
    """
    label, separator, value = text.partition("=")
    if not separator or not _LABEL.fullmatch(label) or not value.strip() or not value.isprintable():
        raise RequestError(f"{text!r} is no KEY=VALUE for {INFO}: write Source-Organization='Acme Ltd'.")
    if label.lower() in OWN_LABELS:
        raise RequestError(f"{label} in {INFO} is written by the export itself: leave it out.")
    return label, value.strip()


def info(fields: Iterable[tuple[str, str]]) -> bytes:
    """Write `bag-info.txt`: labels and values of one line each, in their order."""
    return "".join(f"{label}: {' '.join(value.split())}\n" for label, value in fields).encode()


def manifest_line(digest: str, path: str) -> str:
    """Write a line of a manifest.

    Validators do not agree on how `%` and line breaks are written: the path has none of them.
    """
    if "%" in path or "\n" in path or "\r" in path:
        raise ValueError(f"{path!r} cannot stand in a manifest that every validator reads.")
    return f"{digest}  {path}\n"
