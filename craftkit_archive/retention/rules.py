"""Sets, lists and removes retention rules and legal holds, and lists the renders that are due."""

from collections.abc import Iterable, Iterator, Sequence
from datetime import date, timedelta
from functools import lru_cache
from typing import Literal

import msgspec

from craftkit_archive.archive import Archive, Run
from craftkit_archive.catalog.rows import KeptRender, Selection
from craftkit_archive.errors import RequestError
from craftkit_archive.parallel.batches import in_batches
from craftkit_archive.records import DueRender, Hold, Keeping, Record, RetentionRule
from craftkit_archive.retention.periods import Period

CountedFrom = Literal["created", "completed"]
# The longest name of a hold, so that it fits into a line.
MAX_NAME_CHARS = 100
# How far a report looks ahead.
SOON_DAYS = 90
# With ids of at most 256 bytes, or four times as many if escaped, this many fit into the line of an event.
IDS_IN_EVENT = 500


def set_retention(
    archive: Archive,
    keep: str,
    *,
    project: str | None = None,
    template: str | None = None,
    counted_from: CountedFrom = "created",
) -> Iterator[Record]:
    """Set how long renders are kept: those of a project, those of a template, or all others.

    Args:
        archive: Open for writing.
        keep: A period such as `10y`, `1y6m` or `90d`.
        project: Id or slug.
        template: The id of a template. Without project and template, the rule is the default.
        counted_from: When the period begins; for a render that was never completed, always at its creation.

    Yields:
        The `RetentionRule`, and the `Summary`.

    Raises:
        RequestError: The period is not valid, the project is unknown, or both are given.

    Example:
        >>> from craftkit_archive import Archive, set_retention
        >>> with Archive("archive") as archive:
        ...     rule, _ = set_retention(archive, "10y", project="northwind")
        >>> rule.scope, rule.keep, rule.counted_from
        ('project', '10y', 'created')
    """
    try:
        period = Period.parse(keep)
    except ValueError as error:
        raise RequestError(str(error)) from error
    scope, name = _scope(archive, project, template)
    rule = RetentionRule(scope, name, str(period), counted_from, archive.now())
    with archive.run("retention set", {"scope": scope, "name": name, "keep": rule.keep}) as run:
        run.counts["set"] = 1
        with archive.catalog.transaction():
            archive.catalog.put_retention(rule)
            archive.record_event(
                "retention set", {"set": 1}, scope=scope, name=name or None, keep=rule.keep, counted_from=counted_from
            )
    yield rule
    yield run.summary()


def list_retention(archive: Archive) -> Iterator[Record]:
    """Yield every `RetentionRule`, and the `Summary`.

    Example:
        >>> from craftkit_archive import Archive, list_retention
        >>> with Archive("archive", read_only=True) as archive:
        ...     *rules, summary = list_retention(archive)
        >>> rules, summary.counts
        ([], {'rules': 0})
    """
    run = Run(None, "retention list")
    rules = archive.catalog.retention_rules()
    run.counts["rules"] = len(rules)
    yield from rules
    yield run.summary()


def remove_retention(archive: Archive, *, project: str | None = None, template: str | None = None) -> Iterator[Record]:
    """Remove a rule; its renders then follow the other rules, or are kept forever.

    Raises:
        RequestError: There is no such rule.

    Example:
        >>> from craftkit_archive import Archive, remove_retention, set_retention
        >>> with Archive("archive") as archive:
        ...     *_, summary = set_retention(archive, "10y")
        ...     *_, summary = remove_retention(archive)
        >>> summary.counts
        {'removed': 1}
    """
    scope, name = _scope(archive, project, template)
    with archive.run("retention remove", {"scope": scope, "name": name}) as run:
        run.counts["removed"] = 1
        with archive.catalog.transaction():
            if not archive.catalog.remove_retention(scope, name):
                raise RequestError("There is no such retention rule. See `retention list`.")
            archive.record_event("retention remove", {"removed": 1}, scope=scope, name=name or None)
    yield run.summary()


