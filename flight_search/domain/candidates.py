"""Itineraries in order: sorting, places in a sorted result, and pairs of them for round trips."""

import heapq
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from datetime import timedelta
from enum import Enum
from itertools import islice
from typing import Final, NamedTuple

SHORTEST_STAY: Final = timedelta(hours=1)
"""Between the arrival of the way there and the departure of the way back."""


class SortOrder(Enum):
    """What a page is sorted by; ties by departure, then by the flights' ids in travel order.

    A round trip has the sum of both ways as its price and its duration; by departure, that of the
    way back decides where the way there is the same.
    """

    PRICE = "price"
    DEPARTURE = "departure"
    DURATION = "duration"


class Place(NamedTuple):
    """A place in a sorted result: the sort value, and what decides among equals.

    The departure is in epoch seconds; ids of flights that an itinerary does not have are empty.
    """

    value: int
    departure: int
    first: str
    second: str
    third: str


Tie = tuple[int, str, str, str]
"""What decides among equals: a place without its sort value."""

BEFORE_ALL: Final = Place(-1, -1, "", "", "")
AFTER_ALL: Final = Place((1 << 63) - 1, 0, "", "", "")


FlightVersion = tuple[str, int]
"""One state of one flight."""


class Candidate(NamedTuple):
    """An itinerary as a query finds it, before its flights are looked up; sorted by its place.

    Times are epoch seconds, the price is that of one passenger in billionths, and flights that it
    does not have are empty, of version 0.
    """

    value: int
    departure: int
    first: str
    second: str
    third: str
    arrival: int
    price: int
    first_version: int
    second_version: int
    third_version: int

    @property
    def place(self) -> Place:
        """Where it is in its result."""
        return Place(*self[:5])

    @property
    def tie(self) -> Tie:
        """What decides among equals."""
        return self[1:5]

    @property
    def flights(self) -> Sequence[FlightVersion]:
        """Its flights in travel order."""
        flights = zip(self[2:5], self[7:], strict=True)
        return [(key, version) for key, version in flights if key]


class RoundTripPlace(NamedTuple):
    """A place in a sorted result of round trips."""

    value: int
    outbound: Tie
    inbound: Tie


BEFORE_ALL_TRIPS: Final = RoundTripPlace(-1, (-1, "", "", ""), (-1, "", "", ""))


class RoundTrip(NamedTuple):
    """A way there and a way back."""

    place: RoundTripPlace
    outbound: Candidate
    inbound: Candidate


def round_trips(
    outbound: Sequence[Candidate],
    inbound: Sequence[Candidate],
    order: SortOrder,
    after: RoundTripPlace,
    size: int,
) -> list[RoundTrip]:
    """The next pairs in their order, of all ways there and all ways back.

    Never makes all pairs: each way there waits in a heap with the next way back that goes with it.
    """
    return list(islice(_round_trips(outbound, inbound, order, after), size))


def _round_trips(
    outbound: Sequence[Candidate],
    inbound: Sequence[Candidate],
    order: SortOrder,
    after: RoundTripPlace,
) -> Iterator[RoundTrip]:
    counts = order is not SortOrder.DEPARTURE
    backs = sorted((back.value if counts else 0, back.tie, back) for back in inbound)
    heap: list[tuple[int, Tie, Tie, int, int]] = []

    def wait(there: int, start: int) -> None:
        """Put a way there into the heap, with the first way back from `start` on."""
        out = outbound[there]
        leaves = out.arrival + int(SHORTEST_STAY.total_seconds())
        for number in range(start, len(backs)):
            value, tie, back = backs[number]
            if back.departure >= leaves:
                heapq.heappush(heap, (out.value + value, out.tie, tie, there, number))
                return

    for there, out in enumerate(outbound):
        wait(there, _first_after(backs, out, after))
    while heap:
        value, tie, back_tie, there, number = heapq.heappop(heap)
        place = RoundTripPlace(value, tie, back_tie)
        yield RoundTrip(place, outbound[there], backs[number][2])
        wait(there, number + 1)


def _first_after(
    backs: Sequence[tuple[int, Tie, Candidate]], out: Candidate, after: RoundTripPlace
) -> int:
    """Where the ways back start that make, with this way there, a pair behind a place."""
    rest = after.value - out.value
    if out.tie < after.outbound:
        return bisect_left(backs, (rest + 1,))
    if out.tie > after.outbound:
        return bisect_left(backs, (rest,))
    return bisect_right(backs, (rest, after.inbound), key=lambda back: back[:2])
