"""Records that come in (projects, keys, renders) and records that go out (findings, rejects, summaries).

Each is a `msgspec.Struct`, which decodes and validates in one step. Outgoing records have a `type`, and are the JSON
lines of the command line.
"""

import re
from typing import Annotated, Any, Literal, NamedTuple, TypeVar, get_args

import msgspec

from craftkit_archive.errors import AssetKeyError, RequestError
from craftkit_archive.values import (
    MAX_NAME_BYTES,
    asset_key_of,
    check_asset_key,
    default_asset_key,
    hash_key,
    hide,
    mask,
    timestamp,
)

_T = TypeVar("_T")

PREFIX_CHARS = 16
KEY_CHARS = 20

Id = Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
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
    "odd",
    "not-a-file",
    "malformed",
    "unreadable",
    "unavailable",
    "unverified",
    "orphan",
    "unrecorded",
]
Outcome = Literal["ok", "problems", "incomplete", "limited", "interrupted"]
# The exit code for each outcome. The command line knows which signal interrupted it, and may exit with 143 instead.
OUTCOME_CODES: dict[Outcome, int] = {"ok": 0, "problems": 1, "incomplete": 3, "limited": 101, "interrupted": 130}


# --- what comes in ---------------------------------------------------------------------------------------------------


_SHA256 = re.compile(r"[0-9a-fA-F]{64}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_TIME = "a time such as 2026-06-05T10:00:03.120Z"
# Why a record is refused, for programs and for docs/messages/rejects.md.
RejectProblem = Literal[
    "missing-field", "wrong-value", "wrong-key", "wrong-asset-key", "given-twice", "not-an-object", "not-json",
    "not-utf-8", "too-large", "cut-short", "no-records", "list-before-id", "bad-table", "other-project", "known-id",
    "other-key", "key-of-another", "asset-key-of-another", "below-another-pdf", "not-as-stored",
]  # fmt: skip
# What the doctor finds, for programs and for docs/messages/doctor.md.
DiagnosisProblem = Literal[
    "program-changed", "catalog-damaged", "log-large", "totals-wrong", "audit-log-broken", "audit-log-behind",
    "catalog-readable", "not-writable", "store-unusable", "store-not-writable", "names-not-examined", "names-collide",
    "space-low", "clock-behind", "runs-killed", "cluster-unreachable", "cluster-empty", "worker-unfit", "pdfs-damaged",
    "pdfs-unverified", "disposals-unfinished", "not-delivered",
]  # fmt: skip
EXPECTED = {
    "id": "text of 1 to 256 printable characters",
    "project_id": "text of 1 to 256 printable characters (or name the project with --project)",
    "status": "one of queued, rendering, succeeded, failed, cancelled",
    "duration_ms": "a whole number of milliseconds, 0 or more",
    "size_bytes": "a whole number of bytes, 0 or more",
    "sha256": "64 hex digits",
    "key_hash": "64 hex digits of SHA-256, or the plain key",
    **dict.fromkeys(("created_at", "updated_at", "deleted_at", "completed_at", "revoked_at"), _TIME),
}


def one_of(what: str, value: _T, choices: Any) -> _T:
    """Return a value if it is one of a `Literal`, or of a union of literals.

    Raises:
        RequestError: It is not; the message lists the valid values.
    """
    known = [value for choice in get_args(choices) for value in get_args(choice) or [choice]]
    if value not in known:
        raise RequestError(f"Unknown {what} {value!r}. Use one of {', '.join(known)}.")
    return value


class Refusal(NamedTuple):
    """Why a record is refused: the kind of problem, and its description for this record."""

    problem: RejectProblem
    text: str


class RefusedError(ValueError):
    """A record is refused."""

    def __init__(self, problem: RejectProblem, text: str) -> None:
        super().__init__(text)
        self.refusal = Refusal(problem, text)


def refuse(field: str, expected: str, value: object, problem: RejectProblem = "wrong-value") -> RefusedError:
    """Return the error for a field that is not valid, without quoting an API key."""
    if value is None and field == "project_id":
        return RefusedError("missing-field", "projectId is missing; add it, or pass --project ID")
    if value is None:
        return RefusedError("missing-field", f"{field}: expected {expected}, got nothing")
    shown = mask(value if isinstance(value, str) else msgspec.json.encode(value).decode())
    return RefusedError(problem, f"{field}: expected {expected}, got {shown[:60]!r}")


def _digest(field: str, text: str | None) -> str:
    # Postgres writes a bytea column as \x and hex digits.
    digits = text.removeprefix("\\x") if text else None
    if digits is None or not _SHA256.fullmatch(digits):
        raise refuse(field, EXPECTED[field], text)
    return digits.lower()


class Incoming(msgspec.Struct, kw_only=True):
    """A record from outside.

    `extra` holds, as a JSON object with snake_case names, every field that has no column of its own.
    """

    id: Id
    created_at: str | None = None
    extra: str | None = None

    def _normalise(self, times: tuple[str, ...], project_id: str = "") -> None:
        """Convert the times to the catalog's form, and refuse control characters in ids."""
        if not (self.id + project_id).isprintable():
            for field, text in (("id", self.id), ("project_id", project_id)):
                if _CONTROL.search(text):
                    raise refuse(field, EXPECTED[field], text)
        for field in times:
            text = getattr(self, field)
            if text == "infinity" and field in ("deleted_at", "revoked_at"):
                setattr(self, field, None)  # Postgres writes "infinity" for what never happens
            elif text is not None:
                try:
                    setattr(self, field, timestamp(text))
                except ValueError as error:
                    raise refuse(field, EXPECTED[field], text) from error


class Project(Incoming, kw_only=True):
    """A project; deleted ones stay, with `deleted_at` set."""

    name: str
    slug: str | None = None
    updated_at: str | None = None
    deleted_at: str | None = None

    def __post_init__(self) -> None:
        self._normalise(("created_at", "updated_at", "deleted_at"))


class ApiKey(Incoming, kw_only=True):
    """An API key of a project. A plain `key` is hashed at once and not kept."""

    project_id: Id
    name: str | None = None
    prefix: str | None = None
    key_hash: str | None = None
    key: str | None = None
    revoked_at: str | None = None

    def __post_init__(self) -> None:
        self._normalise(("created_at", "revoked_at"), self.project_id)
        if self.key is not None:
            if not self.key.startswith(("ck_live_", "ck_test_")):
                raise refuse("key", "a project key, ck_live_… or ck_test_…", hide(self.key), "wrong-key")
            if "…" in self.key or len(self.key) < KEY_CHARS:
                raise refuse("key", "the whole key, which a file of rejects does not hold", hide(self.key), "wrong-key")
            hashed = hash_key(self.key)
            self.prefix = self.prefix or self.key[:12]
            self.key = None
            if self.key_hash is not None and self.key_hash.lower() != hashed:
                raise RefusedError("wrong-key", "key_hash: expected the SHA-256 of the key beside it")
            self.key_hash = hashed
        self.key_hash = _digest("key_hash", self.key_hash)
        if self.prefix is not None:
            # A prefix is public; a longer text may be the key itself.
            self.prefix = self.prefix if len(self.prefix) <= PREFIX_CHARS else mask(self.prefix)[:PREFIX_CHARS]
            if self.prefix.startswith("ck_acct_"):
                raise refuse("prefix", "that of a project key, ck_live_… or ck_test_…", self.prefix, "wrong-key")


class Render(Incoming, kw_only=True):
    """A render. One that succeeded has an asset key: the given one, or the one under which Craftkit stores it.

    `size_bytes` and `sha256`, if given, are those that its asset must have. An `asset_url` gives the asset key too, and
    is also kept in `extra`.
    """

    project_id: Id
    template_id: str | None = None
    status: Status
    error_message: str | None = None
    asset_key: str | None = None
    asset_url: str | None = None
    completed_at: str | None = None
    duration_ms: Count | None = None
    size_bytes: Count | None = None
    sha256: str | None = None

    def __post_init__(self) -> None:
        self._normalise(("created_at", "completed_at"), self.project_id)
        if self.asset_key is None and self.asset_url is not None:
            self.asset_key = self._key_from_url(self.asset_url)
        if self.asset_key is None and self.status == "succeeded":
            self.asset_key = default_asset_key(self.project_id, self.id)
            if len(f"{self.id}.pdf".encode("utf-8", "surrogatepass")) > MAX_NAME_BYTES:
                raise refuse("id", f"at most {MAX_NAME_BYTES - 4} bytes: no store can hold a longer file name", self.id)
        if self.asset_key is not None:
            self._check_key(self.asset_key)
        if self.sha256 is not None:
            self.sha256 = _digest("sha256", self.sha256)

    def _key_from_url(self, url: str) -> str | None:
        if url.partition("?")[0].endswith(f"/v1/renders/{self.id}/download"):
            return None  # the API's own URL of the PDF, which does not tell where it is stored
        key = asset_key_of(url, self.project_id)
        if key is None:
            place = f"an address with /renders/{self.project_id}/ in its path (or the asset_key beside it)"
            raise refuse("asset_url", place, url, "wrong-asset-key")
        return key

    def _check_key(self, key: str) -> None:
        try:
            check_asset_key(key)
        except AssetKeyError as error:
            raise refuse("asset_key", "a relative path that stays inside the store", key, "wrong-asset-key") from error
        short = key.isascii() and len(key) <= MAX_NAME_BYTES
        if not short and max(len(name.encode()) for name in key.split("/")) > MAX_NAME_BYTES:
            names = f"names of at most {MAX_NAME_BYTES} bytes: no store can hold a longer file name"
            raise refuse("asset_key", names, key, "wrong-asset-key")
        if key == "renders" or (key.startswith("renders/") and not key.startswith(f"renders/{self.project_id}/")):
            place = f"one below renders/{self.project_id}/, its own project's"
            raise refuse("asset_key", place, key, "wrong-asset-key")


Kind = Literal["projects", "keys", "renders"]
KINDS: dict[Kind, type[Incoming]] = {"projects": Project, "keys": ApiKey, "renders": Render}
# Fields that determine a column's value and have no column of their own: `extra` keeps them.
KEPT = frozenset({"asset_url"})
# The names of Craftkit's tables; the first one is the usual one.
TABLES: dict[Kind, tuple[str, ...]] = {"projects": ("projects",), "keys": ("api_keys", "keys"), "renders": ("renders",)}


# --- what goes out ---------------------------------------------------------------------------------------------------


class Record(msgspec.Struct, frozen=True, tag_field="type", tag=str.lower):
    """A line of output; `type` is the class's name in lower case."""


class Plan(Record, frozen=True):
    """How much there is to do; the first record that a bulk operation yields.

    A count of 0 means that it is not known in advance; `size_bytes` is then how much there is to read.
    """

    count: int
    size_bytes: int = 0


class Progress(Record, frozen=True):
    """How much has been done since the last one, and the latest file."""

    count: int
    size_bytes: int = 0
    file: str | None = None


class Reject(Record, frozen=True):
    """A record that was refused; corrected, its `record` can be imported again."""

    source: str
    line: int
    reason: str
    record: Any
    problem: RejectProblem


class Caution(Record, frozen=True, tag="warning"):
    """A warning about something that an import accepted or a restored catalog lacks, and what that will break later.

    `warning` is its kind, `count` the number of cases, `names` the first of them.
    """

    warning: str
    count: int
    names: list[str]
    text: str


class Finding(Record, frozen=True):
    """An asset whose verdict is not `ok`. `expected` and `found` are sizes or digests, depending on the verdict.

    `acknowledged` is the reason for which its loss was accepted, if it was.
    """

    run_id: int
    render_id: str | None
    key: str
    verdict: Verdict
    found_at: str
    expected: str | None = None
    found: str | None = None
    detail: str | None = None
    acknowledged: str | None = None


class Note(Record, frozen=True):
    """Something odd about a PDF that is what was stored, or about an export that is complete."""

    run_id: int
    render_id: str | None
    key: str
    detail: str
    found_at: str


class Skipped(Record, frozen=True):
    """An asset that was left out, without anything being wrong with it."""

    render_id: str | None
    key: str
    reason: str


class Acknowledgement(Record, frozen=True):
    """An accepted loss and the reason; `in_force` says whether the PDF is still in the accepted state."""

    render_id: str
    key: str
    state: str
    reason: str
    accepted_at: str
    in_force: bool = True


class RetentionRule(Record, frozen=True, tag="retention-rule"):
    """How long renders are kept: those of a `project` or `template`, or by `default`, whose name is empty."""

    scope: str
    name: str
    keep: str
    counted_from: str
    set_at: str


class DueRender(Record, frozen=True, tag="due"):
    """A stored render with the day on which its retention period is over; `held_by` names the holds that keep it."""

    render_id: str
    project_id: str
    due_on: str
    rule: str
    keep: str
    size_bytes: int
    held_by: list[str]


class Keeping(msgspec.Struct, frozen=True):
    """How much of an archive is due for disposal, held, and disposed.

    Attributes:
        days: How many days it looks ahead.
        due: Stored renders whose retention period is over, including held ones.
        due_soon: Stored renders whose period will be over within `days`, including those that are due.
        due_soon_bytes: The size of the latter, in bytes.
        holds: Legal holds in force.
        held: Stored renders that they cover.
        disposed: Renders that were disposed.
        begun: Those of them whose disposal is not finished.
    """

    days: int
    due: int = 0
    due_soon: int = 0
    due_soon_bytes: int = 0
    holds: int = 0
    held: int = 0
    disposed: int = 0
    begun: int = 0

    @property
    def text(self) -> str:
        """A sentence; empty if nothing is due, held or disposed."""
        said = []
        if self.due_soon:
            said.append(f"{self.due_soon:,} due within {self.days} days, {self.due:,} of them now")
        if self.holds:
            named = f"{self.holds:,} {'hold' if self.holds == 1 else 'holds'}"
            said.append(f"{self.held:,} held by {named}")
        if self.disposed:
            begun = f", {self.begun:,} of them not finished" if self.begun else ""
            said.append(f"{self.disposed:,} disposed{begun}")
        return "; ".join(said)


class Hold(Record, frozen=True):
    """A legal hold by ids or by rule, and how many renders it covers: 0 after its release."""

    name: str
    project_id: str | None
    template_id: str | None
    since: str | None
    before: str | None
    placed_at: str
    released_at: str | None = None
    ids: int = 0
    covers: int = 0


class Tombstone(Record, frozen=True):
    """What is left of a render whose PDF was deleted for good, without personal data.

    Attributes:
        size_bytes: The size of the PDF; None if none was stored.
        sha256: The digest of the PDF.
        created_at: When the render was created.
        disposed_at: When its disposal began.
        policy: The retention rule by which it was due, or `ids` if it was named.
        by: The user who gave the command.
        finished_at: When the bytes were deleted; None until then.
        remains: What the store could not delete, such as older versions.
    """

    render_id: str
    project_id: str
    size_bytes: int | None
    sha256: str | None
    created_at: str | None
    disposed_at: str
    policy: str
    by: str
    finished_at: str | None = None
    remains: str | None = None


class ExportMade(Record, frozen=True, tag="export-made"):
    """An export of this archive: its target, time and seal; `disposed` is how many of its PDFs were disposed since."""

    target: str
    made_at: str
    pdfs: int
    size_bytes: int
    seal: str
    disposed: int = 0


class AuditEvent(Record, frozen=True, tag="event"):
    """An event of the audit log; if it stands for several, `last` is the number of the last one."""

    number: int
    time: str
    what: str
    who: str
    counts: dict[str, int]
    details: dict[str, Any]
    prev: str
    hash: str
    last: int | None = None


class AuditFault(Record, frozen=True, tag="audit-fault"):
    """A fault of the audit log at event `number`, or from there to event `last`.

    `where` is the copy with the fault: `file`, `table` or `both`.
    """

    where: str
    problem: str
    number: int
    last: int
    detail: str


class Planned(Record, frozen=True):
    """What a command would do without `--dry-run`: a file of `size_bytes` at `path`."""

    render_id: str
    path: str
    size_bytes: int | None


class Held(Record, frozen=True):
    """A damaged copy in the quarantine, and its finding; sizes in bytes, digests as 64 hex digits.

    Size and digest are those of the copy; None if it could not be read, and only the finding was kept.
    """

    name: str
    key: str
    render_id: str
    verdict: Verdict
    expected: str | None
    detail: str | None
    size_bytes: int | None
    sha256: str | None
    kept_at: str


class KeyInfo(Record, frozen=True, tag="key"):
    """Information on an API key.

    `key` is set only when the key is created. `matched` is set when it is revoked, and says how it was found: by `id`,
    by the `hash` of the whole key, or by `prefix`. `last_used_at` comes from the recorded access logs.
    """

    id: str
    project_id: str
    name: str | None
    prefix: str | None
    created_at: str | None
    revoked_at: str | None
    key: str | None = None
    matched: str | None = None
    project_slug: str | None = None
    last_used_at: str | None = None


class RunInfo(Record, frozen=True, tag="run"):
    """A run; the last three values say how much of what was stored was covered when it ended."""

    id: int
    command: str
    started_at: str
    finished_at: str | None
    outcome: str | None
    counts: dict[str, int]
    bytes_read: int
    arguments: dict[str, Any] = {}
    coverage_days: int | None = None
    stored_bytes: int | None = None
    covered_bytes: int | None = None


class RenderInfo(Record, frozen=True, tag="render"):
    """A render and its PDF; `state` is one of `states.State`, or None if the render did not succeed.

    Sizes in bytes, digests as 64 hex digits; `key` is the asset key, whether the PDF is stored or not.
    """

    id: str
    project_id: str
    project_slug: str | None
    template_id: str | None
    status: str
    state: str | None
    key: str | None
    size_bytes: int | None
    sha256: str | None
    created_at: str | None
    completed_at: str | None
    stored_at: str | None
    verified_at: str | None
    verdict: str | None
    error_message: str | None


class FindingInfo(Record, frozen=True, tag="finding"):
    """A finding in a list, with its project and its `state`, which is one of `states.State`."""

    run_id: int
    render_id: str | None
    project_id: str | None
    project_slug: str | None
    template_id: str | None
    key: str
    verdict: str
    state: str
    expected: str | None
    found: str | None
    detail: str | None
    found_at: str
    acknowledged: str | None = None


class ProjectInfo(Record, frozen=True, tag="project"):
    """What an archive holds of one project, with a count for each of `states.State`; sizes in bytes."""

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
    covered_bytes: int = 0
    due_bytes: int = 0
    unchecked: int = 0
    unreadable: int = 0
    unverified: int = 0
    acknowledged: int = 0
    disposed: int = 0


class Diagnosis(Record, frozen=True):
    """The result of one check of the doctor; `fix` says what to do, and is None if nothing is wrong.

    `problem` is the kind of fault, or of something worth knowing that is not a fault.
    """

    name: str
    seen: str
    fix: str | None = None
    problem: DiagnosisProblem | None = None


class NightStep(Record, frozen=True, tag="step"):
    """How one step of a night ended.

    `outcome` is that of its command, `failed` if an error ended it, `skipped`, or `planned`; `command` is the command
    line that runs it again.
    """

    name: str
    command: str
    outcome: str
    exit_code: int
    sentence: str
    started_at: str
    finished_at: str


class Setting(Record, frozen=True):
    """An option of a command, or another key of the configuration, with its value and origin.

    `origin` is an environment variable, or a file and line; None for a default.
    """

    command: str
    option: str
    value: str | None
    origin: str | None


class Summary(Record, frozen=True):
    """How a command ended; always the last line.

    `exit_code` is that of the outcome, unless another one is given. `next` is the command to run next, which the
    command line decides; None if there is nothing to do.
    """

    command: str
    outcome: Outcome
    exit_code: int = 0
    counts: dict[str, int] = {}
    bytes_read: int = 0
    run_id: int | None = None
    details: dict[str, Any] = {}
    next: str | None = None

    def __post_init__(self) -> None:
        if self.exit_code == 0:
            msgspec.structs.force_setattr(self, "exit_code", OUTCOME_CODES[one_of("outcome", self.outcome, Outcome)])
