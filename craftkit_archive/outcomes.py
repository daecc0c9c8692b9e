"""Outcomes: describes how a command ended in one sentence, and picks the worst of many records or exit codes."""

from collections.abc import Callable, Iterable, Sequence

from craftkit_archive.records import Diagnosis, Finding, Record, Reject, RunInfo, Skipped, Summary
from craftkit_archive.states import STATES, WORST_FIRST, Standing, State, by_state, describe_states
from craftkit_archive.stores.base import mask_address
from craftkit_archive.values import format_size

# Exit codes, the worst first. The steps of a night work on one archive: damage matters more than a source that could
# not be reached, which the next night will try again. Of several archives, one that could not be examined may hide any
# damage, so it comes before one whose damage is known.
WORST_STEP_FIRST = (70, 13, 1, 15, 14, 16, 11, 10, 2, 3, 101, 0)
WORST_ARCHIVE_FIRST = (70, 13, 15, 14, 16, 11, 10, 2, 1, 3, 101, 0)

_HOW = {"limited": "stopped at its limit: ", "interrupted": "interrupted: "}
_Sentence = Callable[[Summary], str]


def describe_outcome(summary: Summary) -> str:
    """Describe how a command ended: first what is bad, then what was done; empty if there is nothing to report."""
    if summary.command in ("serve", "quickstart") and summary.outcome == "interrupted":
        return f"{summary.command}: stopped"
    sentence = _SENTENCES.get(summary.command, _counted)(summary)
    how = _HOW.get(summary.outcome, "")
    if not sentence:
        return f"{summary.command}: {how.removesuffix(': ')}" if how else ""
    return f"{summary.command}: {how}{sentence}"


def severity(record: Record) -> int:
    """Return the rank of a record; the lower, the worse."""
    if isinstance(record, Finding):
        state = "acknowledged" if record.acknowledged else STATES[record.verdict]
        return WORST_FIRST.index(state)
    if isinstance(record, (Reject, Diagnosis)):
        return 0
    return WORST_FIRST.index("not-stored") if isinstance(record, Skipped) else len(WORST_FIRST)


def worst_code(codes: Iterable[int], worst_first: Sequence[int]) -> int:
    """Return the worst of some exit codes; 0 if there are none."""
    return min(codes, key=lambda code: (code_rank(code, worst_first), code), default=0)


def code_rank(code: int, worst_first: Sequence[int]) -> int:
    """Return the rank of an exit code; the lower, the worse. That of a signal, or an unknown one, is the worst."""
    return worst_first.index(code) if code in worst_first else -1


# --- one for each command --------------------------------------------------------------------------------------------


# Former names of counts, which are kept until 1.0 beside the present ones.
_FORMER = ("excluded", "lacking", "to_mend")


def describe_counts(counts: dict[str, int]) -> str:
    """Return counts in words: the first one, and those that are not zero."""
    shown = [name for at, name in enumerate(counts) if (counts[name] or not at) and name not in _FORMER]
    return ", ".join(f"{counts[name]:,} {_word(name, counts[name])}" for name in shown)


_WORDS = {"absent": "missing at the source", "unclaimed": "extra at the source", "orphan": "extra"}
# Counts that are named by plural nouns; all others are named by what was done or found.
_NOUNS = frozenset(
    {"renders", "keys", "events", "rules", "notes", "runs", "findings", "faults", "options", "access logs", "projects"}
)


def _word(name: str, count: int) -> str:
    """Return a count's name in words, in the singular for one: one event, two events."""
    word = _WORDS.get(name, name.replace("_", " "))
    return word.removesuffix("s") if count == 1 and word in _NOUNS else word


def describe_run(run: RunInfo) -> str:
    """Return the counts of a run in one line, bad ones first, because a narrow window shows only the beginning."""
    found = by_state(run.counts)
    names = [name for name in run.counts if name not in STATES or name == "ok"]
    bad = [name for name in names if name in _BAD and run.counts[name]]
    rest = {name: run.counts[name] for name in [*bad, *(name for name in names if name not in bad)]}
    if "not_stored" in rest:
        found.pop("not-stored", None)
    rest.pop("acknowledged", None)
    return ", ".join(filter(None, [describe_states(found), describe_counts(rest)])) if run.counts else ""


_BAD = ("rejected", "failed", "not_stored", "refused", "absent", "unavailable", "unknown")


def _counted(summary: Summary) -> str:
    return f"{describe_counts(summary.counts)}{_amount(summary)}"


