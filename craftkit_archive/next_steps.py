"""Next steps: which command to run after another, decided by one table from how it ended."""

import re
import shlex
from collections.abc import Callable, Sequence
from typing import NamedTuple

from craftkit_archive.records import Summary
from craftkit_archive.states import by_state

PROGRAM = "craftkit-archive"

_Holds = Callable[[Summary], object]
_Words = Callable[[Summary, Sequence[str]], Sequence[str]]


class _Step(NamedTuple):
    """A row of the table: after one of these commands, if the condition holds, run these words; the first row wins."""

    commands: str
    holds: _Holds
    words: _Words


def next_step(summary: Summary, given: Sequence[str] = ()) -> list[str] | None:
    """Return the words of the command to run next, without the program's name; None if there is nothing to do.

    Words in capitals, such as SOURCE, stand for what only a person can know.

    Args:
        summary: How a command ended.
        given: Its own words, in case it is to be run again.

    Example:
        >>> from craftkit_archive import Summary, next_step
        >>> next_step(Summary(command="verify", outcome="problems", counts={"checked": 5, "missing": 1}))
        ['repair', 'SOURCE']
    """
    for step in _STEPS:
        if summary.command in step.commands.split("|") and step.holds(summary):
            return list(step.words(summary, given)) or None
    return None


def command_line(words: Sequence[str], archive: str | None = None) -> str:
    """Return a command line quoted for a shell; with `--archive` if `archive` is not the default one."""
    where = [] if archive is None else ["--archive", archive]
    return shlex.join([PROGRAM, *where, *words])


# --- conditions ------------------------------------------------------------------------------------------------------


def _counted(*names: str) -> _Holds:
    return lambda summary: any(summary.counts.get(name) for name in names)


def _detail(name: str, value: object = True) -> _Holds:
    return lambda summary: summary.details.get(name) == value


def _in_state(*states: str) -> _Holds:
    return lambda summary: any(state in by_state(summary.counts) for state in states)


def _asked_for(*states: str) -> _Holds:
    return lambda summary: set(states) & set(summary.details.get("states", ()))


def _all(*conditions: _Holds) -> _Holds:
    return lambda summary: all(condition(summary) for condition in conditions)


def _not(condition: _Holds) -> _Holds:
    return lambda summary: not condition(summary)


def _would_copy(summary: Summary) -> bool:
    counts = summary.counts
    return counts.get("expected", 0) > counts.get("absent", 0) + counts.get("acknowledged", 0)


def _stopped(summary: Summary) -> bool:
    return summary.outcome == "interrupted"


def _suggested(summary: Summary) -> bool:
    return bool(summary.details.get("did_you_mean"))


def _always(_summary: Summary) -> bool:
    return True


# --- words -----------------------------------------------------------------------------------------------------------

# Options that affect only a command's output, not its work.
_VOICE = re.compile(r"--json|--quiet|--verbose|-[qv]+|--dry-run|--(?:archive|progress)=.*")


def _type(text: str) -> _Words:
    return lambda _summary, _given: text.split()


def _again(_summary: Summary, given: Sequence[str]) -> list[str]:
    words, kept = iter(given), []
    for word in words:
        if word in ("--archive", "--progress"):
            next(words, None)
        elif not _VOICE.fullmatch(word):
            kept.append(word)
    return kept


def _with_suggestion(summary: Summary, _given: Sequence[str]) -> list[str]:
    return [summary.command, summary.details["did_you_mean"]]


def _with_rejects(summary: Summary, given: Sequence[str]) -> list[str]:
    """Suggest importing the corrected rejects, or writing them first; input from a pipe cannot be read again."""
    words = _again(summary, given)
    option = next((word for word in words if word == "--rejects" or word.startswith("--rejects=")), None)
    if option is None:
        return [] if "-" in words or not words else [*words, "--rejects", "rejects.ndjson"]
    file = option.partition("=")[2] or words[words.index(option) + 1]
    return ["import", str(summary.details.get("kind", "KIND")), file]


def _verify_due(summary: Summary, given: Sequence[str]) -> list[str]:
    words = _again(summary, given)
    return words if any(word.startswith("--due") for word in words) else ["verify", "--due", "30d"]


def _revoke(summary: Summary, _given: Sequence[str]) -> list[str]:
    return ["keys", "revoke", *summary.details["alive_again"]]


