"""States: the only definition of what is wrong with an archive, for every command, view, report and metric.

A verdict is the result of one check. A state is what that means for the archive:

    damaged         bytes that are wrong, or gone
    unreadable      bytes that could not be read
    unverified      nothing to compare the bytes with
    not-stored      a succeeded render without bytes
    extra           a file in the store that no render claims
    acknowledged    any of these but the last, accepted as a known loss
    disposed        deleted for good, by a rule or by a person
    unchecked       hashed on arrival, and not read since
    ok              the last check found every byte as recorded
"""

from collections.abc import Mapping
from typing import Literal

import msgspec

from craftkit_archive.records import Outcome, Verdict

State = Literal[
    "ok", "unchecked", "damaged", "unreadable", "unverified", "not-stored", "extra", "acknowledged", "disposed"
]

STATES: dict[Verdict, State] = {
    "ok": "ok",
    "missing": "damaged",
    "wrong-size": "damaged",
    "wrong-digest": "damaged",
    "empty": "damaged",
    "truncated": "damaged",
    "not-a-pdf": "damaged",
    "odd": "damaged",
    "not-a-file": "damaged",
    "malformed": "damaged",
    "unreadable": "unreadable",
    "unavailable": "unreadable",
    "unverified": "unverified",
    "unrecorded": "not-stored",
    "orphan": "extra",
}
# Words for verdicts in messages, if they differ from JSON, which keeps the old words until 1.0.
_WORDS: dict[str, str] = {"orphan": "extra"}
# The states in the order in which messages name them, the worst first.
WORST_FIRST: tuple[State, ...] = (
    "damaged",
    "unreadable",
    "unverified",
    "not-stored",
    "extra",
    "acknowledged",
    "disposed",
)


def word_of(verdict: str) -> str:
    """Return the word for a verdict in messages."""
    return _WORDS.get(verdict, verdict)


def by_state(counts: Mapping[str, int]) -> dict[State, int]:
    """Add up the counts of a verification by state, the worst first; other counts are left out."""
    sums: dict[State, int] = dict.fromkeys(WORST_FIRST, 0)
    for verdict, state in STATES.items():
        if state != "ok":
            sums[state] += counts.get(verdict, 0)
    sums["acknowledged"] += counts.get("acknowledged", 0)
    return {state: count for state, count in sums.items() if count}


def describe_states(states: Mapping[State, int]) -> str:
    """Name states with their counts, the worst first: `36 damaged, 4 unreadable`; empty if there are none."""
    return ", ".join(f"{states[state]:,} {state.replace('-', ' ')}" for state in WORST_FIRST if states.get(state))


class Standing(msgspec.Struct, frozen=True):
    """The number of PDFs of an archive, or files in its store, in each state, and of stored PDFs in total."""

    stored: int = 0
    ok: int = 0
    unchecked: int = 0
    damaged: int = 0
    unreadable: int = 0
    unverified: int = 0
    not_stored: int = 0
    extra: int = 0
    acknowledged: int = 0
    disposed: int = 0

    @property
    def outcome(self) -> Outcome:
        """The outcome of a command that reports it: damage is `problems`, what could not be compared `incomplete`."""
        if self.damaged:
            return "problems"
        return "incomplete" if self.unreadable or self.unverified else "ok"

    @property
    def bad(self) -> dict[State, int]:
        """The states that make the outcome other than `ok`, with their counts."""
        states: tuple[State, ...] = ("damaged", "unreadable", "unverified")
        return {state: count for state, count in self._wrong.items() if count and state in states}

    @property
    def _wrong(self) -> dict[State, int]:
        return {state: getattr(self, state.replace("-", "_")) for state in WORST_FIRST}

    @property
    def text(self) -> str:
        """A sentence on what is wrong, the worst first, or that everything is good."""
        said = describe_states(self._wrong)
        if self.bad:
            return said
        good = f"all {self.stored:,} stored PDFs are good" if self.stored != 1 else "the one stored PDF is good"
        if not self.stored:
            good = "no PDF is stored"
        elif self.unchecked:
            good = f"{self.unchecked:,} of {self.stored:,} stored PDFs were never verified"
            if self.unchecked == self.stored:
                good = "no stored PDF was ever verified"
        return f"{good}; {said}" if said else good
