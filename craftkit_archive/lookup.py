"""Lists renders, runs and findings, filtered and searched, from the catalog alone and in flat memory."""

from collections.abc import Iterable, Iterator
from itertools import islice

from craftkit_archive.archive import Archive, Run
from craftkit_archive.catalog.rows import Selection
from craftkit_archive.errors import RequestError
from craftkit_archive.records import FindingInfo, Record, RenderInfo, RunInfo, one_of
from craftkit_archive.states import State

RUNS = 200


def list_renders(
    archive: Archive,
    *,
    selection: Selection | None = None,
    states: Iterable[State] = (),
    search: str | None = None,
    limit: int | None = None,
) -> Iterator[Record]:
    """List renders with the states of their PDFs, in the order of their ids.

    Args:
        archive: May be open read-only.
        selection: The renders to choose from; all if not given.
        states: Only renders whose PDFs are in one of these states.
        search: Text to find in the id, the template id, the asset key or the error message.
        limit: The most renders to return.

    Yields:
        A `RenderInfo` for each; at last the `Summary`, whose details say whether there are `more`.

    Raises:
        RequestError: A state is unknown.

    Example:
        >>> from craftkit_archive import Archive, list_renders
        >>> with Archive("archive", read_only=True) as archive:
        ...     *_, summary = list_renders(archive, states=["damaged", "not-stored"])
        >>> summary.counts
        {'renders': 0}
    """
    wanted = [one_of("state", state, State) for state in states]
    found: Iterator[RenderInfo] = archive.catalog.render_infos(selection or Selection(), wanted, search)
    filtered = bool(wanted or search) or (selection or Selection()) != Selection()
    yield from _listed("renders list", "renders", found, limit, filtered=filtered, states=list(wanted))


def list_findings(
    archive: Archive,
    *,
    run_id: int | None = None,
    project: str | None = None,
    states: Iterable[State] = (),
    since: str | None = None,
    until: str | None = None,
    search: str | None = None,
    limit: int | None = None,
) -> Iterator[Record]:
    """List the findings of a run, or the latest finding on everything that is wrong now, in the order of their times.

    Args:
        archive: May be open read-only.
        run_id: The number of the run; if not given, what is wrong now.
        project: Id or slug.
        states: Only findings in one of these states.
        since: Only findings from this time on, in a form that `Archive.select` accepts.
        until: Only findings before this time; a date means its end.
        search: Text to find in the render id, the asset key or the detail.
        limit: The most findings to return.

    Yields:
        A `FindingInfo` for each; at last the `Summary`, whose details say whether there are `more`.

    Raises:
        RequestError: The run or project does not exist, or a state or time is invalid.

    Example:
        >>> from craftkit_archive import Archive, list_findings
        >>> with Archive("archive", read_only=True) as archive:
        ...     *_, summary = list_findings(archive, states=["damaged"])
        >>> summary.counts
        {'findings': 0}
    """
    wanted = [one_of("state", state, State) for state in states]
    if run_id is not None and archive.catalog.find_run(run_id) is None:
        raise RequestError(_no_such_run(run_id))
    when = archive.select(projects=project or (), since=since, until=until)
    found: Iterator[FindingInfo] = archive.catalog.finding_infos(
        run_id=run_id,
        project_ids=when.project_ids,
        states=wanted,
        since=when.since,
        before=when.before,
        search=search,
    )
    filtered = any(given is not None for given in (run_id, project, since, until, search)) or bool(wanted)
    yield from _listed("findings list", "findings", found, limit, filtered=filtered, current=run_id is None)


def list_runs(archive: Archive, *, command: str | None = None, limit: int | None = None) -> Iterator[Record]:
    """List runs, the newest first.

    Args:
        archive: May be open read-only.
        command: Only runs of this command, such as `verify`.
        limit: The most runs to return.

    Yields:
        A `RunInfo` for each; at last the `Summary`, whose details say whether there are `more`.

    Example:
        >>> from craftkit_archive import Archive, list_runs
        >>> with Archive("archive", read_only=True) as archive:
        ...     *runs, summary = list_runs(archive, command="fetch", limit=1)
        >>> runs[0].outcome
        'ok'
    """
    yield from _listed("runs list", "runs", _runs(archive, command), limit, filtered=command is not None)


def _runs(archive: Archive, command: str | None) -> Iterator[RunInfo]:
    before = None
    while page := archive.catalog.runs_before(before, command, RUNS):
        yield from page
        before = page[-1].id


def show_run(archive: Archive, run_id: int) -> Iterator[Record]:
    """Return everything that is known about one run.

    Yields:
        The `RunInfo`; at last the `Summary` with the count findings, without notes.

    Raises:
        RequestError: The run does not exist.

    Example:
        >>> from craftkit_archive import Archive, show_run
        >>> with Archive("archive", read_only=True) as archive:
        ...     run, _ = show_run(archive, 1)
        >>> run.command
        'import'
    """
    found = archive.catalog.find_run(run_id)
    if found is None:
        raise RequestError(_no_such_run(run_id))
    run = Run(None, "runs show")
    run.counts["findings"] = archive.catalog.count_findings(run_id)
    yield found
    yield run.summary()


def _no_such_run(run_id: int) -> str:
    return f"There is no run {run_id}. See `runs list`."


def _listed(command: str, what: str, found: Iterable[Record], limit: int | None, **details: object) -> Iterator[Record]:
    """Pass records on up to a limit; the summary counts them, and says whether there are more."""
    run = Run(None, command)
    run.counts[what] = 0
    records = iter(found)
    for record in islice(records, limit):
        run.counts[what] += 1
        yield record
    more = limit is not None and next(records, None) is not None
    yield run.summary(more=more, **details)
