"""Events of the audit log: their canonical form as a line, and the hash that links each to the one before.

Source: RFC 8785 (canonical JSON), FIPS 180-4 (SHA-256).
"""

import os
import pwd
import re
import socket
from collections.abc import Mapping
from hashlib import sha256
from typing import Any, NamedTuple

import msgspec

from craftkit_archive.values import mask, valid_text

# What the first event continues.
NOTHING_BEFORE = "0" * 64
# JavaScript, jq and RFC 8785 represent integers exactly up to here.
MAX_NUMBER = 2**53 - 1
# No event comes near this length; a longer line of the file is not read into memory at once.
MAX_LINE_BYTES = 1 << 20
MAX_WHO_CHARS = 200

# A finished access log of the server: who used which keys.
ACCESS_LOG = "audit access-log"

# What the log says about itself.
CATALOG_RESTORED = "audit catalog-restored"
FILE_RESTORED = "audit file-restored"
FORKED = "audit forked"
DISPOSED_AGAIN = "dispose again"

_NAME = re.compile(r"[a-z][a-z0-9_-]*")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


class Head(NamedTuple):
    """The number and the hash of the last event of a log. A copy kept elsewhere proves all events up to it."""

    number: int = 0
    hash: str = NOTHING_BEFORE


# The fields of both structs are in alphabetical order, as RFC 8785 sorts them.
class _Content(msgspec.Struct, frozen=True):
    counts: dict[str, int]
    details: dict[str, Any]
    number: int
    prev: str
    time: str
    what: str
    who: str


class Event(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One event of the audit log.

    Attributes:
        counts: Named counts, such as stored or deleted PDFs.
        details: Everything else; never a secret, and never free text that contains personal data.
        hash: SHA-256 of the canonical form of all other fields; 64 lower-case hex digits.
        number: 1 for the first event, 2 for the second, and so on.
        prev: The hash of the event before; 64 zeros for the first.
        time: When it was recorded, in UTC.
        what: The command, or a name from this module for an event about the log itself.
        who: The user who gave the command.
    """

    counts: dict[str, int]
    details: dict[str, Any]
    hash: str
    number: int
    prev: str
    time: str
    what: str
    who: str

    @property
    def line(self) -> bytes:
        """The event in its canonical form, with a newline at the end."""
        return canonical(self) + b"\n"

    @property
    def head(self) -> Head:
        """The number and the hash, which the next event continues."""
        return Head(self.number, self.hash)


_encode = msgspec.json.Encoder(order="deterministic").encode
_decode = msgspec.json.Decoder(Event).decode


def canonical(value: Any) -> bytes:
    """Return a value in the canonical form of RFC 8785.

    That is so only for values that `make_event` admits: ASCII names, no fractions, no control characters. For these,
    the canonical form is compact JSON with sorted names, which `jq -cS` and Python's `json` write too.
    """
    return _encode(value)


def _hash(content: _Content) -> str:
    return sha256(_encode(content)).hexdigest()


def make_event(
    head: Head,
    what: str,
    *,
    who: str,
    time: str,
    counts: Mapping[str, int] | None = None,
    details: Mapping[str, Any] | None = None,
) -> Event:
    """Return the event that follows a log's last one.

    Texts are normalized so that all readers agree on their bytes: control characters and invalid Unicode are escaped,
    and API keys are masked except for their public prefix. Counts of zero and details that are None are left out.

    Raises:
        TypeError, ValueError: A value is not text, an integer within 2^53, a boolean, null, or a list or object of
            these; or a name has other characters than a-z, 0-9, `_` and `-`.
    """
    content = _Content(
        counts={_field_name(name): int(_canonical_value(count)) for name, count in (counts or {}).items() if count},
        details={
            _field_name(name): _canonical_value(value) for name, value in (details or {}).items() if value is not None
        },
        number=head.number + 1,
        prev=head.hash,
        time=time,
        what=_event_text(what),
        who=_event_text(who),
    )
    found = msgspec.structs.asdict(content)
    return Event(hash=_hash(content), **found)


def _field_name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} cannot name a field of an event: use a-z, 0-9, _ and -.")
    return name


def _canonical_value(value: Any) -> Any:
    match value:
        case None | bool():
            return value
        case str():
            return _event_text(value)
        case int() if abs(value) <= MAX_NUMBER:
            return value
        case list() | tuple():
            return [_canonical_value(one) for one in value]
        case dict():
            return {_field_name(name): _canonical_value(one) for name, one in value.items()}
    raise TypeError(f"An event cannot hold {value!r}: give text, whole numbers within 2^53, lists and objects of them.")


def _event_text(text: str) -> str:
    # jq escapes U+007F and RFC 8785 does not, so control characters are escaped here.
    return _CONTROL.sub(lambda found: ascii(found[0])[1:-1], mask(valid_text(text)))


def is_intact(event: Event, line: bytes) -> bool:
    """Return whether an event, which was read from this line, still has the hash that it was given."""
    # Cutting the hash field out of the line gives the bytes that were hashed, without encoding the event again. No text
    # can look like that field, because quotes in texts are escaped; and a field of that name in `details` comes before.
    before, field, after = line.rpartition(b'"hash":"%b",' % event.hash.encode())
    return bool(field) and sha256(before + after.removesuffix(b"\n")).hexdigest() == event.hash


def read_event(line: bytes) -> Event:
    """Read a line of a log.

    Raises:
        ValueError: The line is not an event, or not in canonical form.
    """
    try:
        event = _decode(line)
        canonical_line = event.line
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise ValueError("it is not an event") from error
    if canonical_line != line:
        raise ValueError("it is not written as events are")
    return event


def user_and_host() -> str:
    """Return the user who runs this process, as `user@host`."""
    try:
        user = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # a container's user without a name
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"


def check_who(name: str) -> str:
    """Return the name of a person or job for the audit log, without surrounding blanks.

    Raises:
        ValueError: It is empty, too long, or more than one line.
    """
    name = name.strip()
    if not name or len(name) > MAX_WHO_CHARS or not name.isprintable():
        raise ValueError(f"{name!r} does not name anybody: give one line of 1 to {MAX_WHO_CHARS} characters.")
    return name
