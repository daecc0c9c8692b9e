"""Parses, checks and formats small values: times, sizes, asset keys, API keys."""

import os
import re
import sys
from array import array
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar
from urllib.parse import unquote

from craftkit_archive.errors import AssetKeyError

STDIN = Path("/dev/stdin")
MAX_KEY_BYTES = 1024
# The longest name between two slashes that common file systems accept.
MAX_NAME_BYTES = 255

Cell = TypeVar("Cell", bound=str | int | None)


def timestamp(text: str) -> str:
    """Return a time in the catalog's form: UTC with milliseconds, `2026-06-05T10:00:03.120Z`.

    Accepts ISO 8601 and the output of Postgres (`2026-06-05 10:00:00.12+00`); a time without an offset is UTC. The
    output of Postgres with another DateStyle than ISO, in which 05/06 is ambiguous, is refused.

    Raises:
        ValueError: The text is not a valid time.
    """
    if text.endswith("z"):
        text = f"{text[:-1]}Z"
    try:
        moment = datetime.fromisoformat(text)
        # A shortcut for the two forms that Craftkit writes.
        if len(text) > 23 and text[7] == "-" and text[19] == ".":
            if text[10] == "T" and text[23:] == "Z":
                return text
            if text[10] == " " and text[23:] == "+00":
                return f"{text[:10]}T{text[11:23]}Z"
        moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except OverflowError as error:
        raise ValueError(str(error)) from error
    return format_time(moment)


def format_time(moment: datetime) -> str:
    """Return an aware UTC time in the catalog's form."""
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def parse_size(text: str) -> int:
    """Parse a size, and return it in bytes: `8M` and `8MB` are 8,000,000, `8MiB` is 8 × 1,024².

    Raises:
        ValueError: The text is not valid.
    """
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        raise ValueError(f"Invalid size {text!r}. Use a number and a unit, such as 500k, 8M, 1.5GB or 4GiB.")
    number, prefix, binary = found.groups()
    power = " kmgt".index(prefix.lower()) if prefix else 0
    return int(float(number) * (1024 if binary else 1000) ** power)


def format_size(size_bytes: int) -> str:
    """Return a size in words: `412 B`, `1.80 GB`; in powers of 1,000."""
    size = float(size_bytes)
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if size < 1000 or unit == "TB":
            break
        size /= 1000
    return f"{size:.0f} B" if unit == "B" else f"{size:.3g} {unit}" if size < 100 else f"{size:.0f} {unit}"


DAILY = 0


def parse_rotation(text: str) -> int:
    """Parse when to rotate a log: `DAILY` for `daily`, or a size in bytes.

    Raises:
        ValueError: The text is neither.
    """
    if text.strip().lower() == "daily":
        return DAILY
    size = parse_size(text)
    if not size:
        raise ValueError(f"Invalid size {text!r}. Use DAILY, or a size such as 100M.")
    return size


def parse_duration(text: str) -> int:
    """Parse a duration or an age, and return it in seconds: `90s`, `15m`, `2h`, `1h30m`, `30d`, `4w`.

    Raises:
        ValueError: The text is not valid.
    """
    if not _DURATION.fullmatch(text.strip()):
        raise ValueError(f"Invalid duration {text!r}. Use a number and a unit, such as 90s, 15m, 2h, 30d or 4w.")
    return int(sum(float(number) * _SECONDS[unit] for number, unit in _DURATION_PART.findall(text)))


