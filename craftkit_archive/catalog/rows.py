"""What the queries take and return."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec

from craftkit_archive.records import NightStep, Status, Verdict, one_of
from craftkit_archive.states import Standing

PAGE = 2000


# Whether a render's asset lies elsewhere than where Craftkit puts it. Few do, and an index has only those.
ELSEWHERE = "asset_key <> 'renders/' || project_id || '/' || id || '.pdf'"


class Selection(msgspec.Struct, frozen=True):
    """Which renders to work on; all of them unless narrowed. Times are as the catalog writes them.

    Raises a `RequestError` if a status is unknown.

    Attributes:
        project_ids: Ids of projects, any of which will do.
        since: Earliest creation time.
        before: Creation time from which on they are left out.
        template_id: The template they were made from.
        render_ids: Their ids; None selects any.
        statuses: Statuses, any of which will do.
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
        """Express it in SQL over `renders AS r`, for use after another condition."""
        terms: list[tuple[str, str | None]] = [
            # The plus keeps SQLite from the index by time, after which it would have to sort by id.
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
        """Cut a list of ids into such as one query takes, in the catalog's order and each id once."""
        if self.render_ids is None:
            yield self
            return
        ids = sorted(set(self.render_ids), key=str.encode)
        for start in range(0, len(ids), PAGE):
            yield msgspec.structs.replace(self, render_ids=tuple(ids[start : start + PAGE]))


class Choice(msgspec.Struct, frozen=True):
    """Which of the stored assets to check, by the ledger: all, unless one of the first three is set.

    Attributes:
        new: Those that were never checked.
        failed: Those whose last verdict is not `ok`.
        due_before: Those of both kinds, those last checked before this time, and those whose date is yet to come.
        now: The time; later dates are in the future.
        share: A part of them, above 0 and up to 1, drawn at random; None is all.
        seed: What the draw depends on, besides the ids.
    """

    new: bool = False
    failed: bool = False
    due_before: str | None = None
    now: str = ""
    share: float | None = None
    seed: int = 0

    @property
    def whole(self) -> bool:
        """Whether it is all of them."""
        return not (self.new or self.failed or self.due_before or self.share)

    def where(self) -> tuple[str, list[Any]]:
        """Express it in SQL over `assets AS a`, for use after another condition."""
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
    """What an asset should be; None where nothing is known. `stored` says whether it is in the store already."""

    render_id: str
    key: str
    size_bytes: int | None
    sha256: str | None
    stored: bool


class Asset(NamedTuple):
    """A stored asset, as recorded. Size in bytes, digest as 64 hex digits; None where nothing is known."""

    render_id: str
    key: str
    size_bytes: int | None
    sha256: str | None


class DamagedAsset(NamedTuple):
    """A stored asset whose last check was bad; otherwise as `Asset`."""

    render_id: str
    key: str
    size_bytes: int
    sha256: str
    verdict: Verdict


class NewAsset(NamedTuple):
    """An asset that has just been stored; `odd` is what was odd about it as a PDF when it came."""

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
    """A render with what an export says about it; `key` is empty if it has none, `sha256` None if none is recorded.

    `odd` is what was odd about its PDF on arrival. The two after it say in which state its loss was accepted, and why.
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
        oldest_check: The time of the check that is longest ago; None before the first.
        standing: How many of the stored PDFs are in which state.
    """

    stored: int
    stored_bytes: int
    oldest_check: str | None
    standing: Standing


class KeyRow(NamedTuple):
    """What a request's key is: its project, and whether key and project are still good."""

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
    """Which renders of a project a page of their list shows. Times are as the catalog writes them.

    Attributes:
        limit: How many.
        status: Only those that have it.
        since: Earliest creation time.
        before: Creation time from which on they are left out.
        search: A part of their ids.
        after: Creation time and id of the last one that was shown.
    """

    limit: int
    status: str | None = None
    since: str | None = None
    before: str | None = None
    search: str | None = None
    after: tuple[str, str] | None = None


def join_renders(selection: Selection) -> str:
    """Join what a selection asks about to `assets AS a`; nothing where it asks nothing."""
    return " JOIN renders AS r ON r.id = a.render_id" if selection.where()[0] else ""


def json_text(value: Any) -> str | None:
    """Write a value as JSON, for `json_each` or a column; None stays None."""
    return None if value is None else msgspec.json.encode(value).decode()


class Night(NamedTuple):
    """A night; what its end says is None for one that was killed."""

    run_id: int
    started_at: str
    finished_at: str | None
    exit_code: int | None
    sentence: str | None
    steps: list[NightStep]
