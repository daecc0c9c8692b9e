"""The names of PDFs in an export: planned for the whole export, and valid on Linux, macOS and Windows alike."""

import re
import unicodedata
from array import array
from collections.abc import Callable
from functools import lru_cache, partial
from hashlib import sha256
from itertools import pairwise
from string import Formatter
from typing import Any

from craftkit_archive.catalog.rows import ExportRow
from craftkit_archive.errors import RequestError
from craftkit_archive.values import mark_of, sorted_marks

DEFAULT_NAME = "{project_slug}/{created:%Y}/{created:%m}/{id}.pdf"
PART_BYTES = 100
PATH_BYTES = 230
SUFFIX_DIGITS = 12
EXTENSION = ".pdf"

_FIELDS: dict[str, Callable[[ExportRow], Any]] = {
    "id": lambda row: row.render_id,
    "template_id": lambda row: row.template_id or "no-template",
    "status": lambda row: row.status,
    "created": lambda row: row.created_at,
    "completed": lambda row: row.completed_at,
    "project_id": lambda row: row.project_id,
    "project_slug": lambda row: row.project_slug or row.project_id,
    "project_name": lambda row: row.project_name or row.project_id,
}
_DATES = ("created", "completed")
# The positions of the parts of a time in the catalog's form.
_DIRECTIVES = {
    "%Y": slice(0, 4),
    "%m": slice(5, 7),
    "%d": slice(8, 10),
    "%H": slice(11, 13),
    "%M": slice(14, 16),
    "%S": slice(17, 19),
}
_KNOWN = ", ".join(_FIELDS)

# What most parts are, and what needs no second look.
_PLAIN = re.compile(r"(?!(?:con|prn|aux|nul|com[0-9]|lpt[0-9])\Z)[a-z0-9][a-z0-9_-]*")
_FORBIDDEN = re.compile(r'[<>:"/\\|?*%~\x00-\x1f\x7f]')
_RESERVED = re.compile(r"(?i)(con|prn|aux|nul|conin\$|conout\$|com[0-9¹²³]|lpt[0-9¹²³])(\..*)?")
# A name that begins like this could be taken for an option, or for a formula in a spreadsheet.
_STEERING = ("-", "=", "+", "@", "'")
# Names like those of the files that an export has beside its PDFs.
_OWN = re.compile(r"(?i).*\.(csv|html|txt)")


Say = Callable[[ExportRow], str]


