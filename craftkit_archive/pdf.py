"""Is this a whole PDF?"""

from collections.abc import Iterable, Iterator
from typing import BinaryIO

from craftkit_archive.records import Verdict

HEADER_BYTES = 1024
TRAILER_BYTES = 64 << 10


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

        `not-a-pdf` is to be confirmed with `opens`: some readers find their way without a header.

        Source: ISO 32000-1, 7.5.2 (header), 7.5.5 (trailer), and annex H.3 (the header within the first 1,024 bytes).
        """
        if not self.size_bytes:
            return "empty", "it has no bytes"
        if b"%PDF-" not in self.head:
            return "not-a-pdf", f"it begins with {self.head[:40].decode('latin-1')!r}"
        if b"startxref" not in self.tail or b"%%EOF" not in self.tail:
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
