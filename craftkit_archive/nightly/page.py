"""The HTML page of the nightly job: the last night in full, and the last thirty in an overview."""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from craftkit_archive.catalog.rows import Night
from craftkit_archive.durable import replaced_when_whole
from craftkit_archive.html.pages import write_page
from craftkit_archive.notify.message import GOOD_CODES
from craftkit_archive.records import Record
from craftkit_archive.report.lines import as_text
from craftkit_archive.values import format_duration

NIGHTS = 30


def write_night_page(file: Path, archive: str, nights: Sequence[Night], findings: Sequence[Record]) -> None:
    """Write the page to a file, which is replaced in one step.

    Args:
        file: The file; its folder must exist.
        archive: The archive's directory.
        nights: The last nights, newest first; the first is shown in full.
        findings: The worst findings of that night.

    Raises:
        NoSpaceError, NotWritableError: The disk refused.
    """
    last = nights[0]
    names = list(dict.fromkeys(step.name for night in nights for step in night.steps))
    values: dict[str, object] = {
        "archive": archive,
        "state": state_of_code(last.exit_code),
        "headline": _headline(last),
        "night": _described(last),
        "steps": [
            (step, state_of_step(step.outcome, step.exit_code), _took(step.started_at, step.finished_at))
            for step in last.steps
        ],
        "findings": [as_text(one).strip() for one in findings],
        "names": names,
        "nights": [(_described(night), state_of_code(night.exit_code), _marks(night, names)) for night in nights],
    }
    with replaced_when_whole(file) as new, new.open("x", encoding="utf-8") as out:
        write_page("nightly/night.html", out, values)


def state_of_code(code: int | None) -> str:
    """Return the colour of an exit code: good, warn or bad. None, the exit code of a killed night, is bad."""
    return "good" if code in GOOD_CODES else "warn" if code == 3 else "bad"


def state_of_step(outcome: str, code: int) -> str:
    """Return the colour of a step: good, warn, bad or skip."""
    return "skip" if outcome == "skipped" else state_of_code(code)


def _headline(night: Night) -> str:
    words = {"good": "All is well", "warn": "Not everything could be checked", "bad": "Something is wrong"}
    return words[state_of_code(night.exit_code)]


def _described(night: Night) -> dict[str, object]:
    return {
        "run": night.run_id,
        "date": f"{night.started_at[:10]} {night.started_at[11:16]}",
        "took": _took(night.started_at, night.finished_at),
        "code": "–" if night.exit_code is None else night.exit_code,
        "sentence": night.sentence or "did not come to its end",
    }


def _took(started_at: str, finished_at: str | None) -> str:
    if finished_at is None:
        return "–"
    return format_duration((datetime.fromisoformat(finished_at) - datetime.fromisoformat(started_at)).total_seconds())


def _marks(night: Night, names: Sequence[str]) -> list[tuple[str, str, str]]:
    """Return sign, colour and words for each step; the sign is for people who cannot tell the colours apart."""
    steps = {step.name: step for step in night.steps}
    signs = {"good": "✓", "warn": "?", "bad": "✗", "skip": "–"}
    marks = []
    for name in names:
        step = steps.get(name)
        colour = "skip" if step is None else state_of_step(step.outcome, step.exit_code)
        words = "not part of this night" if step is None else f"{name}: {step.outcome}. {step.sentence}"
        marks.append((signs[colour] if step else " ", colour, words))
    return marks
