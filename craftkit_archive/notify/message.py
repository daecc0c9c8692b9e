"""The notice: how a night ended, as text for people and as JSON for programs."""

from collections.abc import Iterable
from hashlib import sha256

import msgspec

from craftkit_archive.values import escape_control, mask, valid_text

WORST = 5
# A night that was stopped at its limit and found nothing bad (101) is good too: most nights end so.
GOOD_CODES = (0, 101)
MAX_LINE = 500
MAX_SUBJECT = 150


class StepResult(msgspec.Struct, kw_only=True, frozen=True):
    """How one step of a night ended, such as `verify`; `sentence` describes the result."""

    name: str
    outcome: str
    exit_code: int = 0
    sentence: str = ""

    def __post_init__(self) -> None:
        """Make every text one printable line."""
        _flatten(self)


class Notice(msgspec.Struct, kw_only=True, frozen=True, tag_field="type", tag="notice"):
    """How a night ended. All texts are single printable lines, whatever foreign names they contain.

    Attributes:
        archive: The archive's directory.
        host: The machine.
        outcome: The outcome in one word, such as `problems`.
        exit_code: The exit code of the night.
        started_at: When it began (UTC).
        finished_at: When it ended (UTC).
        sentence: The outcome in one sentence.
        steps: The steps, in order.
        findings: The findings, the worst first; only the first `WORST` are kept.
        more: How many further findings there are.
        next: The command to run next.
        page: The path of the page that shows the night.
        state: The result of `state_of` for this night, to compare the next one with.
    """

    archive: str
    host: str
    outcome: str
    exit_code: int
    started_at: str
    finished_at: str
    sentence: str
    steps: list[StepResult] = []
    findings: list[str] = []
    more: int = 0
    next: str | None = None
    page: str | None = None
    state: str = ""

    def __post_init__(self) -> None:
        """Make every text one printable line, and keep only the worst findings."""
        _flatten(self)
        msgspec.structs.force_setattr(self, "more", self.more + max(0, len(self.findings) - WORST))
        findings = [_one_line(finding) for finding in self.findings[:WORST]]
        msgspec.structs.force_setattr(self, "findings", findings)

    @property
    def good(self) -> bool:
        """Whether nobody has to do anything."""
        return self.exit_code in GOOD_CODES

    def subject(self) -> str:
        """Return the subject of a message: the outcome, the machine, and what happened."""
        return _cut(f"craftkit-archive: {self.outcome} on {self.host}: {self.sentence}", MAX_SUBJECT)

    def as_text(self) -> str:
        """Return the body of a message: what happened, the steps, the worst findings, and what to do next."""
        blocks = [
            [self.sentence],
            [
                f"Archive:  {self.archive} on {self.host}",
                f"Outcome:  {self.outcome} (exit code {self.exit_code})",
                f"Began:    {self.started_at}",
                f"Ended:    {self.finished_at}",
            ],
        ]
        if self.steps:
            name, outcome = (max(len(getattr(step, field)) for step in self.steps) for field in ("name", "outcome"))
            lines = [f"  {step.name:{name}}  {step.outcome:{outcome}}  {step.sentence}" for step in self.steps]
            blocks.append(["Steps", *lines])
        if self.findings:
            more = [f"  and {self.more:,} more"] if self.more else []
            blocks.append(["Worst findings", *(f"  {finding}" for finding in self.findings), *more])
        if self.next:
            blocks.append(["Next", f"  {self.next}"])
        if self.page:
            blocks.append([f"Page: {self.page}"])
        return "\n\n".join("\n".join(_cut(line.rstrip(), MAX_LINE) for line in block) for block in blocks) + "\n"

    def as_json(self) -> bytes:
        """Return the notice as one JSON object with `"type": "notice"`; fields may be added, never changed."""
        return msgspec.json.encode(self)


def write_trial(archive: str, host: str, now: str) -> Notice:
    """Return a notice that says it is a test, to see whether it arrives."""
    return Notice(
        archive=archive,
        host=host,
        outcome="test",
        exit_code=0,
        started_at=now,
        finished_at=now,
        sentence="this is a test of notifications: no night was run, and nothing is wrong",
        steps=[StepResult(name="verify", outcome="ok", sentence="an example of a step")],
        findings=["an example of a finding"],
        next="craftkit-archive status",
    )


def state_of(outcome: str, steps: Iterable[StepResult], findings: Iterable[str]) -> str:
    """Return a digest of a night's outcome and of all its findings, which is the same for nights with the same result.

    Counts and times, which differ each night, are not part of it. The findings may come in any order, and are read one
    by one, so that there may be a million.

    Args:
        outcome: The outcome of the night.
        steps: The steps; their names and outcomes count.
        findings: A text for each finding that stays the same from night to night, such as its verdict and asset key.
    """
    # A sum of hashes does not depend on the order. It does not prevent forgery, from which nobody would gain.
    found = sum(int.from_bytes(_digest(finding)) for finding in findings) % (1 << 256)
    head = "\n".join([outcome, *(f"{step.name} {step.outcome}" for step in steps)])
    return sha256(_digest(head) + found.to_bytes(32)).hexdigest()


def _digest(text: str) -> bytes:
    return sha256(text.encode("utf-8", "surrogatepass")).digest()


def _flatten(record: msgspec.Struct) -> None:
    for name in record.__struct_fields__:
        if isinstance(text := getattr(record, name), str):
            msgspec.structs.force_setattr(record, name, _one_line(text))


def _one_line(text: str) -> str:
    return mask(escape_control(valid_text(text).replace("\n", " ").replace("\t", " ")))


def _cut(line: str, limit: int) -> str:
    return line if len(line) <= limit else f"{line[: limit - 1]}…"
