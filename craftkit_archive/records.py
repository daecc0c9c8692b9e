"""What comes in (projects, keys, renders) and what goes out (findings, rejects, summaries).

Each is a `msgspec.Struct`. Incoming ones are made by `read_record`, which accepts both spellings that Craftkit uses
(camelCase in its API, snake_case in its tables). Outgoing ones carry a `type` and are the JSON lines of the command
line.
"""

import re
from datetime import UTC, datetime
from functools import lru_cache
from hashlib import sha256
from typing import Annotated, Any, Literal, TypeVar

import msgspec

from craftkit_archive.errors import AssetKeyError

MAX_KEY_BYTES = 1024
PREFIX_CHARS = 16

Id = Annotated[str, msgspec.Meta(min_length=1, max_length=256, pattern=r"\A[^\x00-\x1f\x7f]+\Z")]
Count = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
Status = Literal["queued", "rendering", "succeeded", "failed", "cancelled"]
Verdict = Literal[
    "ok",
    "missing",
    "wrong-size",
    "wrong-digest",
    "empty",
    "truncated",
    "not-a-pdf",
    "malformed",
    "unreadable",
    "unverified",
    "orphan",
]
Outcome = Literal["ok", "problems", "incomplete", "interrupted"]


# --- the small forms -------------------------------------------------------------------------------------------------


def timestamp(text: str) -> str:
    """Bring a time into the one form that the catalog holds: UTC, milliseconds, `2026-06-05T10:00:03.120Z`.

    Accepts ISO 8601 and what Postgres prints (`2026-06-05 10:00:00.12+00`); a time without an offset is UTC.

    Raises:
        ValueError: It is no time, or none that exists.
    """
    try:
        moment = datetime.fromisoformat(text)
        if len(text) == 24 and (text[7], text[10], text[19], text[23]) == ("-", "T", ".", "Z"):
            return text
        moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except OverflowError as error:
        raise ValueError(str(error)) from error
    return format_time(moment)


def format_time(moment: datetime) -> str:
    """Write an aware UTC time as the catalog holds it."""
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def check_asset_key(key: str) -> str:
    """Return the key if it names a place inside a store, whatever the platform.

    Raises:
        AssetKeyError: It is absolute, empty, too long (over 1,024 bytes as UTF-8), has an empty, `.` or `..` part, a
            backslash, a drive, or a control character.
    """
    try:
        size = len(key.encode())
    except UnicodeEncodeError as error:
        raise AssetKeyError("An asset key must be valid Unicode.") from error
    if not 0 < size <= MAX_KEY_BYTES:
        raise AssetKeyError(f"An asset key has 1 to {MAX_KEY_BYTES} bytes, this one has {size}.")
    if _UNSAFE_KEY.search(key):
        raise AssetKeyError(f"The asset key {key!r} leaves the store or has parts that a store cannot hold.")
    return key


_UNSAFE_KEY = re.compile(
    r"""[\x00-\x1f\x7f-\x9f\\]      # control characters, the separator of Windows
      | \A/ | /\Z | //              # absolute, or an empty part
      | (?:\A|/) \.{1,2} (?:/|\Z)   # . and ..
      | \A[A-Za-z]:                 # a drive
    """,
    re.VERBOSE,
)


def default_asset_key(project_id: str, render_id: str) -> str:
    """Name the object under which Craftkit stores a render."""
    return f"renders/{project_id}/{render_id}.pdf"


def hash_key(plain_key: str) -> str:
    """Hash an API key as Craftkit stores it: 64 lower-case hex digits of its SHA-256."""
    return sha256(plain_key.encode("utf-8", "surrogatepass")).hexdigest()


def mask(text: str) -> str:
    """Cut every API key in a text down to its public beginning."""
    return _PLAIN_KEY.sub(r"\1…", text)


