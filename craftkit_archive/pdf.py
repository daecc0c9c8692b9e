"""Is this a whole PDF? What its two ends show as it passes by, and what two independent readers make of it."""

from __future__ import annotations

import mmap
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from craftkit_archive.records import Verdict  # what reads records takes long to import, and workers need none

HEADER_BYTES = 1024
# The first object may say that the file is linearized; it follows the header, wherever that is.
HEAD_BYTES = 2 * HEADER_BYTES
TRAILER_BYTES = 64 << 10
MOST_ODDITIES = 5
NO_JBIG2 = "pikepdf could not decode its JBIG2 images, because jbig2dec is not installed"

_PADDING = b"\0\t\n\f\r "
_AWS_CHUNKED = re.compile(rb"[0-9a-fA-F]{1,16}(?:;[!-~]*)?\r\n\Z")
_CAUSES: tuple[tuple[re.Pattern[bytes], str], ...] = (
    (re.compile(rb"HTTP/\d"), "the head of an HTTP answer was stored with it"),
    (re.compile(rb"--[^\r\n]+\r?\n(?:.+\r?\n)*Content-", re.IGNORECASE), "it is a part of a MIME multipart body"),
    (re.compile(rb"\xef\xbb\xbf\Z"), "a byte-order mark, so some program took it for text"),
    (re.compile(rb"\x1b%-12345X"), "it is wrapped in a printer job (PJL)"),
    (re.compile(rb"\0\x05\x16[\0\x07]"), "it is wrapped in AppleDouble"),
    (re.compile(rb"\0[\x01-\x3f][^\0]"), "it is wrapped in MacBinary"),
    (re.compile(rb"[\0\t\n\f\r ]+\Z"), "white space"),
)
_LINEARIZED = re.compile(
    rb"%PDF-[^\r\n]*\s+(?:%[^\r\n]*\s+)*\d+\s+\d+\s+obj\s*<<(?=[^>]*/Linearized\b)[^>]*/L\s+(\d{1,18})\b"
)
# A comment may stand between the number and the marker.
_POINTER = re.compile(rb"\s*(\d{1,18})\s*(?:%[^\r\n]*[\r\n]\s*)*")
_TABLE = re.compile(rb"\s*(?:xref\b|\d+\s+\d+\s+obj\b)")
# How the rest of a PDF begins: with an object, a comment or a table after an older end, with a keyword after the end of
# a PDF that is attached to it; the word itself may be cut.
_GOES_ON = re.compile(rb"\s*(?:\d|%|(?:xref|xre|xr|x|startxref|endstream|endobj|e|en|end|ends|endst\w*|endo\w*)\b)")


