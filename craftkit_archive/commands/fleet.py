"""Runs one command for several archives (`--archive A --archive B verify`), with one summary and one exit code.

Each archive is processed in a process of its own, one after the other, because each has its own configuration, and the
failure of one must not affect the others.
"""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from typing import TYPE_CHECKING, Any

import click

from craftkit_archive import errors
from craftkit_archive.commands.console import OK, write_line
from craftkit_archive.values import escape_control

if TYPE_CHECKING:
    from collections.abc import Sequence

    from craftkit_archive.commands.signals import Signals

VERBS = ("status", "verify", "report")
# Options of the program that have a value.
_VALUED = ("--archive", "--config", "--progress")
# Options that write a file, which each archive would overwrite.
_FILES = ("--report", "-o", "--output", "--watch")
_WORDS = {0: "ok", 1: "problems", 3: "incomplete", 101: "limited"}
ASK_SECONDS = 0.2


def archives_before(given: Sequence[str]) -> tuple[list[str], list[str], list[str]]:
    """Split a command line into the archives before the command, the other options there, and the command itself."""
    archives: list[str] = []
    options: list[str] = []
    words = list(given)
    while words and words[0].startswith("-"):
        name, equals, value = words.pop(0).partition("=")
        if name in _VALUED and not equals and words:
            value = words.pop(0)
        if name == "--archive":
            archives.append(value)
        else:
            options += [name, value] if name in _VALUED else [f"{name}{equals}{value}"]
    return archives, options, words


def run_fleet(archives: Sequence[str], options: list[str], words: list[str], signals: Signals) -> int:
    """Run a command for each archive, and return the worst exit code.

    Raises:
        RequestError: The command does not take several archives.
    """
    from craftkit_archive.outcomes import WORST_ARCHIVE_FIRST, worst_code

    if not words or words[0] not in VERBS:
        raise errors.RequestError(f"Only {', '.join(VERBS)} take several archives. Name one --archive.")
    files = [word for word in words if word.partition("=")[0] in _FILES]
    if files:
        raise errors.RequestError(f"{files[0]} goes with one archive. Run the command for each of them.")
    as_json = "--json" in [*options, *words]
    codes: list[tuple[str, int]] = []
    counts: Counter[str] = Counter()
    for archive in archives:
        if not as_json and "-q" not in options and "--quiet" not in options:
            click.echo(f"{escape_control(archive)}:", err=True)
        code, counted = _run_one([*options, "--archive", archive, *words], archive, signals, as_json=as_json)
        codes.append((archive, code))
        counts.update(counted)
        if signals():
            break
    worst = worst_code((code for _, code in codes), WORST_ARCHIVE_FIRST)
    _sum_up(words[0], codes, len(archives), counts, worst, as_json=as_json)
    return worst


def _run_one(words: list[str], archive: str, signals: Signals, *, as_json: bool) -> tuple[int, dict[str, int]]:
    line = [sys.executable, "-m", "craftkit_archive", *words]
    counts: dict[str, int] = {}
    # A signal from the terminal reaches both processes; one that was sent to this process alone is passed on.
    with subprocess.Popen(line, stdout=subprocess.PIPE if as_json else None) as process:  # noqa: S603 - our own program
        if process.stdout is not None:
            for text in process.stdout:
                counts = _pass_on(text, archive) or counts
        while True:
            try:
                code = process.wait(ASK_SECONDS)
                break
            except subprocess.TimeoutExpired:
                if signals():
                    process.send_signal(signals.first)
    return code if code >= 0 else 128 - code, counts


def _pass_on(text: bytes, archive: str) -> dict[str, int] | None:
    """Write a line of JSON with the archive that it is about; return the counts if it is a summary."""
    import msgspec

    try:
        record: dict[str, Any] = msgspec.json.decode(text)
    except msgspec.DecodeError:
        write_line(text.decode("utf-8", "replace").rstrip("\n"))
        return None
    is_summary = record.get("type") == "summary"
    if is_summary:
        record["type"] = "archive"
    write_line(msgspec.json.encode({"type": record.pop("type", None), "archive": archive, **record}).decode())
    return record.get("counts", {}) if is_summary else None


def _sum_up(
    command: str, codes: list[tuple[str, int]], count: int, counts: Counter[str], worst: int, *, as_json: bool
) -> None:
    import msgspec

    if as_json:
        details = {"archives": [{"archive": archive, "exit_code": code} for archive, code in codes], "asked": count}
        outcome = _WORDS.get(worst, "interrupted" if worst > 128 else "error")
        end = {"type": "summary", "command": command, "outcome": outcome, "exit_code": worst, "counts": dict(counts)}
        write_line(msgspec.json.encode({**end, "details": details}).decode())
        return
    bad = [(archive, code) for archive, code in codes if code != OK]
    done = f"{count:,} archives" if len(codes) == count else f"{len(codes):,} of {count:,} archives"
    said = f"{done}, all ok" if not bad else f"{done}, {len(codes) - len(bad):,} ok"
    lines = [f"{command}: {said}", *(f"  exit code {code}: {archive}" for archive, code in bad)]
    click.echo(escape_control("\n".join(lines)), err=True)