_PLAIN_KEY = re.compile(r"(ck_(?:live|test|acct)_[A-Za-z0-9]{0,4}+)[^\s\"'\\,;]+")
_SHA256 = re.compile(r"[0-9a-fA-F]{64}")
_EXPECTED = {
    "id": "text of 1 to 256 printable characters",
    "project_id": "text of 1 to 256 printable characters (or name the project with --project)",
    "status": "one of queued, rendering, succeeded, failed, cancelled",
    "duration_ms": "a whole number of milliseconds, 0 or more",
    "size_bytes": "a whole number of bytes, 0 or more",
}


def _refuse(field: str, expected: str, value: object) -> ValueError:
    if value is None:
        return ValueError(f"{field}: expected {expected}, got nothing")
    shown = mask(value if isinstance(value, str) else msgspec.json.encode(value).decode())
    return ValueError(f"{field}: expected {expected}, got {shown[:60]!r}")


# --- what comes in ---------------------------------------------------------------------------------------------------


class Incoming(msgspec.Struct, kw_only=True):
    """A record from outside. `extra` holds, by snake_case name, every field that has no column of its own."""

    id: Id
    created_at: str | None = None
    extra: dict[str, Any] = msgspec.field(default_factory=dict)

    def _normalise_times(self, *fields: str) -> None:
        for field in fields:
            text = getattr(self, field)
            if text is not None:
                try:
                    setattr(self, field, timestamp(text))
                except ValueError as error:
                    raise _refuse(field, "a time such as 2026-06-05T10:00:03.120Z", text) from error


class Project(Incoming, kw_only=True):
    """A project; deleted ones stay, with `deleted_at` set."""

    name: str
    slug: str | None = None
    updated_at: str | None = None
    deleted_at: str | None = None

    def __post_init__(self) -> None:
        self._normalise_times("created_at", "updated_at", "deleted_at")


class ApiKey(Incoming, kw_only=True):
    """An API key of a project. A plain `key` is hashed at once and not kept."""

    project_id: Id
    name: str | None = None
    prefix: str | None = None
    key_hash: str | None = None
    key: str | None = None
    revoked_at: str | None = None

    def __post_init__(self) -> None:
        self._normalise_times("created_at", "revoked_at")
        if self.key is not None:
            if not self.key.startswith(("ck_live_", "ck_test_")):
                raise _refuse("key", "a project key, ck_live_… or ck_test_…", self.key)
            hashed = hash_key(self.key)
            self.prefix = self.prefix or self.key[:12]
            self.key = None
            if self.key_hash is not None and self.key_hash.lower() != hashed:
                raise ValueError("key_hash: expected the SHA-256 of the key beside it")
            self.key_hash = hashed
        if self.key_hash is None or not _SHA256.fullmatch(self.key_hash):
            raise _refuse("key_hash", "64 hex digits of SHA-256, or the plain key", self.key_hash)
        self.key_hash = self.key_hash.lower()
        if self.prefix is not None:
            # A prefix is public; what is longer may be the key itself.
            self.prefix = self.prefix if len(self.prefix) <= PREFIX_CHARS else mask(self.prefix)[:PREFIX_CHARS]
            if self.prefix.startswith("ck_acct_"):
                raise _refuse("prefix", "that of a project key, ck_live_… or ck_test_…", self.prefix)


class Render(Incoming, kw_only=True):
    """A render. One that succeeded has an asset key: the given one, or the one that Craftkit stores it under."""

    project_id: Id
    template_id: str | None = None
    status: Status
    error_message: str | None = None
    asset_key: str | None = None
    completed_at: str | None = None
    duration_ms: Count | None = None

    def __post_init__(self) -> None:
        self._normalise_times("created_at", "completed_at")
        if self.asset_key is None and self.status == "succeeded":
            self.asset_key = default_asset_key(self.project_id, self.id)
        if self.asset_key is not None:
            try:
                check_asset_key(self.asset_key)
            except AssetKeyError as error:
                raise _refuse("asset_key", "a relative path that stays inside the store", self.asset_key) from error


Kind = Literal["projects", "keys", "renders"]
KINDS: dict[Kind, type[Incoming]] = {"projects": Project, "keys": ApiKey, "renders": Render}
_R = TypeVar("_R", bound=Incoming)