class Ends:
    """Keeps the two ends of a stream that passes through, and its length.

    Attributes:
        head: Its first bytes.
        tail: The last bytes before its padding; white space and NULs at the end may be many, and say nothing.
        padding_bytes: How many of those there are.
        size_bytes: Its length.
    """

    def __init__(self) -> None:
        self.head = b""
        self.tail = b""
        self.padding_bytes = 0
        self.size_bytes = 0

    def watch(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        """Pass the chunks on, looking at each."""
        for chunk in chunks:
            if len(self.head) < HEAD_BYTES:
                self.head += chunk[: HEAD_BYTES - len(self.head)]
            self._keep_end(chunk)
            self.size_bytes += len(chunk)
            yield chunk

    def _keep_end(self, chunk: bytes) -> None:
        # The last bytes first: to strip the whole chunk would copy all of it, and it hardly ever ends in 64 KiB of
        # padding.
        end = chunk[-TRAILER_BYTES:].rstrip(_PADDING) or chunk.rstrip(_PADDING)[-TRAILER_BYTES:]
        if not end:
            self.padding_bytes += len(chunk)
            return
        padding = len(chunk) - (chunk.rfind(end[-1:]) + 1)
        if len(end) + padding < len(chunk):
            self.tail = end  # more of this very chunk lies before it
        else:
            # Padding that turned out to lie inside keeps its length, on which every offset depends.
            self.tail = (self.tail + b"\n" * min(self.padding_bytes, TRAILER_BYTES) + end)[-TRAILER_BYTES:]
        self.padding_bytes = padding

    def symptom(self) -> tuple[Verdict, str] | None:
        """Say what is plainly wrong with the bytes as a PDF, if anything: a verdict and what was seen.

        `not-a-pdf` and `odd` are what this finds strange; some reader may open it all the same.

        Source: ISO 32000-1, 7.5.2 (header), 7.5.5 (trailer), and annexes F (linearized) and H.3 (the header within the
        first 1,024 bytes).
        """
        if not self.size_bytes:
            return "empty", "it has no bytes"
        start = self.head[:HEADER_BYTES].find(b"%PDF-")
        if start < 0:
            return "not-a-pdf", f"it begins with {self.head[:40].decode('latin-1')!r}"
        if _AWS_CHUNKED.match(self.head[:start]):
            # Such frames go through the whole file, and its end is one too.
            return "odd", (
                f"{_bytes(start)} before %PDF-: the frame of an aws-chunked upload, which a gateway stored with it"
            )
        end = self._end_symptom(start)
        if not start:
            return end
        before = f"{_bytes(start)} before %PDF-: {_cause(self.head[:start])}"
        return ("odd", before) if end is None else (end[0], f"{before}; {end[1]}")

    def oddity(self) -> str | None:
        """Say what is odd about the bytes as a PDF, if anything."""
        symptom = self.symptom()
        return symptom and symptom[1]

    def _end_symptom(self, start: int) -> tuple[Verdict, str] | None:
        """Look at the end of a PDF whose header begins at byte `start`.

        Its end is its *last* `startxref N %%EOF`: a linearized PDF has one in its first part too, and an updated one
        has one for each state it was in.
        """
        linearized = _LINEARIZED.match(self.head, start)
        if linearized and self.size_bytes - start < int(linearized[1]):
            said = f"it says that it has {int(linearized[1]):,} (it is linearized)"
            return "truncated", f"it has {_bytes(self.size_bytes - start)}, and {said}"
        # From the end, where they are; to look from the front would take longer than to hash it.
        keyword, marker = self.tail.rfind(b"startxref"), self.tail.rfind(b"%%EOF")
        if keyword < 0 or marker < 0:
            lacking = [word for word, at in (("startxref", keyword), ("%%EOF", marker)) if at < 0]
            return "truncated", f"its end has no {' and no '.join(lacking)}"
        after = self.tail[marker + len(b"%%EOF") :]
        if after:
            if _GOES_ON.match(after):
                return (
                    "truncated",
                    f"its last %%EOF is not its end: {_bytes(len(after))} of PDF follow it",
                )
            shown = after.lstrip(_PADDING)[:20].decode("latin-1")
            return "odd", f"{_bytes(len(after))} after its %%EOF: {shown!r}"
        pointer = _POINTER.fullmatch(self.tail, keyword + len(b"startxref"), marker)
        if pointer is None:
            return "odd", "its last startxref has no number"
        target, stands_at = int(pointer[1]), self.size_bytes - self.padding_bytes - len(self.tail) + keyword
        if target >= stands_at:
            # The table comes before its pointer, always.
            return "truncated", f"its startxref is at byte {stands_at:,} and points beyond that, to byte {target:,}"
        # A PDF that is attached without compression has an end of its own, whose offsets count from its own header.
        inner = self.tail.rfind(b"%PDF-", 0, keyword)
        inner_at = stands_at - keyword + inner
        if inner >= 0 and inner_at > start and _TABLE.match(self.tail, inner + target):
            return "truncated", f"its last %%EOF is that of another PDF, which begins inside it at byte {inner_at:,}"
        if target == 0:
            return "odd", "its startxref is 0, where no cross-reference table can be"
        if self.padding_bytes > TRAILER_BYTES:
            return "odd", f"{_bytes(self.padding_bytes)} of white space or NULs after its %%EOF"
        return None


def odd_on_arrival(oddity: str) -> str:
    """Write the note on a PDF that was odd when it came, and is stored all the same."""
    return f"odd on arrival: {oddity}"


def _bytes(count: int) -> str:
    return "1 byte" if count == 1 else f"{count:,} bytes"


def _cause(before: bytes) -> str:
    """Say how bytes came to stand before the header of a PDF, or what they are."""
    unknown = f"they begin with {before[:40].decode('latin-1')!r}"
    return next((cause for pattern, cause in _CAUSES if pattern.match(before)), unknown)


# --- two readers -----------------------------------------------------------------------------------------------------


class Structure(NamedTuple):
    """What a reader sees in a PDF.

    Attributes:
        opens: Whether the reader opens it; None if it could not look into it, which says nothing about the PDF.
        pages: How many it has, as far as is known.
        oddities: What is odd, or why it does not open, in the reader's own words.
    """

    opens: bool | None
    pages: int | None = None
    oddities: tuple[str, ...] = ()


def inspect_with_pikepdf(body: bytes | str) -> Structure:
    """Open a PDF with pikepdf (qpdf), count its pages, and read its cross-reference table and every stream.

    What is odd is no damage: viewers open one in eight of such files. It can take a hostile file any time and memory:
    `work.Apart` sets limits to both.

    Args:
        body: The PDF itself, or the path of a file that holds it.
    """
    import pikepdf

    file = BytesIO(body) if isinstance(body, bytes) else body
    pages: int | None = None
    reported: dict[str, None] = {}
    try:
        with pikepdf.open(file, suppress_warnings=True) as found, warnings.catch_warnings(record=True) as missing:
            # Python's own filter would show it once in a process, and this one looks into many files.
            warnings.simplefilter("always")
            try:
                pages = len(found.pages)
                reported.update(dict.fromkeys(map(str, found.check_pdf_syntax())))
            except pikepdf.DependencyError:
                reported[NO_JBIG2] = None
            except (pikepdf.PdfError, RuntimeError, ValueError, TypeError, OverflowError) as error:
                # It opens; one part of it stopped the check, for which pikepdf raises whatever lies beneath.
                reported[f"pikepdf could not check all of it: {error}"] = None
            if any("decoder" in str(warning.message) for warning in missing):
                reported[NO_JBIG2] = None
            undecoded = [NO_JBIG2] if NO_JBIG2 in reported else []
            reported = dict.fromkeys((*undecoded, *map(str, found.get_warnings()), *reported))
    except pikepdf.PasswordError:
        return Structure(None, None, ("it asks for a password",))
    except pikepdf.PdfError as error:
        text = _plain(str(error), file)
        if "unsupported" in text.lower() and "encryption" in text:
            return Structure(None, None, (_encryption(body) or text,))
        return Structure(False, None, (text,))
    oddities = [_plain(problem, file) for problem in reported] + (["it has no pages"] if pages == 0 else [])
    return Structure(True, pages, tuple(oddities[:MOST_ODDITIES]))


def inspect_with_pdfium(body: bytes | str) -> Structure:
    """Open a PDF with PDFium, the reader of Chrome, and count its pages; hostile files are for `work.Apart`.

    Args:
        body: The PDF itself, or the path of a file that holds it.
    """
    import pypdfium2
    from pypdfium2 import raw

    try:
        found = pypdfium2.PdfDocument(body)
    except pypdfium2.PdfiumError as error:
        if error.err_code == raw.FPDF_ERR_PASSWORD:
            return Structure(None, None, ("it asks for a password",))
        if error.err_code == raw.FPDF_ERR_SECURITY:
            return Structure(None, None, (_encryption(body) or "its encryption is of an unsupported kind",))
        return Structure(False, None, (str(error).partition("PDFium: ")[2].rstrip(").").lower() or str(error),))
    try:
        return Structure(True, len(found))
    finally:
        found.close()


# Independent of each other: what one of them opens is not malformed.
READERS = {"pikepdf": inspect_with_pikepdf, "PDFium": inspect_with_pdfium}


def combine(structures: Mapping[str, Structure]) -> Structure:
    """Say what several readers together make of a PDF.

    If one opens it, it opens, and what the others say is odd. If none does, it is malformed only if each could look
    into it: a password, an encryption that a reader does not know and a reader that died are no damage.

    Args:
        structures: What each reader sees, by its name.
    """
    oddities: list[str] = []
    closed: dict[str, list[str]] = {}
    for name, seen in structures.items():
        if seen.opens:
            oddities += seen.oddities
        else:
            word = "cannot look into it" if seen.opens is None else "cannot open it"
            closed.setdefault(f"{word}: {'; '.join(seen.oddities)}", []).append(name)
    oddities += [_said(names, what) for what, names in closed.items()]
    answers = {seen.opens for seen in structures.values()}
    opens = True if True in answers else None if None in answers else False
    return Structure(opens, next((seen.pages for seen in structures.values() if seen.opens), None), tuple(oddities))


def _said(names: list[str], what: str) -> str:
    if len(names) == 1:
        return f"{names[0]} {what}"
    return f"neither {' nor '.join(names)} {what.replace('cannot', 'can', 1)}"


def has_jbig2_decoder() -> bool:
    """Say whether pikepdf can decode JBIG2 images, for which it calls the program jbig2dec."""
    from pikepdf.jbig2 import get_decoder

    return get_decoder().available()


def _encryption(body: bytes | str) -> str | None:
    """Say whether a PDF is encrypted for the holders of certificates; no other kind has a name worth knowing."""
    # The dictionary that says so is never compressed nor encrypted itself.
    if isinstance(body, bytes):
        found = b"/Adobe.PubSec" in body or b"/adbe.pkcs7.s" in body
    else:
        with Path(body).open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
            found = view.find(b"/Adobe.PubSec") >= 0 or view.find(b"/adbe.pkcs7.s") >= 0
    return "it is encrypted for the holders of certificates (public-key security)" if found else None


def _plain(problem: str, file: object) -> str:
    """Leave out the name of the file, which is a temporary one or none at all."""
    return problem.removeprefix("WARNING: ").replace(f"stream {file!r}", "").replace(str(file), "").lstrip(": ")