def _status(summary: Summary) -> str:
    if not summary.counts.get("renders"):
        return "the archive has no renders" if summary.details.get("projects") else "the archive is empty"
    standing: Standing = summary.details["standing"]
    sentence = standing.text
    if standing.bad:
        count, _, rest = sentence.partition(" ")
        sentence = f"{count} {'PDF' if count == '1' else 'PDFs'} {rest}: see `report`"
    return f"{sentence}; {summary.details['coverage']['text']}" if standing.stored else sentence


def _verify(summary: Summary) -> str:
    counts, details = summary.counts, summary.details
    found = by_state(counts)
    if not counts.get("checked") and not found and not counts.get("unknown"):
        if details.get("stored") == 0:
            return "nothing is stored"
        if summary.outcome == "limited":
            return "no PDF was checked"
        due = details.get("next_due")
        if due:
            return f"nothing is due until {due[:10]}"
        return _NOTHING_TO_CHECK.get(details.get("scope", ""), "no stored PDF matches, so none was checked")
    bad = "; ".join(filter(None, [_found(counts, found), _named(counts, {"unknown": "ids unknown"})]))
    seen = _named(counts, {"checked": "checked", "ok": "ok", "same_size": "of the recorded size", "notes": "notes"})
    covered = details.get("coverage")
    coverage = f"; {covered['text']}" if covered else ""
    return f"{bad or 'no damage'}; {seen}{_amount(summary)}{coverage}"


_NOTHING_TO_CHECK = {
    "new": "nothing is new: every stored PDF was verified before",
    "failed": "nothing was bad at its last check",
}


def _found(counts: dict[str, int], found: dict[State, int]) -> str:
    """Name states with their counts, followed by the verdicts in brackets if these say more."""
    parts = []
    for state in WORST_FIRST:
        if not found.get(state):
            continue
        verdicts = [
            (verdict, counts[verdict]) for verdict, is_of in STATES.items() if is_of == state and counts.get(verdict)
        ]
        named = ", ".join(f"{count:,} {verdict}" for verdict, count in verdicts if verdict not in ("orphan", state))
        parts.append(describe_states({state: found[state]}) + (f" ({named})" if named else ""))
    return ", ".join(parts)


def _fetch(summary: Summary) -> str:
    counts = summary.counts
    named = {"absent": "missing at the source", "refused": "refused", "unavailable": "unavailable"}
    bad = [f"{counts['not_stored']:,} not stored{_reasons(counts, named)}"] if counts.get("not_stored") else []
    bad += [_named(counts, {"unknown": "ids unknown", "acknowledged": "acknowledged"})]
    if summary.details.get("did_you_mean"):
        extra = _named(counts, {"unclaimed": "extra at the source"})
        return _missed(f"{counts['absent']:,} not stored", extra, summary)
    if not counts.get("expected"):
        why = "every succeeded render is stored"
        if summary.details.get("renders") is False:
            why = "the archive has no renders"
        elif summary.details.get("selected"):
            why = "every succeeded render of this selection is stored"
        return "; ".join([*filter(None, bad), f"nothing to fetch: {why}"])
    done = _named(counts, {"copied": "copied", "adopted": "adopted", "odd": "odd", "unclaimed": "extra at the source"})
    expected = f"{counts['expected']:,} expected"
    return "; ".join(filter(None, [*bad, ", ".join(filter(None, [expected, done]))])) + _amount(summary)


def _reasons(counts: dict[str, int], names: dict[str, str]) -> str:
    """Return why something was not done; a single reason without its count, which would be the total again."""
    given = [word for name, word in names.items() if counts.get(name)]
    return f": {given[0]}" if len(given) == 1 else f" ({_named(counts, names)})"


def _missed(what: str, extra: str, summary: Summary) -> str:
    """Say that the source has none of the assets, and suggest where they are."""
    said = ", ".join(filter(None, [what, extra]))
    return f"nothing matched: {said}. Did you mean {mask_address(summary.details['did_you_mean'])}?"


def _repair(summary: Summary) -> str:
    counts = summary.counts
    if not counts.get("damaged"):
        when = summary.details.get("last_verified")
        if not when:
            return "nothing to repair: no stored PDF was ever verified"
        return f"nothing to repair: the last verify ({when[:10]}) found nothing bad. In doubt, verify first"
    if summary.details.get("did_you_mean"):
        return _missed(f"{counts['absent']:,} still bad", "", summary)
    still = counts.get("absent", 0) + counts.get("refused", 0)
    left = _reasons(counts, {"absent": "missing at the source", "refused": "refused"})
    bad = f"{still:,} still bad{left}" if still else ""
    would = "would be repaired" if summary.details.get("dry_run") else "repaired"
    done = _named(
        counts, {"damaged": "bad", "repaired": would, "healed": "good already", "acknowledged": "acknowledged"}
    )
    return "; ".join(filter(None, [bad, done])) + _amount(summary)


