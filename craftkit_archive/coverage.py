"""Coverage: how much of what is stored was read and found good recently."""

from typing import Any

import msgspec

from craftkit_archive.values import format_size

COVERAGE_DAYS = 30
NOTHING = "nothing is stored"


class Coverage(msgspec.Struct, frozen=True):
    """How much of what is stored was read and found good within `days`, and how much is due; sizes in bytes.

    Assets that were read within `days` and found bad count as neither.
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
        """The covered share of the bytes, or of the files if all are empty; from 0 to 1, and 0 if nothing is stored."""
        if self.stored_bytes:
            return self.covered_bytes / self.stored_bytes
        return self.covered_assets / self.assets if self.assets else 0.0

    def details(self, night_bytes: int = 0) -> dict[str, Any]:
        """Return it as the details of a summary.

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
    """Return a sentence on the share that is covered."""
    return f"{percent(share)} of {format_size(stored_bytes)} read and good within {days} days"


def percent(share: float) -> str:
    """Return a share as a percentage, such as `91.2 %`; rounded down, so that only the whole is 100 %."""
    return f"{int(min(share * 1000 + 1e-9, 1000 if share >= 1 else 999)) / 10:g} %"
