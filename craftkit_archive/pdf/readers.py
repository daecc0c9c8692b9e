"""Opens PDFs with two independent readers: qpdf (through pikepdf) and PDFium."""

from __future__ import annotations

import mmap
import warnings
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

from craftkit_archive.pdf.ends import MOST_ODDITIES

NO_JBIG2 = "pikepdf could not decode its JBIG2 images, because jbig2dec is not installed"


class Structure(NamedTuple):
    """What a reader finds in a PDF.

    Attributes:
        opens: Whether the reader opens it; None if the reader could not examine it, which says nothing about the PDF.
        pages: The number of pages; None if unknown.
        oddities: What is odd, or why it does not open, in the reader's own words.
    """

    opens: bool | None
    pages: int | None = None
    oddities: tuple[str, ...] = ()


def inspect_with_pikepdf(body: bytes | str) -> Structure:
    """Open a PDF with pikepdf (qpdf), count its pages, and read its cross-reference table and every stream.

    Oddities are not damage: viewers open one in eight of such files. A hostile PDF can take unlimited time and memory,
    so call it in an `IsolatedProcess`.

    Args:
        body: The PDF itself, or the path of a file that holds it.
    """
    import pikepdf

    file = BytesIO(body) if isinstance(body, bytes) else body
    pages: int | None = None
    reported: dict[str, None] = {}
    try:
        with pikepdf.open(file, suppress_warnings=True) as found, warnings.catch_warnings(record=True) as missing:
            # By default, Python shows a warning once in a process, and this process opens many files.
            warnings.simplefilter("always")
            try:
                pages = len(found.pages)
                reported.update(dict.fromkeys(map(str, found.check_pdf_syntax())))
            except pikepdf.DependencyError:
                reported[NO_JBIG2] = None
            except (pikepdf.PdfError, RuntimeError, ValueError, TypeError, OverflowError) as error:
                # The PDF opens, but the check failed at some part of it with an error of the library below pikepdf.
                reported[f"pikepdf could not check all of it: {error}"] = None
            if any("decoder" in str(warning.message) for warning in missing):
                reported[NO_JBIG2] = None
            undecoded = [NO_JBIG2] if NO_JBIG2 in reported else []
            reported = dict.fromkeys((*undecoded, *map(str, found.get_warnings()), *reported))
    except pikepdf.PasswordError:
        return Structure(None, None, ("it asks for a password",))
    except pikepdf.PdfError as error:
        text = _without_file_name(str(error), file)
        if "unsupported" in text.lower() and "encryption" in text:
            return Structure(None, None, (_encryption(body) or text,))
        return Structure(False, None, (text,))
    oddities = [_without_file_name(problem, file) for problem in reported] + (["it has no pages"] if pages == 0 else [])
    return Structure(True, pages, tuple(oddities[:MOST_ODDITIES]))


def inspect_with_pdfium(body: bytes | str) -> Structure:
    """Open a PDF with PDFium, the reader of Chrome, and count its pages; call it in an `IsolatedProcess`.

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


# The readers are independent of each other: a PDF that one of them opens is not malformed.
READERS = {"pikepdf": inspect_with_pikepdf, "PDFium": inspect_with_pdfium}


def combine(structures: Mapping[str, Structure]) -> Structure:
    """Combine the findings of several readers.

    If one of them opens the PDF, it opens, and the others' complaints are oddities. If none does, it counts as not
    opening only if each could examine it: a password, an unknown encryption and a reader that crashed are not damage.

    Args:
        structures: The findings, by the name of the reader.
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
    """Return whether pikepdf can decode JBIG2 images, for which it calls the program jbig2dec."""
    from pikepdf.jbig2 import get_decoder

    return get_decoder().available()


def _encryption(body: bytes | str) -> str | None:
    """Return a sentence if a PDF is encrypted for the holders of certificates; None for other kinds of encryption."""
    # The encryption dictionary is itself never compressed or encrypted, so its name can be searched for.
    if isinstance(body, bytes):
        found = b"/Adobe.PubSec" in body or b"/adbe.pkcs7.s" in body
    else:
        with Path(body).open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
            found = view.find(b"/Adobe.PubSec") >= 0 or view.find(b"/adbe.pkcs7.s") >= 0
    return "it is encrypted for the holders of certificates (public-key security)" if found else None


def _without_file_name(problem: str, file: object) -> str:
    """Remove the name of the file, which is temporary or no name at all."""
    return problem.removeprefix("WARNING: ").replace(f"stream {file!r}", "").replace(str(file), "").lstrip(": ")
