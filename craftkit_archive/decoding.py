"""Makes records of decoded JSON, of the cells of a table, and, by a fast path, of lines of NDJSON."""

import math
import re
from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from functools import lru_cache
from typing import Any, NamedTuple, TypeVar

import msgspec

from craftkit_archive.records import EXPECTED, KEPT, Incoming, Refusal, RefusedError, Render, refuse
from craftkit_archive.values import mask

MAX_NAMES = 100

_R = TypeVar("_R", bound=Incoming)
_encode = msgspec.json.Encoder(order="deterministic").encode
_STRING = re.compile(rb'"(?:[^"\\]|\\.)*+"\s*(:?)')


class DecodedItem(NamedTuple):
    """One record of a file; or, with a `problem`, a refused item: what was found instead of a record."""

    line: int
    value: Any
    problem: Refusal | None = None


class Cells(dict[str, Any]):
    """A record whose values are the cells of a table: text, except for nulls and fields without a column of ours."""


class TwiceError(RefusedError):
    """A name occurs twice in an object."""

    def __init__(self, name: str) -> None:
        super().__init__("given-twice", f"{name[:60]}: expected once in an object, got twice")


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object from its names and values, as a hook of the JSON decoder.

    Raises:
        TwiceError: A name occurs twice, so that one of its values would be lost.
    """
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise TwiceError(name)
            seen.add(name)
    return found


def exact(literal: str) -> float | str:
    """Parse a number as a float if that represents it exactly, else keep it as text, so that no digit is lost."""
    number = float(literal)
    if repr(number) == literal:  # true for what most programs write; a decimal takes five times as long
        return number
    try:
        return number if math.isfinite(number) and Decimal(repr(number)) == Decimal(literal) else literal
    except InvalidOperation:
        return literal  # its exponent is too large even for a decimal


decode_json: Callable[[bytes | str], Any] = msgspec.json.Decoder(float_hook=exact).decode


# Cached, because a file has the same few names on every line.
@lru_cache(maxsize=4096)
def snake(name: str) -> str:
    """Return a name in the catalog's form: `createdAt` becomes `created_at`."""
    return re.sub(r"(?<=[a-z0-9])([A-Z])", r"_\1", name).lower()


# Cached for the same reason.
@lru_cache(maxsize=256)
def _fields_of(kind: type[Incoming], names: tuple[str, ...]) -> dict[str, str]:
    """Map the names of a record, as they are spelled, to names of fields."""
    fields = {name: snake(name) for name in names}
    if kind is Render and "id" not in fields.values():
        fields = {name: "id" if field == "render_id" else field for name, field in fields.items()}
    return fields


def read_record(kind: type[_R], given: object, *, project_id: str | None = None) -> _R:
    """Make a record of decoded JSON, or of the cells of a table.

    Args:
        kind: The type of the record.
        given: What the file held; camelCase and snake_case names mean the same.
        project_id: The project of a record that names none.

    Raises:
        RefusedError: A field is not valid; the message names it and says what was expected.
    """
    if not isinstance(given, dict):
        raise RefusedError("not-an-object", f"expected a JSON object, got {type(given).__name__}")
    own = kind.__struct_fields__
    known: dict[str, Any] = {}
    extra: dict[str, Any] = {}
    for name, field in _fields_of(kind, tuple(given)).items():
        value = given[name]
        place = known if field in own and field != "extra" else extra
        if place is known and isinstance(value, str) and "ck_" in value and field not in ("key", "prefix"):
            value = mask(value)
        if field in KEPT and place is known and value is not None:
            extra[field] = value
        if place.setdefault(field, value) != value:
            raise RefusedError("given-twice", f"{field}: given twice, as different values")
    if project_id is not None and known.get("project_id") is None and "project_id" in own:
        known["project_id"] = project_id
    try:
        # Strict, except for the cells of a table, where numbers are text.
        record = msgspec.convert(known, kind, strict=not isinstance(given, Cells))
    except msgspec.ValidationError as error:
        if isinstance(error.__cause__, RefusedError):
            raise error.__cause__ from None
        named = re.search(r"\$\.(\w+)`|required field `(\w+)`", str(error))
        if not named:
            raise RefusedError("wrong-value", str(error)) from error
        field = named[1] or named[2]
        raise refuse(field, EXPECTED.get(field, "text"), known.get(field)) from error
    record.extra = encode_extra({field: value for field, value in extra.items() if value is not None})
    return record


