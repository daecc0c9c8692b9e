"""Is this a whole PDF?"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from io import BytesIO
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

if TYPE_CHECKING:
    from craftkit_archive.records import Verdict  # what reads records takes long to import, and workers need none

HEADER_BYTES = 1024
TRAILER_BYTES = 64 << 10
MOST_ODDITIES = 5


class Ends:
    """Keeps the two ends of a stream that passes through, and its length."""

    def __init__(self) -> None:
        self.head = b""
        self.tail = b""
        self.size_bytes = 0

    def watch(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        """Pass the chunks on, looking at each."""
        for chunk in chunks:
            if len(self.head) < HEADER_BYTES:
                self.head += chunk[: HEADER_BYTES - len(self.head)]
            self.tail = chunk[-TRAILER_BYTES:] if len(chunk) >= TRAILER_BYTES else (self.tail + chunk)[-TRAILER_BYTES:]
            self.size_bytes += len(chunk)
            yield chunk

    def symptom(self) -> tuple[Verdict, str] | None:
        """Say what is plainly wrong with the bytes as a PDF, if anything: a verdict and what was seen.

        `not-a-pdf` is to be confirmed with `inspect`: some readers find their way without a header.

        Source: ISO 32000-1, 7.5.2 (header), 7.5.5 (trailer), and annex H.3 (the header within the first 1,024 bytes).
        """
        if not self.size_bytes:
            return "empty", "it has no bytes"
        if b"%PDF-" not in self.head:
            return "not-a-pdf", f"it begins with {self.head[:40].decode('latin-1')!r}"
        # From the end, where they are; to look from the front would take longer than to hash it.
        if self.tail.rfind(b"startxref") < 0 or self.tail.rfind(b"%%EOF") < 0:
            return "truncated", "its end lacks startxref or %%EOF"
        return None


def opens(file: BinaryIO) -> bool:
    """Say whether pikepdf can open a file, which must be seekable; one that asks for a password counts."""
    import pikepdf

    try:
        pikepdf.open(file, suppress_warnings=True).close()
    except pikepdf.PasswordError:
        return True
    except pikepdf.PdfError:
        return False
    return True


class Structure(NamedTuple):
    """What pikepdf sees in a PDF: whether it opens, its number of pages, and what is odd, in qpdf's own words."""

    opens: bool
    pages: int | None = None
    oddities: tuple[str, ...] = ()


def inspect(body: bytes | str) -> Structure:
    """Open a PDF, count its pages, and read its cross-reference table and every stream.

    What is odd is no damage: viewers open one in eight of such files. It can take a hostile file any time and memory:
    `work.Apart` sets limits to both.

    Args:
        body: The PDF itself, or the path of a file that holds it.
    """
    import pikepdf

    file = BytesIO(body) if isinstance(body, bytes) else body
    try:
        with pikepdf.open(file, suppress_warnings=True) as found:
            pages = len(found.pages)
            told = dict.fromkeys(map(str, (*found.get_warnings(), *found.check_pdf_syntax())))
    except pikepdf.PasswordError:
        return Structure(True, None, ("it asks for a password",))
    except pikepdf.PdfError as error:
        return Structure(False, None, (_plain(str(error), file),))
    oddities = [_plain(problem, file) for problem in told] + ([] if pages else ["it has no pages"])
    return Structure(True, pages, tuple(oddities[:MOST_ODDITIES]))


def _plain(problem: str, file: object) -> str:
    """Leave out the name of the file, which is a temporary one or none at all."""
    return problem.removeprefix("WARNING: ").replace(f"stream {file!r}", "").replace(str(file), "").lstrip(": ")
