"""Which day of the source year is flown again on which day of today's calendar."""

from datetime import date, timedelta

SOURCE_YEAR = 2013
FIRST, LAST = date(SOURCE_YEAR, 1, 1), date(SOURCE_YEAR, 12, 31)
CYCLE = timedelta(weeks=52)
WEEK = 7


def source_day(day: date) -> date:
    """The day of 2013 with the same weekday that is nearest to the same day of the year.

    So the offset is one constant within a year, and 364 days further on where that leads past the
    end of 2013.
    """
    same = FIRST + timedelta(days=day.timetuple().tm_yday - 1)
    days_on = (day.weekday() - same.weekday() + WEEK // 2) % WEEK - WEEK // 2
    source = same + timedelta(days=days_on)
    if source > LAST:
        return source - CYCLE
    return source if source >= FIRST else source + CYCLE


def window(today: date, days: int) -> list[date]:
    """So many days from `today` on."""
    return [today + timedelta(days=n) for n in range(days)]
