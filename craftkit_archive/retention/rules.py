"""Retention rules and legal holds: set, list, end; and which renders are due."""

from collections.abc import Iterator
from datetime import date
from typing import Literal

from craftkit_archive.archive import Archive, Run
from craftkit_archive.catalog.rows import Selection
from craftkit_archive.errors import RequestError
from craftkit_archive.records import DueRender, Hold, Record, RetentionRule
from craftkit_archive.retention.periods import Period

CountedFrom = Literal["created", "completed"]
# What a hold or a reason names must fit into a line.
MAX_NAME_CHARS = 100


def set_retention(
    archive: Archive,
    keep: str,
    *,
    project: str | None = None,
    template: str | None = None,
    counted_from: CountedFrom = "created",
) -> Iterator[Record]:
    """Say how long renders are kept: those of a project, those of a template, or by default.

    Args:
        archive: Open for writing.
        keep: A period such as `10y`, `1y6m` or `90d`.
        project: Id or slug.
        template: A template's id. Without project and template the rule is the default.
        counted_from: Where the period begins; a render that was never completed counts from its creation.

    Yields:
        The `RetentionRule`, and the `Summary`.

    Raises:
        RequestError: The period is not valid, the project is unknown, or both are given.
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
    """Yield every `RetentionRule`, and the `Summary`."""
    run = Run(None, "retention list")
    rules = archive.catalog.retention_rules()
    run.counts["rules"] = len(rules)
    yield from rules
    yield run.summary()


def remove_retention(archive: Archive, *, project: str | None = None, template: str | None = None) -> Iterator[Record]:
    """Remove a rule: its renders follow the other rules, or are kept without end.

    Raises:
        RequestError: There is no such rule.
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

    Where rules of its project and of its template both match a render, the later end counts; the default counts where
    neither does.

    Args:
        archive: May be open read-only.
        by: A date, as in 2026-01-31; today (UTC) if None.

    Raises:
        RequestError: It is not a date.
    """
    last = archive.clock().date() if by is None else _read_date(by)
    rules = {(rule.scope, rule.name): rule for rule in archive.catalog.retention_rules()}
    run = Run(None, "retention due")
    run.counts.update({"due": 0, "held": 0, "due_bytes": 0})
    for page in archive.catalog.kept_renders() if rules else ():
        due = []
        for render_id, project_id, template_id, created_at, completed_at, size in page:
            matching = [rules.get(("project", project_id)), rules.get(("template", template_id or ""))]
            ends = [
                (_due_on(rule, created_at, completed_at), rule)
                for rule in (matching if any(matching) else [rules.get(("default", ""))])
                if rule is not None
            ]
            if ends and (end := max(ends, key=lambda one: one[0]))[0] <= last:
                due.append((render_id, project_id, size, *end))
        held = archive.catalog.held_by([one[0] for one in due]) if due else {}
        for render_id, project_id, size, day, rule in due:
            run.counts["held" if render_id in held else "due"] += 1
            run.counts["due_bytes"] += 0 if render_id in held else size
            named = f"{rule.scope} {rule.name}".strip()
            yield DueRender(render_id, project_id, day.isoformat(), named, rule.keep, size, held.get(render_id, []))
    yield run.summary(by=last.isoformat())


def _due_on(rule: RetentionRule, created_at: str, completed_at: str | None) -> date:
    start = (completed_at if rule.counted_from == "completed" else None) or created_at
    # What the calendar cannot reach is on its last day, and so never due in practice.
    return Period.parse(rule.keep).due_on(date.fromisoformat(start[:10])) or date.max


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
    """Place a legal hold: what it covers is not deleted until it is released.

    A hold by rule covers renders that are imported later, too. The reason is kept in the audit log alone.

    Args:
        archive: Open for writing.
        name: What the hold is called; names are never used again.
        reason: Why; no names of persons, for the audit log is never changed.
        selection: Its ids, or one project, template, and times of creation.

    Yields:
        The `Hold`, and the `Summary`.

    Raises:
        RequestError: Name or reason are missing, the name was used before, or nothing says what is held.
        LockedError: Another command is writing.
    """
    name, reason = _words(name, "name", "--name NAME"), _words(reason, "reason", "--reason TEXT")
    ids, project = selection.render_ids, next(iter(selection.project_ids), None)
    rule = (project, selection.template_id, selection.since, selection.before)
    if (ids is None) == (rule == (None,) * 4):
        raise RequestError(
            "Say what is held: pass --ids FILE, or at least one of --project, --template, --since, --until."
        )
    # The lock: whoever deletes has it from its question to the last byte, and no hold comes between.
    with archive.lock("hold place"), archive.run("hold place", {"name": name}) as run:
        run.counts["placed"] = 1
        with archive.catalog.transaction():
            if any(hold.name == name for hold in archive.catalog.holds()):
                raise RequestError(f"A hold {name!r} was placed before. Choose another name.")
            archive.catalog.put_hold(Hold(name, *rule, archive.now()), ids)
            archive.record_event(
                "hold place",
                {"ids": len(ids or ())},
                name=name,
                reason=reason,
                project=project,
                template=selection.template_id,
                since=selection.since,
                until=selection.before,
            )
            placed = next(hold for hold in archive.catalog.holds() if hold.name == name)
    yield placed
    yield run.summary()


def list_holds(archive: Archive) -> Iterator[Record]:
    """Yield every `Hold`, those released too, and the `Summary`."""
    run = Run(None, "hold list")
    holds = archive.catalog.holds()
    run.counts["in_force"] = sum(hold.released_at is None for hold in holds)
    run.counts["released"] = len(holds) - run.counts["in_force"]
    yield from holds
    yield run.summary()


def release_hold(archive: Archive, name: str, reason: str) -> Iterator[Record]:
    """Release a hold; what another hold covers stays held.

    Raises:
        RequestError: The reason is missing, or no hold of this name is in force.
    """
    name, reason = _words(name, "name", "NAME"), _words(reason, "reason", "--reason TEXT")
    with archive.run("hold release", {"name": name}) as run:
        run.counts["released"] = 1
        with archive.catalog.transaction():
            if not archive.catalog.release_hold(name, archive.now()):
                raise RequestError(f"No hold {name!r} is in force. See `hold list`.")
            archive.record_event("hold release", {"released": 1}, name=name, reason=reason)
    yield run.summary()


def _words(given: str, what: str, option: str) -> str:
    text = " ".join(given.split())
    if not text:
        raise RequestError(f"A hold needs a {what}: pass {option}.")
    if what == "name" and len(text) > MAX_NAME_CHARS:
        raise RequestError(f"A hold's name has at most {MAX_NAME_CHARS} characters.")
    return text