class NamePlan:
    """The names of a selection's PDFs.

    A name is made from the template part by part: characters that some system refuses become `_`, the text is
    normalized to NFC, and long names are cut. Fields in the names of folders are written in lower case, so that no two
    folders differ only by case. Names that are equal, or that some system would treat as equal, each get a suffix from
    the render's id. So a name depends only on the set of renders, not on their order or on the run.

    First `add` every row; if `must_compare` then, `compare` every row; then call `path` for each. Of each row that is
    compared, 8 bytes are kept.

    Args:
        template: Text with fields in braces, such as `{project_slug}/{created:%Y-%m}/{id}.pdf`.

    Attributes:
        must_compare: Whether the rows have to be compared after all. Names that end with `{id}` differ as the ids do,
            unless one of these is not in plain lower case. Not to compare them takes a sixth off a dry run.

    Raises:
        RequestError: The template is invalid or names an unknown field.
    """

    def __init__(self, template: str = DEFAULT_NAME) -> None:
        *self._folders, self._stem = _parse(template)
        self._limit = min(PART_BYTES, PATH_BYTES // (len(self._folders) + 1))
        if self._limit < 2 * SUFFIX_DIGITS:
            raise RequestError(f"The name {template!r} has too many folders. Write fewer slashes.")
        self._stem_limit = self._limit - SUFFIX_DIGITS - 1 - len(EXTENSION)
        self._ends_with_id = self._stem is _FIELDS["id"]
        self.must_compare = False
        self._seen = array("Q")  # hashes of the names: 8 bytes each, so that memory stays small with millions
        self._clashing: set[int] | None = None

    def add(self, row: ExportRow) -> None:
        """Add a row to the plan."""
        if not self._ends_with_id:
            self.compare(row)
        elif not _is_plain(row.render_id, self._stem_limit):
            self.must_compare = True

    def compare(self, row: ExportRow) -> None:
        """Note a row's name, to find those that clash with it."""
        self._seen.append(mark(self._draft(row)))

    def path(self, row: ExportRow) -> str:
        """Return the name of a row that was added: relative, with slashes, ending in `.pdf`."""
        if self._clashing is None:
            marks = sorted_marks(self._seen)
            self._clashing = {one for one, following in pairwise(marks) if one == following}
            self._seen = array("Q")
        draft = self._draft(row)
        if self._clashing and mark(draft) in self._clashing:
            draft = f"{draft}~{sha256(row.render_id.encode('utf-8', 'surrogatepass')).hexdigest()[:SUFFIX_DIGITS]}"
        return draft + EXTENSION

    def _draft(self, row: ExportRow) -> str:
        """Return the name that a row gets if it clashes with none, without the extension."""
        folders = _folders(tuple([say(row) for say in self._folders]), self._limit)
        return folders + safe_part(self._stem(row), self._stem_limit)


def _parse(template: str) -> list[Say]:
    """Split a template at its slashes into functions, each of which returns a part of the name for a row."""
    parts: list[list[str | Say]] = [[]]

    def add(text: str, make: Callable[[str], str | Say]) -> None:
        for number, piece in enumerate(text.split("/")):
            if number:
                parts.append([])
            if piece:
                parts[-1].append(make(piece))

    try:
        tokens = list(Formatter().parse(template))
    except ValueError as error:
        raise RequestError(f"Invalid name template {template!r} ({error}). The fields are {_KNOWN}.") from error
    for literal, field, spec, conversion in tokens:
        add(literal, str)
        if field is None:
            continue
        if field not in _FIELDS or conversion:
            raise RequestError(f"The name {template!r} has the unknown field {{{field}}}. The fields are {_KNOWN}.")
        if field in _DATES:
            add(spec or "%Y-%m-%d", partial(_date_part, template, _FIELDS[field]))
        elif spec:
            raise RequestError(f"In the name {template!r}, {{{field}}} takes no format: only created and completed do.")
        else:
            parts[-1].append(_FIELDS[field])
    last = parts[-1]
    if last and isinstance(last[-1], str) and last[-1].lower().endswith(EXTENSION):
        last[-1:] = filter(None, [last[-1][: -len(EXTENSION)]])  # an empty text would be joined to the id of each PDF
    if not all(any(part) for part in parts):
        raise RequestError(f"The name {template!r} has an empty part. Write something between the slashes.")
    return [_joined(part) for part in parts]


def _date_part(template: str, value: Callable[[ExportRow], Any], spec: str) -> Say:
    """Return a function that formats a time by slicing the catalog's form of it, without parsing."""
    pieces: list[str | slice] = []
    for text, letter in re.findall(r"([^%]*)(%.?)?", spec):
        if (letter and letter not in _DIRECTIVES) or "{" in text:
            raise RequestError(
                f"The name {template!r} has {letter or text!r} in a time: known are {' '.join(_DIRECTIVES)}."
            )
        pieces += [text, _DIRECTIVES[letter]] if letter else [text]

    def say(row: ExportRow) -> str:
        time = value(row)
        return "".join(one if isinstance(one, str) else time[one] for one in pieces if one) if time else "undated"

    only = pieces[1] if len(pieces) > 1 else None
    if isinstance(only, slice) and not any(pieces[:1] + pieces[2:]):
        return lambda row: time[only] if (time := value(row)) else "undated"
    return say


def _joined(part: list[str | Say]) -> Say:
    if len(part) == 1 and not isinstance(part[0], str):
        return part[0]
    return lambda row: "".join(piece if isinstance(piece, str) else piece(row) for piece in part)


# PDFs of the same project and month follow each other, and asking for all their folders at once saves a microsecond.
@lru_cache(maxsize=4096)
def _folders(texts: tuple[str, ...], limit: int) -> str:
    return "".join([f"{_folder(text, limit)}/" for text in texts])


# Cached, because many PDFs lie in the same folders.
@lru_cache(maxsize=4096)
def _folder(text: str, limit: int) -> str:
    """Return the name of a folder; the same for all texts that some system would treat as equal."""
    name = safe_part(fold(text), limit)
    return f"{name}_" if _OWN.fullmatch(name) else name


def safe_part(text: str, limit: int) -> str:
    """Turn any text into one part of a path: in NFC, 1 to `limit` bytes, and allowed on every system.

    Different texts may give the same part.
    """
    if _is_plain(text, limit):
        return text
    name = unicodedata.normalize("NFC", text)
    name = "".join("_" if _FORBIDDEN.match(letter) or not letter.isprintable() else letter for letter in name)
    name = unicodedata.normalize("NFC", name).strip(" .")
    if _RESERVED.fullmatch(name) or name.startswith(_STEERING):
        name = f"_{name}"
    return name.encode()[:limit].decode("utf-8", "ignore").rstrip(" .") or "_"


def _is_plain(text: str, limit: int) -> bool:
    return len(text) <= limit and _PLAIN.fullmatch(text) is not None


def fold(text: str) -> str:
    """Return a text that is equal for all names that some system treats as equal, by case or composition of accents."""
    if text.isascii():
        return text.lower()
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).upper().casefold())


def mark(path: str) -> int:
    """Return a 64-bit hash of a path; the same for paths that some system treats as equal."""
    return mark_of(fold(path))
