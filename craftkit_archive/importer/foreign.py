"""Recognizes files that hold no records by how they begin: databases, PDFs, archives, manifests, web pages."""

import re
from collections.abc import Callable

from craftkit_archive.errors import RequestError
from craftkit_archive.records import Kind

_PACKED = {
    b"\xfd7zXZ\0": "xz",
    b"BZh": "bzip2",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"7z\xbc\xaf\x27\x1c": "7-Zip",
    b"\x04\x22\x4d\x18": "lz4",
}
_IMAGES = (b"\x89PNG\r\n", b"\xff\xd8\xff", b"GIF87a", b"GIF89a", b"II*\0", b"MM\0*")
_DIGEST_LINE = re.compile(rb"\\?[0-9a-fA-F]{32,128} [ *]\S|(?:MD5|SHA\d+) ?\(.+\) = [0-9a-fA-F]{32,}")
_PAGE = re.compile(rb"<(?:!doctype|html|head|body|\?xml)\b", re.IGNORECASE)
_BAG = re.compile(rb"BagIt-Version:", re.IGNORECASE)
_TAR_MAGIC = slice(257, 262)


def refuse_foreign(head: bytes, source: str, kind: Kind) -> None:
    """Refuse a file of a type that holds no records.

    Args:
        head: The beginning of the file.
        source: Its name, for the message.
        kind: The kind of records to import, for the message.

    Raises:
        RequestError: It is such a file; the message names its type and says what to run instead.
    """
    start = head.lstrip()
    for is_one, words in _FOREIGN:
        if is_one(start if head[:1].isspace() else head):
            raise RequestError(f"{source}: This looks like {words.format(kind=kind)}")


def _begins(*marks: bytes) -> Callable[[bytes], bool]:
    return lambda head: head.startswith(marks)


_FOREIGN: list[tuple[Callable[[bytes], object], str]] = [
    (
        _begins(b"SQLite format 3\0"),
        "an SQLite database, not like {kind}. If it is a backup of the catalog, run craftkit-archive"
        " restore FILE; if another program made it, export its table as CSV.",
    ),
    (
        lambda head: b"%PDF-" in head[:1024] and not head.startswith((b"{", b"[")),
        "a PDF, not like {kind}. PDFs come with craftkit-archive fetch FOLDER, after the import of their renders.",
    ),
    (
        _begins(b"PK\x03\x04", b"PK\x05\x06"),
        "a zip or a spreadsheet, not like {kind}. Unpack it, or save the spreadsheet as CSV; an export of this program"
        " is read by craftkit-archive export-check and repair.",
    ),
    (
        lambda head: head[_TAR_MAGIC] == b"ustar",
        "a tar, not like {kind}. Unpack it; an export of this program is read by craftkit-archive export-check and"
        " repair.",
    ),
    *(
        (_begins(mark), f"a file packed with {name}. Unpack it, or pack it with gzip, and import that.")
        for mark, name in _PACKED.items()
    ),
    (_begins(*_IMAGES), "a picture, not like {kind}. Name a file of records."),
    (
        _DIGEST_LINE.match,
        "a manifest of digests, not like {kind}. Run craftkit-archive export-check on the folder that it belongs to.",
    ),
    (
        _BAG.match,
        "a part of a BagIt bag, not like {kind}. Run craftkit-archive export-check on the folder that it belongs to.",
    ),
    (_PAGE.match, "a page of HTML or XML, not like {kind}. Save the answer of the API or the rows themselves."),
]
