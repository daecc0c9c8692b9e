"""Writes records as lines for people; apart from the reports, which most commands that print records do not need."""

from typing import Any

from craftkit_archive import records
from craftkit_archive.columns import short_digest
from craftkit_archive.outcomes import describe_counts, describe_outcome
from craftkit_archive.records import AuditEvent, Record
from craftkit_archive.states import word_of


def as_text(record: Record, *, whole: bool = False) -> str:
    """Return a record as a line for people; the caller escapes control characters in it (`escape_control`).

    Args:
        record: The record.
        whole: Whether digests are written in full.
    """
    match record:
        case records.Finding():
            expected, found = (short_digest(text, verbose=whole) for text in (record.expected, record.found))
            seen = f": expected {expected}, found {found}" if expected and found else ""
            seen = seen or (f": expected {expected}" if expected else "")
            accepted = f" [acknowledged: {record.acknowledged}]" if record.acknowledged else ""
            detail = f" ({_without(record.key, record.detail).removesuffix('.')})" if record.detail else ""
            return f"  {word_of(record.verdict)}  {record.key}{seen}{detail}{accepted}"
        case records.Note():
            return f"  note  {record.key}: {record.detail}"
        case records.Reject():
            return f"  rejected  {record.source}:{record.line}: {record.reason} [{record.problem}]"
        case records.Caution():
            return f"  warning: {record.text}"
        case records.Skipped():
            return f"  {record.key or record.render_id}: {_without(record.key, record.reason)}"
        case records.Diagnosis():
            id_ = f" [{record.problem}]" if record.problem else ""
            return (
                f"FIX   {record.name}: {record.seen.removesuffix('.')}. {record.fix}{id_}"
                if record.fix
                else f"good  {record.name}: {record.seen}{id_}"
            )
        case records.Acknowledgement():
            return f"accepted  {record.render_id}: {record.state.replace('-', ' ')}, {record.reason}"
        case records.Tombstone():
            remains = f" ({record.remains} remain)" if record.remains else ""
            return f"disposed  {record.render_id}, {record.policy}{remains}"
        case records.ExportMade():
            count = f"{record.disposed:,} of what was disposed"
            return f"export  {record.target} of {record.made_at[:10]} still holds {count}"
        case records.AuditFault():
            return f"  {record.problem}  {record.detail}"
        case records.NightStep():
            return f"  {record.outcome:10}  {record.name}: {record.sentence}"
        case records.Planned():
            return f"{'-' if record.size_bytes is None else record.size_bytes:>12}  {record.path}"
        case records.Summary():
            return describe_outcome(record)
    raise TypeError(record)


def _without(key: str, text: str) -> str:
    """Remove a key from a text about it, because the line begins with the key already."""
    for said in (f"{key} is ", f"{key} ") if key else ():
        if said in text:
            return text.replace(said, "", 1)
    return text


def describe_event(event: AuditEvent) -> str:
    """Write the counts and details of an event of the audit log in one line."""
    said = [describe_counts(event.counts)] if event.counts else []
    said += [f"{name} {_in_short(value)}" for name, value in event.details.items()]
    return ", ".join(said)


def _in_short(value: Any) -> str:
    if isinstance(value, dict):
        return " ".join(str(part) for part in value.values())
    if isinstance(value, list):
        return f"{len(value):,}" if len(value) > 3 else " ".join(map(_in_short, value))
    return str(value)
