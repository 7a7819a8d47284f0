"""Shards by the day of departure: which days an instance answers for, and what it has to know.

Days are dealt out in blocks of two weeks, so a shard has days of every season. It answers alone for
its days: it also keeps the flights that a journey begun on one of them may go on with.
"""

from dataclasses import dataclass
from datetime import date, timedelta
from typing import Final, Self

from flight_search.domain.connections import LONGEST_CONNECTION
from flight_search.domain.errors import OtherShardError

BLOCK_DAYS: Final = 14
LONGEST_FLIGHT: Final = timedelta(hours=22)
"""Longer than any flight there is; after a longer one a journey may miss its ways on."""
_EASTERNMOST: Final = timedelta(hours=14)
_WESTERNMOST: Final = timedelta(hours=12)
"""Between them, a calendar day is somewhere on Earth."""

_DAY: Final = 86_400
_BLOCK: Final = BLOCK_DAYS * _DAY
_AHEAD: Final = int(_EASTERNMOST.total_seconds())
_BEHIND: Final = int((_WESTERNMOST + 2 * (LONGEST_FLIGHT + LONGEST_CONNECTION)).total_seconds())
_EPOCH: Final = date(1970, 1, 1).toordinal()


@dataclass(frozen=True, slots=True)
class Shard:
    """One of so many parts of the calendar; the only one of one is all of it."""

    number: int = 0
    count: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.number < self.count:
            raise ValueError(f"{self.number} is no number of one of {self.count} shards")

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Reads "0/2", the first of two; raises ValueError."""
        number, slash, count = text.partition("/")
        if not (slash and number.isdecimal() and count.isdecimal()):
            raise ValueError(f"{text!r} is not like 0/2, the first of two")
        return cls(int(number), int(count))

    def of(self, day: date) -> int:
        """The number of the shard that answers for a day."""
        return (day.toordinal() - _EPOCH) // BLOCK_DAYS % self.count

    def answers(self, day: date) -> bool:
        """Whether this one answers for a day."""
        return self.of(day) == self.number

    def check(self, day: date) -> None:
        """Raises `OtherShardError` where another one answers for a day."""
        if not self.answers(day):
            raise OtherShardError(day, self.of(day), self.count)

    def keeps(self, departure: int) -> bool:
        """Whether a flight that departs at an instant (epoch seconds) may be part of an answer."""
        first, last = (departure - _BEHIND) // _BLOCK, (departure + _AHEAD) // _BLOCK
        return any(block % self.count == self.number for block in range(first, last + 1))


WHOLE: Final = Shard()
"""The calendar in one part."""