def _export(summary: Summary) -> str:
    counts = summary.counts
    bad = _named(
        counts,
        {
            "failed": "failed",
            "not_stored": "not stored",
            "kept_disposed": "disposed and still in it",
            "acknowledged": "acknowledged",
            "disposed": "disposed",
        },
    )
    names = {name: name for name in ("selected", "written", "unchanged", "kept", "pruned")}
    return "; ".join(filter(None, [bad, _named(counts, names)])) + _amount(summary)


def _dispose(summary: Summary) -> str:
    counts, dry = summary.counts, summary.details.get("dry_run")
    bad = {
        "failed": "could not be deleted",
        "held": "held",
        "unknown": "ids unknown",
        "remains": "of which bytes remain",
    }
    would = "would be disposed" if dry else "disposed"
    done = f"{counts['disposed']:,} {would}" if counts["disposed"] else "nothing to dispose"
    more = {
        "finished": "begun earlier",
        "begun": "begun earlier and not finished",
        "early": "before the end of their period",
        "already": "disposed already",
    }
    return "; ".join(filter(None, [_named(counts, bad), ", ".join(filter(None, [done, _named(counts, more)]))]))


def _export_check(summary: Summary) -> str:
    counts = summary.counts
    found = by_state(counts)
    parts = [_found(counts, found), _named(counts, {"lacking": "not stored", "disposed": "disposed"})]
    bad = ", ".join(filter(None, parts))
    return f"{bad or 'no damage'}; {_named(counts, {'checked': 'checked', 'ok': 'ok'})}{_amount(summary)}"


def _seal(summary: Summary) -> str:
    if "seal" not in summary.details:
        return f"{summary.details['file']} was stamped at {summary.details['time']}"
    found, expected = summary.details["seal"], summary.details["expected"]
    sealed, without = summary.counts["sealed"], summary.counts.get("without_digest", 0)
    pdfs = _how_many(sealed, "PDF", "PDFs") or "0 PDFs"
    gap = f"; {without:,} without a digest are not in it" if without else ""
    if expected is None:
        return f"{pdfs} sealed{gap}" if sealed else f"nothing is stored: this is the seal of nothing{gap}"
    if expected == found:
        return f"MATCHES: {found} ({pdfs}){gap}"
    return f"DOES NOT MATCH: expected {expected}, the catalog has {found} ({pdfs}){gap}"


def _import(summary: Summary) -> str:
    counts = summary.counts
    warned = len(summary.details.get("warnings", ()))
    warnings = f"; {warned} {'warning' if warned == 1 else 'warnings'}" if warned else ""
    if not counts.get("read"):
        return f"nothing to import: no record was found{warnings}"
    if not counts.get("rejected"):
        return f"{_counted(summary)}{warnings}"
    imported = any(counts.get(name) for name in ("inserted", "updated"))
    imported = imported and not summary.details.get("dry_run")
    kept = "The valid records were imported" if imported else "Nothing was imported"
    rest = _named(counts, {name: name for name in counts if name != "rejected"}) + _amount(summary) + warnings
    return (
        f"{counts['rejected']:,} rejected; {rest}. {kept}. Save the rejected ones with --rejects"
        " FILE, correct them, and import that file"
    )


def _restore(summary: Summary) -> str:
    counts, details = summary.counts, summary.details
    if "as_of" not in details:
        return "nothing was changed"
    newer = counts.get("unrecorded", 0) + counts.get("extra", 0)
    unknown = [
        _how_many(counts.get("alive_again", 0), "revoked key works again", "revoked keys work again"),
        _how_many(counts.get("gone", 0), "newer key is gone", "newer keys are gone"),
        _how_many(newer, "PDF in the store is newer than the backup", "PDFs in the store are newer than the backup"),
    ]
    of = f" of {details['as_of'][:16].replace('T', ' ')} UTC" if details["as_of"] else ""
    done = f"the catalog{of} is in place, with {_how_many(counts['recorded'], 'PDF', 'PDFs') or 'no PDF'}"
    kept = f"the one it replaces is kept as {details['kept']}" if details["kept"] else ""
    return "; ".join(filter(None, [*unknown, done, kept]))


def _how_many(count: int, one: str, several: str) -> str:
    return f"{count:,} {one if count == 1 else several}" if count else ""