@lru_cache(maxsize=4096)
def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])([A-Z])", r"_\1", name).lower()


def read_record(kind: type[_R], given: object, *, project_id: str | None = None) -> _R:
    """Make a record of decoded JSON.

    Args:
        kind: Which record to make.
        given: What the file held; camelCase and snake_case names mean the same.
        project_id: Project of a record that names none.

    Raises:
        ValueError: A field is not what it should be; the text names it and says what was expected.
    """
    if not isinstance(given, dict):
        raise ValueError(f"expected a JSON object, got {type(given).__name__}")
    fields: dict[str, Any] = {}
    for name, value in given.items():
        snake = _snake(name)
        if fields.setdefault(snake, value) != value:
            raise ValueError(f"{snake}: given twice, as different values")
    if "id" not in fields and kind is Render and "render_id" in fields:
        fields["id"] = fields.pop("render_id")
    if project_id is not None and fields.get("project_id") is None and "project_id" in kind.__struct_fields__:
        fields["project_id"] = project_id
    known = {name: fields.pop(name) for name in kind.__struct_fields__ if name in fields and name != "extra"}
    if fields:
        text = msgspec.json.encode(fields)
        known["extra"] = msgspec.json.decode(mask(text.decode())) if b"ck_" in text else fields
    try:
        return msgspec.convert(known, kind)
    except msgspec.ValidationError as error:
        named = re.search(r"\$\.(\w+)`|required field `(\w+)`", str(error))
        if not named:
            raise
        field = named[1] or named[2]
        raise _refuse(field, _EXPECTED.get(field, "text"), known.get(field)) from error


# --- what goes out ---------------------------------------------------------------------------------------------------


class Record(msgspec.Struct, frozen=True, tag_field="type", tag=str.lower):
    """A line of output; `type` is the class's name in lower case."""


class Plan(Record, frozen=True):
    """How much there is to do; the first thing that a bulk operation yields."""

    count: int
    size_bytes: int = 0


class Progress(Record, frozen=True):
    """How much more has been done since the last one."""

    count: int
    size_bytes: int = 0


class Reject(Record, frozen=True):
    """A record that was refused; mended, its `record` can be imported again."""

    source: str
    line: int
    reason: str
    record: Any


class Finding(Record, frozen=True):
    """An asset whose verdict is not `ok`. `expected` and `found` are sizes or digests, as the verdict has it."""

    run_id: int
    render_id: str | None
    key: str
    verdict: Verdict
    found_at: str
    expected: str | None = None
    found: str | None = None
    detail: str | None = None


class Skipped(Record, frozen=True):
    """An asset that was left out, without anything being wrong with it."""

    render_id: str
    key: str
    reason: str


class Planned(Record, frozen=True):
    """What a dry run would have done: a file of `size_bytes` under `path`."""

    render_id: str
    path: str
    size_bytes: int | None


class KeyInfo(Record, frozen=True, tag="key"):
    """An API key as people see it; `key` is set once, by the command that makes it."""

    id: str
    project_id: str
    name: str | None
    prefix: str | None
    created_at: str | None
    revoked_at: str | None
    key: str | None = None


class RunInfo(Record, frozen=True, tag="run"):
    """A run as `status` tells it."""

    id: int
    command: str
    started_at: str
    finished_at: str | None
    outcome: str | None
    counts: dict[str, int]
    bytes_read: int


class ProjectInfo(Record, frozen=True, tag="project"):
    """What an archive holds of one project; sizes in bytes."""

    id: str
    slug: str | None
    name: str
    deleted_at: str | None
    renders: int
    succeeded: int
    stored: int
    not_stored: int
    stored_bytes: int
    verified_ok: int
    damaged: int
    oldest_verified_at: str | None


class Summary(Record, frozen=True):
    """How a command ended; always the last line."""

    command: str
    outcome: str
    exit_code: int = 0
    counts: dict[str, int] = {}
    bytes_read: int = 0
    run_id: int | None = None
    details: dict[str, Any] = {}
