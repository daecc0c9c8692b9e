"""What the queries take and return."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec

from craftkit_archive.records import NightStep, Status, Verdict, one_of
from craftkit_archive.states import Standing

PAGE = 2000


# Whether a render's asset key differs from the one that Craftkit gives. Few do, so a partial index has only those.
ELSEWHERE = "asset_key <> 'renders/' || project_id || '/' || id || '.pdf'"


class Selection(msgspec.Struct, frozen=True):
    """Which renders to work on; all of them unless narrowed. Times are in the catalog's form.

    Attributes:
        project_ids: Only renders of one of these projects.
        since: Only renders created at this time or later.
        before: Only renders created before this time.
        template_id: Only renders of this template.
        render_ids: Only renders with one of these ids; None selects any.
        statuses: Only renders with one of these statuses.

    Raises:
        RequestError: A status is unknown.
    """

    project_ids: tuple[str, ...] = ()
    since: str | None = None
    before: str | None = None
    template_id: str | None = None
    render_ids: tuple[str, ...] | None = None
    statuses: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for status in self.statuses:
            one_of("status", status, Status)

    def where(self) -> tuple[str, list[Any]]:
        """Return it as an SQL condition over `renders AS r`, to be appended to another, and its parameters."""
        terms: list[tuple[str, str | None]] = [
            # The unary plus keeps SQLite from using the index on (project, time): it would then have to sort all of a
            # project's renders by id for every page, where the primary key gives them in that order.
            (" AND +r.project_id IN (SELECT value FROM json_each(?))", json_text(self.project_ids or None)),
            (" AND r.created_at >= ?", self.since),
            (" AND r.created_at < ?", self.before),
            (" AND r.template_id = ?", self.template_id),
            (" AND r.id IN (SELECT value FROM json_each(?))", json_text(self.render_ids)),
            (" AND r.status IN (SELECT value FROM json_each(?))", json_text(self.statuses or None)),
        ]
        given = [(sql, value) for sql, value in terms if value is not None]
        return "".join(sql for sql, _ in given), [value for _, value in given]

    def parts(self) -> Iterator["Selection"]:
        """Cut the list of ids into pages of `PAGE`, sorted as the catalog sorts and without duplicates."""
        if self.render_ids is None:
            yield self
            return
        ids = sorted(set(self.render_ids), key=str.encode)
        for start in range(0, len(ids), PAGE):
            yield msgspec.structs.replace(self, render_ids=tuple(ids[start : start + PAGE]))


class Choice(msgspec.Struct, frozen=True):
    """Which of the stored assets to check, by their last checks; all of them unless one of the first three is set.

    Attributes:
        new: Those that were never checked.
        failed: Those whose last verdict is not `ok`.
        due_before: Both of the above, those last checked before this time, and those dated in the future.
        now: The present, which tells what is in the future.
        share: Only a random share of them, above 0 and at most 1; None for all.
        seed: The seed of the random choice: with the same seed, the same ids are chosen.
    """

    new: bool = False
    failed: bool = False
    due_before: str | None = None
    now: str = ""
    share: float | None = None
    seed: int = 0

    @property
    def whole(self) -> bool:
        """Whether it selects all of them."""
        return not (self.new or self.failed or self.due_before or self.share)

    def where(self) -> tuple[str, list[Any]]:
        """Return it as an SQL condition over `assets AS a`, to be appended to another, and its parameters."""
        terms: list[str] = []
        values: list[Any] = []
        if self.new or self.due_before:
            terms.append("a.verified_at IS NULL")
        if self.failed or self.due_before:
            terms.append("a.verdict <> 'ok'")
        if self.due_before:
            terms.append("a.verified_at < ? OR a.verified_at > ?")
            values += [self.due_before, self.now]
        return (f" AND ({' OR '.join(terms)})" if terms else ""), values


class Expectation(NamedTuple):
    """What an asset should be: size in bytes and digest, None where unknown; `stored` if it is in the store already."""

    render_id: str
    key: str
    size_bytes: int | None
    sha256: str | None
    stored: bool


class Asset(NamedTuple):
    """A stored asset, as recorded. Size in bytes, digest as 64 hex digits; None where unknown."""

    render_id: str
    key: str
    size_bytes: int | None
    sha256: str | None


class DamagedAsset(NamedTuple):
    """A stored asset whose last check failed; the rest as in `Asset`."""

    render_id: str
    key: str
    size_bytes: int
    sha256: str
    verdict: Verdict


class NewAsset(NamedTuple):
    """An asset that has just been stored; `odd` notes what was odd about the PDF on arrival."""

    render_id: str
    key: str
    size_bytes: int
    sha256: str
    digest_source: str
    source: str
    stored_at: str
    odd: str | None = None


class KeptRender(NamedTuple):
    """A render as a retention rule sees it; its size in bytes is 0 if no PDF is stored."""

    id: str
    project_id: str
    template_id: str | None
    created_at: str | None
    completed_at: str | None
    size_bytes: int


class ExportRow(NamedTuple):
    """A render with everything that an export says about it.

    Attributes:
        key: The asset key; empty if there is none.
        sha256: The recorded digest, as 64 hex digits; None if there is none.
        odd: What was odd about the PDF on arrival.
        accepted_state: The state of the PDF that was accepted.
        accepted_reason: Why it was accepted.
    """

    render_id: str
    project_id: str
    project_slug: str | None
    project_name: str | None
    template_id: str | None
    status: str
    created_at: str | None
    completed_at: str | None
    key: str
    size_bytes: int | None
    sha256: str | None
    stored: bool
    odd: str | None = None
    accepted_state: str | None = None
    accepted_reason: str | None = None
    disposed: bool = False


class Totals(NamedTuple):
    """What an archive holds, for its monitoring.

    Attributes:
        stored: Stored PDFs.
        stored_bytes: Their bytes.
        oldest_check: The oldest among the times of their latest checks; None before the first.
        standing: The number of stored PDFs in each state.
    """

    stored: int
    stored_bytes: int
    oldest_check: str | None
    standing: Standing


class KeyRow(NamedTuple):
    """The key of a request: its project, and whether the key was revoked or the project is gone."""

    key_id: str
    project_id: str
    revoked: bool
    project_gone: bool
    project_name: str | None = None


class ServedRender(NamedTuple):
    """A render as the server needs it; key, size and digest are None without a stored asset."""

    id: str
    status: str
    error_message: str | None
    asset_key: str | None
    created_at: str | None
    completed_at: str | None
    duration_ms: int | None
    stored_key: str | None
    size_bytes: int | None
    sha256: str | None
    disposed: bool


class Listing(NamedTuple):
    """One page of the list of a project's renders. Times are in the catalog's form.

    Attributes:
        limit: The most renders to return.
        status: Only renders with this status.
        since: Only renders created at this time or later.
        before: Only renders created before this time.
        search: Only renders whose ids begin with this text.
        after: The creation time and the id of the last render on the page before.
    """

    limit: int
    status: str | None = None
    since: str | None = None
    before: str | None = None
    search: str | None = None
    after: tuple[str, str] | None = None


def join_renders(selection: Selection) -> str:
    """Return the SQL that joins `renders AS r` to `assets AS a`; empty if the selection needs no column of it."""
    return " JOIN renders AS r ON r.id = a.render_id" if selection.where()[0] else ""


def json_text(value: Any) -> str | None:
    """Write a value as JSON, for `json_each` or a column; None stays None."""
    return None if value is None else msgspec.json.encode(value).decode()


class Night(NamedTuple):
    """A night. The last two values of one that was killed are None."""

    run_id: int
    started_at: str
    finished_at: str | None
    exit_code: int | None
    sentence: str | None
    steps: list[NightStep]
