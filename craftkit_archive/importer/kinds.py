"""Recognizes the kind of the records in a file by the first of them."""

import shlex
from collections.abc import Iterator
from contextlib import suppress
from itertools import chain, islice
from typing import Any

import msgspec

from craftkit_archive.decoding import DecodedItem, read_record, snake
from craftkit_archive.errors import RequestError
from craftkit_archive.importer.json_values import read_line, unwrap_reject
from craftkit_archive.importer.streams import Block
from craftkit_archive.records import KINDS, TABLES, Incoming, Kind, Record, Reject

LOOKED_AT = 20
# Fields that only records of one kind have.
_SIGNS: dict[Kind, frozenset[str]] = {
    "projects": frozenset({"slug", "user_id", "brand_color", "brand_logo_url"}),
    "keys": frozenset({"key", "key_hash", "prefix", "revoked_at"}),
    "renders": frozenset(
        {"render_id", "status", "template_id", "template_version_id", "asset_key", "asset_url", "download_url"}
        | {"poll_url", "completed_at", "duration_ms", "input_data", "error_message"}
    ),
}
# The types of lines that this program writes with --json, each with its required fields. Of these, only rejects can be
# imported. Two records may share a type, such as a finding of a check and one in a list.
_OUR_OUTPUT = [
    (record.__struct_config__.tag, {field.name for field in msgspec.structs.fields(record) if field.required})
    for record in Record.__subclasses__()
    if record is not Reject
]


def refuse_other_kind(
    pieces: Iterator[Block | list[DecodedItem]], kind: Kind, source: str
) -> Iterator[Block | list[DecodedItem]]:
    """Pass the pieces of a file on after checking the kind of its first records.

    Raises:
        RequestError: All of them are of another kind; the message names it, and the command to run.
    """
    first = next(pieces, None)
    if first is None:
        return
    values = list(islice(_values(first, kind), LOOKED_AT))
    kinds = {_kind_of(value, kind) for value in values}
    found = kinds.pop() if len(kinds) == 1 else None
    if found == "output":
        raise RequestError(
            f"{source}: This looks like what craftkit-archive --json or a report prints, not like {kind}. Name the"
            " file that the records come from."
        )
    if found is not None and found != kind:
        raise RequestError(
            f"{source}: This looks like {found}. Run craftkit-archive import {found} {shlex.quote(source)}."
        )
    yield from chain([first], pieces)


def _values(piece: Block | list[DecodedItem], kind: Kind) -> Iterator[Any]:
    """Yield the readable records of a piece."""
    items: Iterator[DecodedItem] = iter(piece) if isinstance(piece, list) else _items(piece, kind)
    for item in items:
        for record in unwrap_reject(item, kind):
            if record.problem is None:
                yield record.value


def _items(block: Block, kind: Kind) -> Iterator[DecodedItem]:
    for line, text in enumerate(block.text.split(b"\n"), block.line):
        if text and not text.isspace():
            yield from read_line(line, text, kind)


def _kind_of(value: Any, asked: Kind) -> str | None:
    """Return the kind of a record, or `output` if this program printed it; None if it cannot be recognized."""
    if not isinstance(value, dict):
        return None
    if any(value.get("type") == tag and fields <= value.keys() for tag, fields in _OUR_OUTPUT):
        return "output"
    names = {snake(name) for name in value}
    if not names & {"id", "render_id"}:
        return _wrapped_kind(value, asked)
    is_asked = _decodes(KINDS[asked], value)
    if is_asked and names & _SIGNS[asked]:
        return asked
    for other, record in KINDS.items():
        if other == asked or not names & _SIGNS[other]:
            continue
        # A record that could be of either kind counts as the other one only if it decodes without a supplied project.
        if _decodes(record, value) or (not is_asked and _decodes(record, _with_project(value, names))):
            return other
    return asked if is_asked else None


def _wrapped_kind(value: dict[Any, Any], asked: Kind) -> str | None:
    """Return the kind whose list an object wraps, unless it also wraps one of the kind that is wanted."""
    lists = {snake(str(name)) for name, inner in value.items() if isinstance(inner, list)}
    found = [kind for kind, tables in TABLES.items() if lists & set(tables)]
    return found[0] if len(found) == 1 and found[0] != asked else None


def _with_project(value: dict[Any, Any], names: set[str]) -> dict[Any, Any]:
    """Add a project to a record that names none, such as one from a log of webhooks."""
    return value if "project_id" in names else type(value)({**value, "project_id": "any"})


def _decodes(record: type[Incoming], value: dict[Any, Any]) -> bool:
    with suppress(ValueError, RecursionError, TypeError):
        read_record(record, value)
        return True
    return False