_STEPS = (
    _Step("import|fetch|verify|repair|export|dispose", _stopped, _again),
    _Step("dispose", _all(_detail("dry_run"), _counted("disposed", "begun")), _again),
    _Step("dispose", _counted("failed"), _again),
    _Step("verify", _all(_detail("stored", 0), _detail("renders", False)), _type("import renders FILE")),
    _Step("verify", _detail("stored", 0), _type("fetch SOURCE")),
    _Step("init", _always, _type("import projects FILE")),
    _Step("import", _all(_detail("dry_run"), _counted("inserted", "updated")), _again),
    _Step("import", _counted("rejected"), _with_rejects),
    _Step("import", _detail("renders", False), _type("import renders FILE")),
    _Step("import", _all(_detail("adoptable"), _detail("to_fetch")), _type("fetch")),
    _Step("import", _detail("to_fetch"), _type("fetch SOURCE")),
    _Step("fetch", _detail("renders", False), _type("import renders FILE")),
    _Step("fetch|repair", _suggested, _with_suggestion),
    _Step("fetch", _all(_detail("dry_run"), _would_copy), _again),
    _Step("export", _all(_detail("dry_run"), _counted("written", "unchanged")), _again),
    _Step("fetch", _counted("unavailable"), _again),
    _Step("fetch", _counted("copied", "adopted"), _type("verify")),
    _Step("fetch", _counted("absent", "refused"), _type("fetch SOURCE")),
    _Step("verify", _in_state("damaged", "unreadable"), _type("repair SOURCE")),
    _Step("verify", _counted("unrecorded"), _type("fetch")),
    _Step("verify", lambda summary: summary.outcome == "limited", _verify_due),
    _Step("repair", _all(_detail("dry_run"), _counted("repaired")), _again),
    _Step("repair", _counted("absent", "refused"), _type("repair SOURCE")),
    _Step("repair", _counted("repaired"), _type("verify")),
    _Step("repair", _all(_not(_counted("damaged")), _detail("last_verified", None)), _type("verify")),
    _Step("export", _counted("failed"), _type("verify")),
    _Step("export", _detail("to_fetch"), _type("fetch SOURCE")),
    _Step("status", _all(_not(_counted("renders")), _detail("projects", 0)), _type("import projects FILE")),
    _Step("status", _not(_counted("renders")), _type("import renders FILE")),
    _Step("status", _counted("damaged", "unreadable"), _type("repair SOURCE")),
    _Step("status", _suggested, lambda summary, _given: ["fetch", summary.details["did_you_mean"]]),
    _Step("status", _counted("not_stored"), _type("fetch SOURCE")),
    _Step("status", _counted("unchecked"), _type("verify --new")),
    _Step("seal", lambda summary: summary.outcome == "problems", _type("verify")),
    _Step("report|doctor", _detail("damaged"), _type("repair SOURCE")),
    _Step("findings list", _all(_counted("findings"), _detail("current")), _type("repair SOURCE")),
    _Step("renders list", _all(_counted("renders"), _asked_for("damaged", "unreadable")), _type("repair SOURCE")),
    _Step("renders list", _all(_counted("renders"), _asked_for("not-stored")), _type("fetch SOURCE")),
    _Step("renders list", _all(_not(_counted("renders")), _detail("filtered", False)), _type("import renders FILE")),
    _Step("quarantine drop", _counted("kept"), _type("repair SOURCE")),
    _Step("audit verify", _all(_counted("behind"), _not(_counted("faults"))), _type("verify")),
    _Step("keys list", _all(_not(_counted("keys")), _detail("projects", 0)), _type("import projects FILE")),
    _Step("keys list", _all(_not(_counted("keys")), _detail("filtered", True)), lambda *_: []),
    _Step("keys list", _not(_counted("keys")), _type("keys create --project SLUG")),
    _Step("rebuild", _counted("absent", "unavailable"), _type("fetch SOURCE")),
    _Step("rebuild", _counted("adopted"), _type("verify")),
    _Step("restore", lambda summary: summary.details.get("alive_again"), _revoke),
    _Step("restore", _counted("extra"), _type("import renders FILE")),
    _Step("restore", _counted("unrecorded"), _type("fetch")),
    _Step("restore", _always, _type("verify")),
    _Step("quarantine restore", _counted("restored"), _type("verify --failed")),
)