def format_duration(seconds: float) -> str:
    """Return a duration in words: `12 s`, `4 min`, `2 h 05 min`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02} min"


def parse_share(text: str) -> float:
    """Parse a share such as `5%` or `0.05`, and return it as a number above 0 and at most 1.

    Raises:
        ValueError: The text is not valid.
    """
    try:
        share = float(text.strip().removesuffix("%")) / (100 if text.strip().endswith("%") else 1)
    except ValueError:
        share = 0.0
    if not 0 < share <= 1:
        raise ValueError(f"Invalid share {text!r}. Use a percentage or a fraction, such as 5% or 0.05.")
    return share


_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(?:([kmgt])(i)?)?b?", re.IGNORECASE | re.ASCII)
_DURATION = re.compile(r"(?:\d+(?:\.\d+)?[smhdw])+", re.ASCII)
_DURATION_PART = re.compile(r"(\d+(?:\.\d+)?)([smhdw])", re.ASCII)
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}


def check_asset_key(key: str) -> str:
    """Return an asset key if it is valid, so that it stays inside a store on every platform.

    Raises:
        AssetKeyError: It is absolute, empty, too long (over 1,024 bytes as UTF-8), has an empty, `.` or `..` part, a
            backslash, a drive, or a control character.
    """
    if len(key) <= MAX_KEY_BYTES and _USUAL_KEY.fullmatch(key):
        return key
    try:
        size = len(key.encode())
    except UnicodeEncodeError as error:
        raise AssetKeyError("An asset key must be valid Unicode.") from error
    if not 0 < size <= MAX_KEY_BYTES:
        raise AssetKeyError(f"An asset key has 1 to {MAX_KEY_BYTES} bytes, this one has {size}.")
    if _UNSAFE_KEY.search(key):
        raise AssetKeyError(f"The asset key {key!r} leaves the store or has parts that a store cannot hold.")
    return key


def mark_of(text: str) -> int:
    """Return a 64-bit hash of a text as an unsigned number, which is the same only within this process.

    The chance that any two of a million texts share a mark is about one in forty million.
    """
    if sys.hash_info.width == 64:
        # Python's own hash, which is SipHash, takes a tenth of the time of BLAKE2. The random salt makes it
        # unpredictable even under PYTHONHASHSEED=0, so that nobody can construct two names that share a mark.
        return hash(_SALT + text) & 0xFFFF_FFFF_FFFF_FFFF
    from hashlib import blake2b  # imported here, because loading OpenSSL takes 3 ms, which every command would spend

    return int.from_bytes(blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")


_SALT = os.urandom(16).hex()


def sorted_marks(marks: "array[int]") -> "array[int]":
    """Return marks in ascending order.

    `sorted` makes a list, which takes 400 MB for ten million of them, five times the array. Here it only gets a part of
    them at a time.
    """
    parts = [array("Q") for _ in range(256)]
    for mark in marks:
        parts[mark >> 56].append(mark)
    result = array("Q")
    for part in parts:
        result.extend(sorted(part))
    return result


def sorted_places(marks: "array[int]") -> Iterator[int]:
    """Yield the positions of marks in the ascending order of the marks, in as little memory as `sorted_marks`."""
    parts = [array("Q") for _ in range(256)]
    for place, mark in enumerate(marks):
        parts[mark >> 56].append(place)
    for part in parts:
        yield from sorted(part, key=marks.__getitem__)


# The form of Craftkit's own keys, by which nearly all keys are accepted ten times as fast.
_USUAL_KEY = re.compile(r"(?:[a-zA-Z0-9_-]++/)*+[a-zA-Z0-9_-]++(?:\.pdf)?")
_UNSAFE_KEY = re.compile(
    r"""[\x00-\x1f\x7f-\x9f\\]      # control characters, the separator of Windows
      | \A/ | /\Z | //              # absolute, or an empty part
      | (?:\A|/) \.{1,2} (?:/|\Z)   # . and ..
      | \A[A-Za-z]:                 # a drive
    """,
    re.VERBOSE,
)


def asset_key_of(url: str, project_id: str) -> str | None:
    """Return the asset key of the object at a URL, its path below the bucket; None if that cannot be determined.

    Craftkit stores PDFs below `renders/<project id>/`: whatever precedes that is a bucket or a prefix. For other paths,
    the host of a known service tells whether the bucket is part of the path.
    """
    found = _URL.fullmatch(url)
    scheme, host, path = found.groups() if found else ("", "", url.partition("?")[0].lstrip("/"))
    path = unquote(path)
    own = f"/renders/{project_id}/"
    if own in f"/{path}":
        return f"/{path}"[f"/{path}".index(own) + 1 :]
    if scheme in ("s3", "gs", "") or _BUCKET_IN_HOST.search(host):
        return path
    return path.partition("/")[2] if _BUCKET_IN_PATH.search(host) else None


_URL = re.compile(r"([a-z0-9]+)://([^/?#]*)/?([^?#]*)(?:[?#].*)?", re.IGNORECASE | re.DOTALL)
_BUCKET_IN_HOST = re.compile(r"\.s3[.-][a-z0-9.-]*amazonaws\.com$|\.r2\.dev$|\.storage\.googleapis\.com$")
_BUCKET_IN_PATH = re.compile(
    r"^s3[.-][a-z0-9.-]*amazonaws\.com$|^\w+\.r2\.cloudflarestorage\.com$|^storage\.googleapis\.com$"
)


def default_asset_key(project_id: str, render_id: str) -> str:
    """Return the asset key under which Craftkit stores a render."""
    return f"renders/{project_id}/{render_id}.pdf"


def hash_key(plain_key: str) -> str:
    """Return the hash of an API key as Craftkit stores it: the 64 lower-case hex digits of its SHA-256."""
    from hashlib import sha256  # imported here, as in `mark_of`

    return sha256(plain_key.encode("utf-8", "surrogatepass")).hexdigest()


def mask(text: str) -> str:
    """Mask every API key in a text, except for its public prefix."""
    return _PLAIN_KEY.sub(r"\1…", text)


def hide(plain_key: str) -> str:
    """Mask a text that was given as an API key, even if it does not look like one."""
    return (
        mask(plain_key)
        if _PLAIN_KEY.fullmatch(plain_key)
        else plain_key
        if len(plain_key) <= 4
        else f"{plain_key[:4]}…"
    )


# The address of a PostgreSQL database, as libpq, SQLAlchemy (with a driver) and Heroku spell it.
DATABASE_SCHEME = re.compile(r"postgres(?:ql)?(?:\+\w+)?://")


def without_password(address: str) -> str:
    """Return the address of a database without its secrets: user, host, port and name.

    If the address is malformed, so that the password cannot be recognized, only the scheme is left.
    """
    scheme = DATABASE_SCHEME.match(address)
    if scheme is None:
        return address
    # As libpq reads it: credentials end at an `@` before the first slash. Parameters may hold a password too.
    host, slash, path = address[scheme.end() :].partition("/")
    host, mark, parameters = host.partition("?")
    path = path.partition("?")[0]
    if "@" in parameters + path:
        return f"{scheme[0]}…"
    credentials, at, place = host.rpartition("@")
    return f"{scheme[0]}{credentials.partition(':')[0]}{at}{place}{'' if mark else slash + path}"


def origin_of(address: str) -> str:
    """Return the part of a secret URL that may be shown: scheme, host and port.

    The path of a webhook is a secret, because whoever knows it can post. If the URL is malformed, so that the host
    cannot be recognized, only the scheme is left.
    """
    found = _ORIGIN.match(address)
    if found is None:
        return "…"
    scheme, place, rest = found.groups()
    # With an `@` after the first slash, what precedes it may be a password that contains a slash.
    host = "" if "@" in rest else place.rpartition("@")[2]
    return f"{scheme}://{host if _HOST.fullmatch(host) else '…'}"


# As in RFC 6454, except that a backslash, which some parsers read as a slash, ends the host too.
_ORIGIN = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://([^/?#\\]*)(.*)", re.DOTALL)
_HOST = re.compile(r"(?:[\w.-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")

_PLAIN_KEY = re.compile(r"(ck_(?:live|test|acct)_[A-Za-z0-9]{0,4}+)(?:[^\s\"'\\,;]|\\{1,2}u[0-9a-fA-F]{4})+")


def valid_text(text: str) -> str:
    r"""Escape what is not valid Unicode: a byte of a file name that is not UTF-8 becomes `\xff`."""
    return text if text.isascii() else _SURROGATE.sub(_escape_surrogate, text)


def _escape_surrogate(found: re.Match[str]) -> str:
    number = ord(found[0])
    # Python represents a byte that is not UTF-8 as 0xDC00 plus the byte (PEP 383).
    return f"\\x{number - 0xDC00:02x}" if 0xDC80 <= number <= 0xDCFF else f"\\u{number:04x}"


_SURROGATE = re.compile(r"[\ud800-\udfff]")


def escape_name(name: bytes) -> str:
    r"""Return any file name as one line of text, different for every name: a newline is `\n`, a backslash `\\`.

    A name that is valid text without control characters stays as it is.
    """
    text = name.replace(b"\\", b"\\\\").decode("utf-8", "backslashreplace")
    return _CONTROL.sub(_escape_control, text)


def _escape_control(found: re.Match[str]) -> str:
    # Not `\x95` for U+0095: that is how a byte is escaped that is not UTF-8.
    return ascii(found[0])[1:-1] if found[0].isascii() else f"\\u{ord(found[0]):04x}"


_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def escape_control(text: str) -> str:
    """Escape control characters, so that foreign text cannot control the terminal."""
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() or character in "\t\n" else ascii(character)[1:-1] for character in text
    )


def escape_formula(value: Cell) -> Cell:
    """Put an apostrophe before a text that a spreadsheet would take for a formula."""
    return f"'{value}" if isinstance(value, str) and _FORMULA.match(value) else value  # type: ignore[return-value]


def unescape_formula(text: str) -> str:
    """Undo `escape_formula`."""
    return text[1:] if text.startswith("'") and _FORMULA.match(text) else text


_FORMULA = re.compile(r"'*[=+\-@\t\r]")


Clock = Callable[[], datetime]


def utc_now() -> datetime:
    """Return the present time, in UTC."""
    return datetime.now(UTC)