def list_due(archive: Archive, *, by: str | None = None) -> Iterator[Record]:
    """Yield a `DueRender` for each stored render whose period is over by a date, and the `Summary`. Changes nothing.

    If a rule for its project and one for its template both match a render, the later end counts; if neither does, the
    default counts.

    Args:
        archive: May be open read-only.
        by: A date, as in 2026-01-31; today (UTC) if None.

    Raises:
        RequestError: It is not a date.

    Example:
        >>> from craftkit_archive import Archive, list_due, set_retention
        >>> with Archive("archive") as archive:
        ...     *_, summary = set_retention(archive, "1y6m")
        ...     *due, summary = list_due(archive, by="2027-12-31")
        >>> due[0].due_on, summary.counts["due"]
        ('2027-12-06', 5)
    """
    last = archive.clock().date() if by is None else _read_date(by)
    run = Run(None, "retention due")
    run.counts.update({"due": 0, "held": 0, "due_bytes": 0})
    for due in due_pages(archive, last):
        held = archive.catalog.held_by([one.render_id for one in due]) if due else {}
        for one in due:
            run.counts["held" if one.render_id in held else "due"] += 1
            run.counts["due_bytes"] += 0 if one.render_id in held else one.size_bytes
            yield msgspec.structs.replace(one, held_by=held.get(one.render_id, []))
    yield run.summary(by=last.isoformat())


def due_pages(archive: Archive, last: date) -> Iterator[list[DueRender]]:
    """Yield, page by page and in the order of ids, the stored renders whose period is over by a day; held ones too."""
    schedule = Schedule(archive.catalog.retention_rules())
    for page in archive.catalog.kept_renders() if schedule else ():
        due = []
        for render in page:
            end = schedule.end_of(render)
            if end is not None and end[0] <= last:
                day, rule = end
                named = f"{rule.scope} {rule.name}".strip()
                due.append(
                    DueRender(
                        render.id, render.project_id, day.isoformat(), named, rule.keep, render.size_bytes, held_by=[]
                    )
                )
        yield due


class Schedule:
    """The retention rules as a function of a render; false if there are none."""

    def __init__(self, rules: Iterable[RetentionRule]) -> None:
        self._rules = {(rule.scope, rule.name): rule for rule in rules}

    def __bool__(self) -> bool:
        """Return whether there are any rules."""
        return bool(self._rules)

    def end_of(self, render: KeptRender) -> tuple[date, RetentionRule] | None:
        """Return the first day on which a render is due, and the rule that says so; None if it is kept forever.

        If a rule for its project and one for its template both match, the later end counts; if neither does, the
        default counts.
        """
        matching = [
            self._rules.get(("project", render.project_id)),
            self._rules.get(("template", render.template_id or "")),
        ]
        rules = matching if any(matching) else [self._rules.get(("default", ""))]
        ends = [(_due_on(rule, render.created_at, render.completed_at), rule) for rule in rules if rule is not None]
        return max(ends, key=lambda one: one[0]) if ends else None


def _due_on(rule: RetentionRule, created_at: str | None, completed_at: str | None) -> date:
    start = (completed_at if rule.counted_from == "completed" else None) or created_at
    return _first_day_after(rule.keep, start[:10]) if start else date.max


@lru_cache(maxsize=4096)  # a million renders begin on a few thousand days
def _first_day_after(keep: str, day: str) -> date:
    # A day after the end of the calendar becomes its last day, and is never reached in practice.
    return Period.parse(keep).due_on(date.fromisoformat(day)) or date.max


def keeping(archive: Archive, days: int = SOON_DAYS) -> Keeping:
    """Count the renders that are due within a number of days, held, and disposed, from the catalog alone."""
    today = archive.clock().date()
    due = soon = size = 0
    for page in due_pages(archive, today + timedelta(days=days)):
        soon += len(page)
        size += sum(one.size_bytes for one in page)
        due += sum(one.due_on <= today.isoformat() for one in page)
    disposed, begun = archive.catalog.count_disposed()
    holds = sum(hold.released_at is None for hold in archive.catalog.hold_terms())
    held = archive.catalog.count_held() if holds else 0
    return Keeping(days, due, soon, size, holds, held, disposed, begun)


def _scope(archive: Archive, project: str | None, template: str | None) -> tuple[str, str]:
    if project is not None and template is not None:
        raise RequestError("A rule is for a project or for a template. Set two rules; the longer period counts.")
    if project is not None:
        return "project", archive.find_project(project)
    return ("default", "") if template is None else ("template", template)


