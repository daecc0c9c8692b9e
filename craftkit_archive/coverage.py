"""Coverage: how much of what is stored was read and found good, and how long ago."""

from typing import Any

import msgspec

from craftkit_archive.values import format_size

COVERAGE_DAYS = 30
NOTHING = "nothing is stored"


class Coverage(msgspec.Struct, frozen=True):
    """How much of what is stored was read and found good within `days`, and how much is due; sizes in bytes.

    What was read within them and found bad is neither.
    """

    days: int
    assets: int = 0
    stored_bytes: int = 0
    covered_assets: int = 0
    covered_bytes: int = 0
    due_assets: int = 0
    due_bytes: int = 0

    @property
    def share(self) -> float:
        """The covered part of the bytes; 0 where nothing is stored. Where all files are empty, of the files."""
        if self.stored_bytes:
            return self.covered_bytes / self.stored_bytes
        return self.covered_assets / self.assets if self.assets else 0.0

    def details(self, night_bytes: int = 0) -> dict[str, Any]:
        """Describe it as a summary does.

        Args:
            night_bytes: Bytes that a run read before its limit; used to estimate how many nights the rest takes.
        """
        details: dict[str, Any] = {**msgspec.structs.asdict(self), "share": round(self.share, 5)}
        text = describe(self.share, self.stored_bytes, self.days) if self.assets else NOTHING
        if self.due_bytes and night_bytes:
            details["nights"] = nights = -(-self.due_bytes // night_bytes)
            if night_bytes * self.days < self.stored_bytes:
                needed = format_size(-(-self.stored_bytes // self.days))
                text += f"; at this rate never complete: it takes {needed} a night"
            else:
                text += f"; at this rate complete in {nights:,} {'night' if nights == 1 else 'nights'}"
        return {**details, "text": text}


def describe(share: float, stored_bytes: int, days: int) -> str:
    """Say how much of what is stored is covered."""
    return f"{percent(share)} of {format_size(stored_bytes)} read and good within {days} days"


def percent(share: float) -> str:
    """Write a part as people read it, `91.2 %`; rounded down, so that 100 % is said of nothing less."""
    return f"{int(min(share * 1000 + 1e-9, 1000 if share >= 1 else 999)) / 10:g} %"