def encode_extra(extra: dict[str, Any]) -> str | None:
    """Return the fields without a column as JSON for the catalog, with API keys masked; None if there are none."""
    if not extra:
        return None
    text = _encode(extra).decode()
    return mask(text) if "ck_" in text else text


class _Shape(NamedTuple):
    """A decoder for records with exactly these names, which decodes in one step into a class made for them.

    Decoding with it, validation included, takes a third of the time of `json.loads`.
    """

    decode: Callable[[bytes], Any]
    names: int
    extra: tuple[str, ...]


# Cached, because making a class takes far longer than decoding a line with it.
@lru_cache(maxsize=64)
def _shape(kind: type[Incoming], names: tuple[str, ...], project_id: str | None) -> _Shape | None:
    """Return the shape of records with these names; None if they are too complicated for one step."""
    fields = _fields_of(kind, names)
    own = {field.name: field.type for field in msgspec.structs.fields(kind)}
    if len(set(fields.values())) < len(names) or "extra" in own.keys() & fields.values():
        return None
    extra = tuple(field for field in fields.values() if field not in own or field in KEPT)
    if any(not field.isidentifier() or (hasattr(kind, field) and field not in KEPT) for field in extra):
        return None
    # All names are required, so that records with other names do not fit. Fields that `kind` lacks may hold anything.
    made: list[Any] = [(field, own.get(field, Any)) for field in fields.values()]
    if project_id is not None and "project_id" in own and "project_id" not in fields.values():
        made.append(("project_id", own["project_id"], project_id))
    shape = msgspec.defstruct(
        kind.__name__,
        made,
        bases=(kind,),
        kw_only=True,
        rename={field: name for name, field in fields.items()},
        forbid_unknown_fields=True,
    )
    decode: Callable[[bytes], Any] = msgspec.json.Decoder(shape, float_hook=exact).decode
    return _Shape(decode, len(names), extra)


class LineReader:
    """Reads lines of NDJSON; lines with the same names as a record before are decoded in one step.

    Args:
        kind: The type of the records.
        project_id: The project of records that name none.
    """

    def __init__(self, kind: type[Incoming], project_id: str | None) -> None:
        self._kind = kind
        self._project_id = project_id
        self._shape: _Shape | None = None

    def learn(self, given: object) -> None:
        """Expect more records with the names of this one."""
        if isinstance(given, dict) and len(given) <= MAX_NAMES:
            self._shape = _shape(self._kind, tuple(given), self._project_id)

    def read(self, line: bytes) -> Incoming | None:
        """Return the record of a line; None if it needs `read_record`, or is not valid."""
        if self._shape is None or b"ck_" in line:
            return None
        decode, names, extra = self._shape
        try:
            record: Incoming = decode(line)
            more = {field: value for field in extra if (value := getattr(record, field)) is not None}
            kept = names + sum(map(_count_names, more.values()))
        except (ValueError, RecursionError):
            return None
        record.extra = encode_extra(more)
        # The decoder drops a repeated name silently, so the line must have as many names as were decoded. Every name is
        # followed by `":`, unless there is white space in between; text may contain `":` too, so a line that seems to
        # have more names is examined string by string, which takes ten times as long. (Counting took a worker from 27
        # to 16 us a row.)
        if line.count(b'":') == kept and not (b" :" in line or b"\t:" in line or b"\r:" in line):
            return record
        return record if sum(map(bool, _STRING.findall(line))) == kept else None


def _count_names(value: object) -> int:
    """Count the names in decoded JSON, at any depth."""
    if isinstance(value, dict):
        return len(value) + sum(map(_count_names, value.values()))
    return sum(map(_count_names, value)) if isinstance(value, list) else 0