def _read_date(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError as error:
        raise RequestError(f"Invalid date {text!r}. Use 2026-01-31.") from error


def place_hold(archive: Archive, name: str, reason: str, selection: Selection) -> Iterator[Record]:
    """Place a legal hold; the renders that it covers are not deleted until it is released.

    A hold by rule also covers renders that are imported later. The reason is kept only in the audit log.

    Args:
        archive: Open for writing.
        name: The name of the hold; it cannot be used again.
        reason: The reason. The audit log is never changed, so it must not name a person.
        selection: Render ids, or a rule: one project, a template, and times of creation.

    Yields:
        The `Hold`, and the `Summary`.

    Raises:
        RequestError: The name or the reason is missing, the name was used before, the selection is empty, or it has
            statuses or more than one project.
        LockedError: Another command is writing.

    Example:
        >>> from craftkit_archive import Archive, place_hold
        >>> with Archive("archive") as archive:
        ...     hold, _ = place_hold(archive, "case 1", "a dispute", archive.select(projects="northwind"))
        >>> hold.covers
        5
    """
    name, reason = one_line_of(name, "name", "--name NAME"), one_line_of(reason, "reason", "--reason TEXT")
    if len(selection.project_ids) > 1 or selection.statuses:
        raise RequestError("A hold is on one project, whatever the status. Place a hold for each project.")
    ids, project = selection.render_ids, next(iter(selection.project_ids), None)
    rule = (project, selection.template_id, selection.since, selection.before)
    if (ids is None) == (rule == (None,) * 4):
        raise RequestError(
            "Say what is held: pass --ids FILE, or at least one of --project, --template, --since, --until."
        )
    # A command that deletes holds the lock from its check to the last byte, so that no hold comes in between.
    with archive.lock("hold place"), archive.run("hold place", {"name": name}) as run:
        run.counts["placed"] = 1
        with archive.catalog.transaction():
            if any(hold.name == name for hold in archive.catalog.holds()):
                raise RequestError(f"A hold {name!r} was placed before. Choose another name.")
            archive.catalog.put_hold(Hold(name, *rule, archive.now()), ids)
            # The ids are in one or several events, so that the hold can be restored from the log into an older catalog.
            for part in [None] if ids is None else in_batches(ids, IDS_IN_EVENT):
                archive.record_event(
                    "hold place",
                    {"ids": len(part or ())},
                    name=name,
                    reason=reason,
                    project=project,
                    template=selection.template_id,
                    since=selection.since,
                    until=selection.before,
                    renders=part,
                )
            placed = next(hold for hold in archive.catalog.holds() if hold.name == name)
    yield placed
    yield run.summary()


def keep_held(archive: Archive, render_ids: Sequence[str]) -> None:
    """Keep renders held whose rows are about to change so that a hold by rule would no longer cover them.

    A held render stays held until the hold is released, whatever a later import says about its template or time. Call
    it in the transaction of the change.
    """
    for name, ids in archive.catalog.keep_held(render_ids).items() if render_ids else ():
        for part in in_batches(ids, IDS_IN_EVENT):
            archive.record_event("hold keep", {"ids": len(part)}, name=name, renders=part)


def list_holds(archive: Archive) -> Iterator[Record]:
    """Yield every `Hold`, including released ones, and the `Summary`.

    Example:
        >>> from craftkit_archive import Archive, list_holds
        >>> with Archive("archive", read_only=True) as archive:
        ...     *_, summary = list_holds(archive)
        >>> summary.counts
        {'in_force': 0, 'released': 0}
    """
    run = Run(None, "hold list")
    holds = archive.catalog.holds()
    run.counts["in_force"] = sum(hold.released_at is None for hold in holds)
    run.counts["released"] = len(holds) - run.counts["in_force"]
    yield from holds
    yield run.summary()


def release_hold(archive: Archive, name: str, reason: str) -> Iterator[Record]:
    """Release a hold; renders that another hold covers stay held.

    Raises:
        RequestError: The reason is missing, or no hold of this name is in force.

    Example:
        >>> from craftkit_archive import Archive, place_hold, release_hold
        >>> with Archive("archive") as archive:
        ...     *_, summary = place_hold(archive, "case 1", "a dispute", archive.select(since="2026-01-01"))
        ...     *_, summary = release_hold(archive, "case 1", "settled")
        >>> summary.counts
        {'released': 1}
    """
    name, reason = one_line_of(name, "name", "NAME"), one_line_of(reason, "reason", "--reason TEXT")
    with archive.run("hold release", {"name": name}) as run:
        run.counts["released"] = 1
        with archive.catalog.transaction():
            if not archive.catalog.release_hold(name, archive.now()):
                raise RequestError(f"No hold {name!r} is in force. See `hold list`.")
            archive.record_event("hold release", {"released": 1}, name=name, reason=reason)
    yield run.summary()


def one_line_of(given: str, what: str, option: str) -> str:
    """Return a name or a reason in one line, with white space collapsed.

    Raises:
        RequestError: It is empty or too long.
    """
    text = " ".join(given.split())
    if not text:
        raise RequestError(f"A hold needs a {what}: pass {option}.")
    if what == "name" and len(text) > MAX_NAME_CHARS:
        raise RequestError(f"A hold's name has at most {MAX_NAME_CHARS} characters.")
    return text
