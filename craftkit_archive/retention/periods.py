"""Retention periods in calendar years, months and days, and the day on which they end.

Source: the Gregorian calendar of ISO 8601.
"""

import calendar
import re
from datetime import date, timedelta
from typing import NamedTuple, Self

_FORM = re.compile(r"(?:([0-9]{1,4})y)?(?:([0-9]{1,5})m)?(?:([0-9]{1,7})d)?")


class Period(NamedTuple):
    """A span of the calendar, such as ten years; its text is `10y`, `1y6m` or `90d`."""

    years: int = 0
    months: int = 0
    days: int = 0

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a period as people write it.

        Raises:
            ValueError: It is not a period, or is zero.
        """
        match = _FORM.fullmatch(text.strip().lower())
        period = cls(*(int(number or 0) for number in match.groups())) if match else cls()
        if not any(period):
            raise ValueError(f"Invalid period {text!r}. Use years, months and days in this order: 10y, 1y6m or 90d.")
        return period

    def __str__(self) -> str:
        """Return it in the form that `parse` reads."""
        return "".join(f"{number}{unit}" for number, unit in zip(self, "ymd", strict=True) if number)

    def due_on(self, start: date) -> date | None:
        """Return the first day after the period; None if the calendar ends before it does.

        Years and months are added first, then days. If the resulting month has no such day, its last day counts: a
        month after 31 January is 28 or 29 February. A PDF is kept through that day and due on the next, so that
        rounding never shortens the period.
        """
        months = start.year * 12 + start.month - 1 + self.years * 12 + self.months
        year, month = divmod(months, 12)
        if year > date.max.year:
            return None
        day = min(start.day, calendar.monthrange(year, month + 1)[1])
        try:
            return date(year, month + 1, day) + timedelta(days=self.days + 1)
        except OverflowError:
            return None
