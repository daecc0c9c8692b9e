"""Checks whether bytes are a whole PDF by the beginning and the end of the stream, while it passes through."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from craftkit_archive.records import Verdict


HEADER_BYTES = 1024

# The first object, which follows the header, may say that the file is linearized.
HEAD_BYTES = 2 * HEADER_BYTES
TRAILER_BYTES = 64 << 10
MOST_ODDITIES = 5
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

# What may follow a %%EOF that is not the last one of a PDF: an object, a comment or a table after an older end, or a
# keyword after the end of an attached PDF. The file may have been cut within that word.
_GOES_ON = re.compile(rb"\s*(?:\d|%|(?:xref|xre|xr|x|startxref|endstream|endobj|e|en|end|ends|endst\w*|endo\w*)\b)")


class Ends:
    """Keeps the beginning and the end of a stream that passes through, and its length.

    Attributes:
        head: Its first bytes, up to `HEAD_BYTES`.
        tail: The last bytes before the padding, up to `TRAILER_BYTES`.
        padding_bytes: How many bytes of white space and NULs are at the end.
        size_bytes: Its length.
    """

    def __init__(self) -> None:
        self.head = b""
        self.tail = b""
        self.padding_bytes = 0
        self.size_bytes = 0

    def watch(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        """Pass the chunks on, and keep what is needed of each."""
        for chunk in chunks:
            if len(self.head) < HEAD_BYTES:
                self.head += chunk[: HEAD_BYTES - len(self.head)]
            self._keep_end(chunk)
            self.size_bytes += len(chunk)
            yield chunk

    def _keep_end(self, chunk: bytes) -> None:
        # Only the last bytes are stripped at first: stripping the whole chunk copies all of it, and a chunk hardly ever
        # ends with 64 KiB of padding.
        end = chunk[-TRAILER_BYTES:].rstrip(_PADDING) or chunk.rstrip(_PADDING)[-TRAILER_BYTES:]
        if not end:
            self.padding_bytes += len(chunk)
            return
        padding = len(chunk) - (chunk.rfind(end[-1:]) + 1)
        if len(end) + padding < len(chunk):
            self.tail = end  # what precedes it is in this chunk too, so the old tail is not needed
        else:
            # Padding between two chunks turned out to lie inside; its length is kept, because offsets depend on it.
            self.tail = (self.tail + b"\n" * min(self.padding_bytes, TRAILER_BYTES) + end)[-TRAILER_BYTES:]
        self.padding_bytes = padding

    def symptom(self) -> tuple[Verdict, str] | None:
        """Return what is wrong with the bytes as a PDF, as a verdict and a description; None if nothing is.

        Some reader may open what this calls `not-a-pdf` or `odd`.

        Source: ISO 32000-1, 7.5.2 (header), 7.5.5 (trailer), and annexes F (linearized) and H.3 (the header within the
        first 1,024 bytes).
        """
        if not self.size_bytes:
            return "empty", "it has no bytes"
        start = self.head[:HEADER_BYTES].find(b"%PDF-")
        if start < 0:
            return "not-a-pdf", f"it begins with {self.head[:40].decode('latin-1')!r}"
        if _AWS_CHUNKED.match(self.head[:start]):
            # Such frames run through the whole file, so its end is one too and tells nothing more.
            return "odd", (
                f"{_bytes(start)} before %PDF-: the frame of an aws-chunked upload, which a gateway stored with it"
            )
        end = self._end_symptom(start)
        if not start:
            return end
        before = f"{_bytes(start)} before %PDF-: {_cause(self.head[:start])}"
        return ("odd", before) if end is None else (end[0], f"{before}; {end[1]}")

    def oddity(self) -> str | None:
        """Return what is wrong or odd about the bytes as a PDF; None if nothing is."""
        symptom = self.symptom()
        return symptom and symptom[1]

    def _end_symptom(self, start: int) -> tuple[Verdict, str] | None:
        """Check the end of a PDF whose header begins at byte `start`.

        The end is the *last* `startxref N %%EOF`: a linearized PDF has one in its first part too, and an updated PDF
        has one for each revision.
        """
        linearized = _LINEARIZED.match(self.head, start)
        if linearized and self.size_bytes - start < int(linearized[1]):
            said = f"it says that it has {int(linearized[1]):,} (it is linearized)"
            return "truncated", f"it has {_bytes(self.size_bytes - start)}, and {said}"
        # Searched from the end, where they are: a search from the front would take longer than hashing the PDF.
        keyword, marker = self.tail.rfind(b"startxref"), self.tail.rfind(b"%%EOF")
        if keyword < 0 or marker < 0:
            missing = [word for word, at in (("startxref", keyword), ("%%EOF", marker)) if at < 0]
            return "truncated", f"its end has no {' and no '.join(missing)}"
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
            # The table always precedes its pointer.
            return "truncated", f"its startxref is at byte {stands_at:,} and points beyond that, to byte {target:,}"
        # A PDF that is attached without compression has an end of its own, with offsets relative to its own header.
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
    """Return the text of a note on a PDF that was odd on arrival and stored all the same."""
    return f"odd on arrival: {oddity}"


def _bytes(count: int) -> str:
    return "1 byte" if count == 1 else f"{count:,} bytes"


def _cause(before: bytes) -> str:
    """Explain the bytes before the header of a PDF."""
    unknown = f"they begin with {before[:40].decode('latin-1')!r}"
    return next((cause for pattern, cause in _CAUSES if pattern.match(before)), unknown)
