"""Where airports are and what time it is there, from airportsdata."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Self
from zoneinfo import ZoneInfo

import airportsdata


@dataclass(frozen=True, slots=True, kw_only=True)
class Airport:
    """An airport by its IATA code; its coordinates are degrees north and east."""

    code: str
    zone: ZoneInfo
    latitude: float
    longitude: float

    def offset_minutes(self, instant: datetime) -> int:
        """Offset of local time from UTC, in minutes."""
        return (instant.astimezone(self.zone).utcoffset() or timedelta()) // timedelta(minutes=1)


class Airports:
    """Airports by IATA code; the answer for a code is worked out once."""

    def __init__(self, known: Mapping[str, Airport]) -> None:
        self._known = known

    @classmethod
    def load(cls) -> Self:
        """Every airport of airportsdata that has an IATA code: about 7,900."""
        return cls(
            {
                code: Airport(
                    code=code,
                    zone=ZoneInfo(airport["tz"]),
                    latitude=airport["lat"],
                    longitude=airport["lon"],
                )
                for code, airport in airportsdata.load("IATA").items()
            }
        )

    def get(self, code: str) -> Airport | None:
        """The airport with that IATA code."""
        return self._known.get(code)

    def codes(self) -> set[str]:
        """Their IATA codes."""
        return set(self._known)

    def utc_offset(self, code: str, instant: datetime) -> int:
        """Offset of local time from UTC there and then, in minutes; KeyError."""
        return self._known[code].offset_minutes(instant)
