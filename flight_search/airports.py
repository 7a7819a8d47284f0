"""Every airport with an IATA code (airportsdata): where it is, and search as people type.

Codes of metropolitan areas (NYC, LON) mean all of their airports. Where an airport has the code of
its area (IST), the code means that airport alone.
"""

import re
import unicodedata
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from datetime import tzinfo
from functools import cache
from math import asin, cos, radians, sin, sqrt
from operator import itemgetter
from sys import intern
from zoneinfo import ZoneInfo

import airportsdata

from flight_search.domain import HUBS, Airport, Leg

NOT_DECOMPOSED = str.maketrans({"æ": "ae", "đ": "d", "ð": "d", "ł": "l", "ø": "o"})
"""Letters that people type without their accent, but that Unicode does not take apart."""
LAST = chr(0x10FFFF)
EARTH_RADIUS_KM = 6_371.0
NOT_IN_THE_LIST = {"NYC": ("EWR",)}
"""Airports that IATA counts among those of an area, and airportsdata does not."""
NO_WAY = Leg(km=0, international=False, to_hub=False)
_WORDS = re.compile(r"\w+")
_zone = cache(ZoneInfo)  # zoneinfo itself keeps eight


class AirportDirectory:
    """All airports; immutable."""

    def __init__(
        self, airports: Iterable[Airport], areas: Mapping[str, Iterable[str]] | None = None
    ) -> None:
        self._airports = {airport.code: airport for airport in airports}
        self._areas = {
            code: tuple(sorted(members))
            for code, members in (areas or {}).items()
            if code not in self._airports
        }
        by_code = sorted(self._airports.values(), key=lambda airport: airport.code)
        self._indices = (
            _Index((folded(airport.code), airport) for airport in by_code),
            _Index(
                (folded(code), self._airports[member])
                for code, members in self._areas.items()
                for member in members
            ),
            _Index((tail, airport) for airport in by_code for tail in _tails(airport.city)),
            _Index((tail, airport) for airport in by_code for tail in _tails(airport.name)),
        )

    @classmethod
    def load(cls) -> "AirportDirectory":
        """The airports of the installed airportsdata."""
        airports = (
            Airport(
                code=row["iata"],
                name=row["name"],
                city=row["city"],
                country=intern(row["country"]),
                time_zone=intern(row["tz"]),
                latitude=row["lat"],
                longitude=row["lon"],
            )
            for row in airportsdata.load("IATA").values()
        )
        areas = {
            code: {*area["airports"], *NOT_IN_THE_LIST.get(code, ())}
            for code, area in airportsdata.load_iata_macs().items()
        }
        return cls(airports, areas)

    def airports(self, code: str) -> tuple[str, ...]:
        """What a code means: an airport, all airports of a metropolitan area, or nothing."""
        return (code,) if code in self._airports else self._areas.get(code, ())

    def zone(self, code: str) -> tzinfo | None:
        """The time zone of an airport; None for a code that no airport has."""
        airport = self._airports.get(code)
        return _zone(airport.time_zone) if airport else None

    def leg(self, origin: str, destination: str) -> Leg:
        """The way between two airports; of one that is unknown, no way within its country."""
        here, there = self._airports.get(origin), self._airports.get(destination)
        if here is None or there is None:
            return NO_WAY
        return Leg(
            km=round(_great_circle(here, there)),
            international=here.country != there.country,
            to_hub=there.code in HUBS,
        )

    def search(self, text: str, served: frozenset[str], limit: int) -> list[Airport]:
        """The airports that a text is the beginning of.

        The code itself comes first, then served airports before others; among these a match of
        the code, then of the code of an area, of a word of the city, of a word of the name.
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
    if not text.isascii():  # hardly any name is not
        decomposed = unicodedata.normalize("NFKD", text)
        text = "".join(letter for letter in decomposed if not unicodedata.combining(letter))
        text = text.casefold().translate(NOT_DECOMPOSED)
    return " ".join(_WORDS.findall(text.casefold()))


def _great_circle(here: Airport, there: Airport) -> float:
    """Distance in km by the haversine formula, on a sphere."""
    north, south = radians(here.latitude), radians(there.latitude)
    across = radians(there.longitude - here.longitude)
    haversine = sin((south - north) / 2) ** 2 + cos(north) * cos(south) * sin(across / 2) ** 2
    return 2 * EARTH_RADIUS_KM * asin(sqrt(haversine))


def _tails(text: str) -> Iterator[str]:
    """The text from each of its words on: "new york", "york"."""
    words = folded(text).split()
    return (" ".join(words[start:]) for start in range(len(words)))
