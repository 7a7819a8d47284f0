"""Every airport with an IATA code (airportsdata): their time zones, and search as people type."""

import re
import unicodedata
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from dataclasses import replace
from datetime import tzinfo
from functools import cache
from operator import itemgetter
from sys import intern
from zoneinfo import ZoneInfo

import airportsdata

from flight_search.domain import Airport

NOT_DECOMPOSED = str.maketrans({"æ": "ae", "đ": "d", "ð": "d", "ł": "l", "ø": "o"})
"""Letters that people type without their accent, but that Unicode does not take apart."""
LAST = chr(0x10FFFF)
_zone = cache(ZoneInfo)  # zoneinfo itself keeps eight


class AirportDirectory:
    """All airports; immutable."""

    def __init__(self, airports: Iterable[Airport]) -> None:
        self._airports = {airport.code: airport for airport in airports}
        by_code = sorted(self._airports.values(), key=lambda airport: airport.code)
        self._indices = (
            _Index((folded(airport.code), airport) for airport in by_code),
            _Index((tail, airport) for airport in by_code for tail in _tails(airport.city)),
            _Index((tail, airport) for airport in by_code for tail in _tails(airport.name)),
        )

    @classmethod
    def load(cls) -> "AirportDirectory":
        """The airports of the installed airportsdata."""
        rows = airportsdata.load("IATA").values()
        return cls(
            Airport(
                code=row["iata"],
                name=row["name"],
                city=row["city"],
                country=intern(row["country"]),
                time_zone=intern(row["tz"]),
            )
            for row in rows
        )

    def zone(self, code: str) -> tzinfo | None:
        """The time zone of an airport; None for a code that no airport has."""
        airport = self._airports.get(code)
        return _zone(airport.time_zone) if airport else None

    def search(self, text: str, served: frozenset[str], limit: int) -> list[Airport]:
        """The airports that a text is the beginning of.

        The code itself comes first, then served airports before others; among these a match of
        the code, then of a word of the city, then of a word of the name.
        """
        prefix = folded(text)
        used: dict[str, None] = {}
        others: dict[str, None] = {}
        for code in self._matches(prefix):
            (used if code in served or code == prefix.upper() else others)[code] = None
            if len(used) == limit:
                break
        best = [*used, *others][:limit]
        return [replace(self._airports[code], served=code in served) for code in best]

    def _matches(self, prefix: str) -> Iterator[str]:
        """Codes, some more than once: by kind of match, then by what was matched."""
        if prefix:
            yield from (code for index in self._indices for code in index.find(prefix))


class _Index:
    """Sorted texts, for finding all that start with a prefix."""

    def __init__(self, entries: Iterable[tuple[str, Airport]]) -> None:
        ordered = sorted(entries, key=itemgetter(0))
        self._texts = [text for text, _ in ordered]
        self._codes = [airport.code for _, airport in ordered]

    def find(self, prefix: str) -> list[str]:
        start = bisect_left(self._texts, prefix)
        return self._codes[start : bisect_left(self._texts, prefix + LAST, start)]


def folded(text: str) -> str:
    """A text without case and accents, its words separated by one space."""
    decomposed = unicodedata.normalize("NFKD", text)
    plain = "".join(letter for letter in decomposed if not unicodedata.combining(letter))
    plain = plain.casefold().translate(NOT_DECOMPOSED)
    return " ".join(re.findall(r"\w+", plain))


def _tails(text: str) -> Iterator[str]:
    """The text from each of its words on: "new york", "york"."""
    words = folded(text).split()
    return (" ".join(words[start:]) for start in range(len(words)))