def _audit(summary: Summary) -> str:
    counts = summary.counts
    named = {"faults": "faults", "behind": "not in the file yet", "notes": "notes", "access_logs": "access logs"}
    bad = _named(counts, {name: _word(word, counts.get(name, 0)) for name, word in named.items()})
    if not counts["events"]:
        return f"the log is empty{', ' + bad if bad else ''}"
    events = describe_counts({"events": counts["events"]})
    return f"{events}, {bad or 'no faults'}; the last is {summary.details['number']:,}"


def _doctor(summary: Summary) -> str:
    problems = summary.counts["problems"]
    return f"{problems:,} {'problem' if problems == 1 else 'problems'}, {summary.counts['good']:,} good"


def _due(summary: Summary) -> str:
    counts = summary.counts
    done = _named(counts, {"due": "due", "held": "held back by holds"}) or "nothing is due"
    size = counts.get("due_bytes")
    return f"{done}, {format_size(size)}" if size else done


def _holds(summary: Summary) -> str:
    return _named(summary.counts, {"in_force": "in force", "released": "released"}) or "there are no holds"


def _rebuild(summary: Summary) -> str:
    counts = summary.counts
    missing = {"absent": "missing in the store", "refused": "refused", "unavailable": "unavailable"}
    bad = [_how_many(counts.get("rejected", 0), "record rejected", "records rejected")]
    if counts.get("not_stored"):
        bad.append(f"{counts['not_stored']:,} not stored{_reasons(counts, missing)}")
    bad.append(_how_many(counts.get("unclaimed", 0), "file of no render", "files of no render"))
    records = _how_many(counts.get("inserted", 0), "record", "records") or "no record"
    pdfs = _how_many(counts.get("adopted", 0), "PDF", "PDFs") or "no PDF"
    return "; ".join([*filter(None, bad), f"{records} imported, {pdfs} adopted"]) + _amount(summary)


def _accepted(summary: Summary) -> str:
    count = summary.counts["accepted"]
    return f"{count:,} accepted {'loss' if count == 1 else 'losses'}" if count else "no loss was accepted"


def _quarantine(summary: Summary) -> str:
    held = summary.counts.get("held", 0)
    return f"{held:,} held, {format_size(summary.bytes_read)}" if held else "the quarantine is empty"


def _found_records(summary: Summary) -> str:
    [(what, count)] = summary.counts.items()
    if not count:
        return (_NOTHING if summary.details.get("filtered", True) else _NOTHING_AT_ALL)[what]
    more = f" shown, and there are more: raise --limit above {count}" if summary.details.get("more") else ""
    return f"{describe_counts({what: count})}{more}"


_NOTHING = {
    "renders": "no render matches",
    "runs": "no run matches",
    "findings": "nothing wrong was found that matches",
    "keys": "no key matches",
    "rules": "there are no retention rules",
    "events": "no event matches",
}
_NOTHING_AT_ALL = _NOTHING | {
    "renders": "the archive has no renders",
    "runs": "nothing was run yet",
    "findings": "nothing wrong is known",
    "keys": "the archive has no keys",
}


def _named(counts: dict[str, int], names: dict[str, str]) -> str:
    """Return the counts that are not zero, in this order and under these names."""
    return ", ".join(f"{counts[name]:,} {word}" for name, word in names.items() if counts.get(name))


def _amount(summary: Summary) -> str:
    return f", {format_size(summary.bytes_read)} read" if summary.bytes_read else ""


_SENTENCES: dict[str, _Sentence] = {
    "nightly": lambda summary: str(summary.details["sentence"]),
    "status": _status,
    "verify": _verify,
    "fetch": _fetch,
    "repair": _repair,
    "export": _export,
    "export-check": _export_check,
    "dispose": _dispose,
    "seal": _seal,
    "import": _import,
    "doctor": _doctor,
    "restore": _restore,
    "audit verify": _audit,
    "quarantine list": _quarantine,
    "renders list": _found_records,
    "runs list": _found_records,
    "report --list": _found_records,
    "findings list": _found_records,
    "keys list": _found_records,
    "accept --list": _accepted,
    "audit log": _found_records,
    "retention list": _found_records,
    "retention due": _due,
    "hold list": _holds,
    "rebuild": _rebuild,
    "report": lambda _summary: "",
    "runs show": lambda _summary: "",
}


def worst(records: Iterable[Record], limit: int) -> list[Record]:
    """Return up to `limit` records, the worst first; equally bad ones keep their order."""
    return sorted(records, key=severity)[:limit]
