"""Users who book: a steady load on the public API, of which nothing is forgotten.

Open loop: a traveller arrives when it is due, however the ones before fare. Each takes a quote and
books; some ask twice at once, look again, or give the booking back. A share wants the few seats of
small cabins, so that there are losers.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import date, timedelta
from itertools import count
from typing import Final

import aiohttp

from bench.oracle import Asked
from bench.recorded_api import RecordedApi, User
from bench.steady import ROUTES, query_of

_SCARCE: Final = 0.05  # of the travellers want what there is little of
_TWICE: Final = 0.05  # ask twice at once
_LOOK: Final = 0.1
_CANCEL: Final = 0.1
_LARGEST_PARTY: Final = 3
_SETTLES_WITHIN: Final = 60.0  # seconds until a booking that is pending must have been decided
_POLL: Final = 1.0  # seconds: the Retry-After of a booking that is pending


@dataclass(frozen=True, slots=True)
class Market:
    """What can be bought: itineraries, and those with few seats."""

    plenty: Sequence[str]
    scarce: Sequence[str]

    @classmethod
    async def survey(cls, http: aiohttp.ClientSession, gateway: str, days: int) -> "Market":
        """What searches find on some routes in so many days, from the second on."""
        plenty = await _found(http, gateway, "economy", range(2, 2 + days))
        scarce = await _found(http, gateway, "business", range(2, 4))
        by_seats = sorted(scarce, key=lambda one: scarce[one])
        return cls(list(plenty), by_seats[:20])


async def _found(
    http: aiohttp.ClientSession, gateway: str, cabin: str, days: range
) -> dict[str, int]:
    """Itineraries and how many can still travel by them."""
    today = date.today()  # noqa: DTZ011 - the origin's day
    seats: dict[str, int] = {}
    for ahead in days:
        for origin, to in ROUTES:
            asked = Asked(origin, to, str(today + timedelta(days=ahead)), 1, cabin)
            async with http.get(f"{gateway}/v1/itineraries", params=query_of(asked)) as answer:
                answer.raise_for_status()
                for one in (await answer.json())["itineraries"]:
                    seats[one["itinerary_id"]] = min(
                        segment["seats_available"] for segment in one["segments"]
                    )
    return seats


class Travellers:
    """The travellers of one run. State: those that are on their way, and how many came."""

    def __init__(self, api: RecordedApi, market: Market, users: Sequence[User], seed: int) -> None:
        self.api = api
        self._market = market
        self._users = users
        self._random = random.Random(seed)
        self._numbers = count(1)
        self._running: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def arriving(self, per_second: float) -> AsyncIterator[None]:
        """Travellers come while the block runs; at its end those who came are done."""
        arrivals = asyncio.create_task(self._arrive(per_second))
        try:
            yield
        finally:
            arrivals.cancel()
            await asyncio.gather(arrivals, return_exceptions=True)
            while self._running:
                await asyncio.gather(*self._running)

    async def capacity(self, seconds: float, at_once: int) -> float:
        """Travellers per second that are served when so many are always on their way."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        served = await asyncio.gather(
            *(self._one_after_another(began + seconds) for _ in range(at_once))
        )
        return sum(served) / (loop.time() - began)

    async def _one_after_another(self, until: float) -> int:
        served = 0
        while asyncio.get_running_loop().time() < until:
            await self._travel(next(self._numbers))
            served += 1
        return served

    async def _arrive(self, per_second: float) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            await asyncio.sleep(max(0.0, due - loop.time()))
            task = asyncio.create_task(self._travel(next(self._numbers)))
            self._running.add(task)
            task.add_done_callback(self._running.discard)
            due += 1 / per_second

    async def _travel(self, number: int) -> None:
        """What one traveller does; a failure of the API ends it early."""
        draw = random.Random(self._random.random())
        process, user = f"traveller-{number}", draw.choice(self._users)
        party = draw.randint(1, _LARGEST_PARTY)
        wanted = self._market.scarce if draw.random() < _SCARCE else self._market.plenty
        quote = await self.api.quote(process, draw.choice(wanted), party)
        if not quote:
            return
        names = [(f"Given{number}", f"Family{place}") for place in range(party)]
        booking = await self._book(process, user, quote["quote_id"], names, draw)
        if not booking:
            return
        self.api.tally.settled[booking["status"]] += 1
        if draw.random() < _LOOK:
            await self.api.get(process, user, booking["booking_id"])
        if booking["status"] == "confirmed" and draw.random() < _CANCEL:
            await self.api.cancel(process, user, booking["booking_id"])

    async def _book(
        self,
        process: str,
        user: User,
        quote_id: str,
        names: Sequence[tuple[str, str]],
        draw: random.Random,
    ) -> dict[str, str]:
        """Book, some twice at once, and wait until it is decided."""
        key = f"{process}/{draw.getrandbits(64):x}"
        twins = [process, f"{process}/twin"] if draw.random() < _TWICE else [process]
        booking, *_ = await asyncio.gather(
            *(self.api.book(twin, user, key, quote_id, names) for twin in twins)
        )
        loop = asyncio.get_running_loop()
        limit = loop.time() + _SETTLES_WITHIN
        while booking and booking["status"] == "pending" and loop.time() < limit:
            await asyncio.sleep(_POLL)
            booking = await self.api.get(process, user, booking["booking_id"])
        return dict(booking)
