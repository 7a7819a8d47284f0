"""Ids are ordered by their bytes on every database."""

from dataclasses import replace
from functools import partial

from sqlalchemy import Connection

from flights.schedule.v1 import schedule_pb2 as pb
from schedule import paging
from schedule.domain import Flight
from schedule.service import PageEnd, RouteDay
from schedule.store import snapshot
from tests.schedule.conftest import System
from tests.schedule.samples import NOW, sample
from tests.schedule.test_servicer import DAY, refusal

IDS = ["flt_a", "flt_B", "flt-c", "flt_Z", "flt.d", "FLT_a", "flt_ab", "flt_a1", "flt~", "f", "_"]


def strange() -> list[Flight]:
    """Flights at the same time whose ids a locale would order otherwise."""
    return [replace(sample(n), flight_id=key) for n, key in enumerate(IDS, 1)]


async def test_a_snapshot_has_every_row_once_in_the_order_of_bytes(system: System) -> None:
    """Its pages follow each other by id, whatever is in the ids."""
    await system.add(*strange())
    keys: list[str] = []
    while page := await system.db.read(partial(after, keys)):
        keys += page

    assert keys == sorted(IDS)


def after(keys: list[str], connection: Connection) -> list[str]:
    """The next two ids after the last of these."""
    return [key for key, _ in snapshot(connection, keys[-1] if keys else None, 2)]


async def test_a_forged_token_is_no_token(system: System) -> None:
    """A page token that ends at an id no flight can have is refused, whatever the database."""
    of = RouteDay(origin="JFK", destination="LAX", departure_date=sample().departure_date)
    request = pb.ListFlightsRequest(origin="JFK", destination="LAX", departure_date=DAY)
    refused = []
    for key in ("a\0b", "", "a b"):
        request.page_token = paging.token(of, PageEnd(departure_time=NOW, flight_id=key))
        refused.append((await refusal(system.stub.ListFlights(request))).reason)

    assert refused == ["INVALID_PAGE_TOKEN"] * 3


async def test_a_list_has_every_row_once_in_the_order_of_bytes(system: System) -> None:
    """So do the pages of flights that leave at the same time."""
    await system.add(*strange())
    request = pb.ListFlightsRequest(
        origin="JFK", destination="LAX", departure_date=DAY, page_size=2
    )
    found: list[str] = []
    while True:
        page = await system.stub.ListFlights(request)
        found += [flight.flight_id for flight in page.flights]
        if not page.next_page_token:
            break
        request.page_token = page.next_page_token

    assert found == sorted(IDS)
