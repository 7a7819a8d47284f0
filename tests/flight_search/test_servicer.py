import base64
from collections.abc import AsyncIterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.type.date_pb2 import Date
from google.type.timeofday_pb2 import TimeOfDay

from consulmesh.errors import Status
from consulmesh.wellknown import amount, timestamp
from flight_search.service import ItinerarySearch, Switches
from flights.schedule.v1 import schedule_pb2
from flights.search.v1 import search_pb2 as pb
from flights.type.v1 import cabin_pb2
from tests.flight_search.owners import flight_event, flight_removed, price_event
from tests.flight_search.systems import (
    System,
    asking,
    at_least,
    flights_of,
    running_search,
)

EIGHT = datetime(2026, 3, 8, 13, tzinfo=UTC)
HOUR = timedelta(hours=1)
DEPARTURE = pb.SORT_ORDER_DEPARTURE


@pytest.fixture
async def system(tmp_path: Path) -> AsyncIterator[System]:
    """A search service that has seen nothing yet."""
    async with running_search(tmp_path / "search.db") as running:
        yield running


async def search(system: System, **fields: Any) -> pb.SearchItinerariesResponse:
    """One page."""
    request = pb.SearchItinerariesRequest(query=fields.pop("query", asking()), **fields)
    return await system.stub.SearchItineraries(request, timeout=30)


async def round_trips(system: System, **fields: Any) -> pb.SearchRoundTripsResponse:
    """One page of round trips, back on 9 March if not said otherwise."""
    request = {"query": asking(), "return_date": Date(year=2026, month=3, day=9)} | fields
    return await system.stub.SearchRoundTrips(pb.SearchRoundTripsRequest(**request), timeout=30)


async def fares(system: System, **fields: Any) -> pb.SearchFareCalendarResponse:
    """The fares of March 2026, if not said otherwise."""
    request = pb.SearchFareCalendarRequest(query=asking(**fields))
    return await system.stub.SearchFareCalendar(request, timeout=30)


async def refusal(call: Any) -> Status:
    """How a call failed."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return Status.of(caught.value)


async def test_an_itinerary_says_all_there_is_to_say(system: System) -> None:
    """Times, offsets, seats, exact prices and an id that says the flights and the cabin."""
    await system.first_snapshots(
        flights=[
            flight_event("f1", "JFK", "ORD", EIGHT),
            flight_event(
                "f2",
                "ORD",
                "LAX",
                EIGHT + timedelta(hours=3),
                status=schedule_pb2.FLIGHT_STATUS_DELAYED,
                seats=4,
            ),
        ],
        prices=[price_event("f1", 180, cents=29), price_event("f2", 20, cents=1)],
    )
    (itinerary,) = (await search(system, query=asking(passengers=3))).itineraries
    key = itinerary.itinerary_id.removeprefix("itn_")
    raw = base64.urlsafe_b64decode(key + "=" * (-len(key) % 4))

    assert pb.ItineraryKey.FromString(raw) == pb.ItineraryKey(
        flight_ids=["f1", "f2"], cabin=cabin_pb2.CABIN_ECONOMY
    )
    assert itinerary.duration == Duration(seconds=5 * 3600)
    assert amount(itinerary.price_per_passenger) == Decimal("200.30")
    assert amount(itinerary.price_total) == Decimal("600.90")
    assert itinerary.price_total.currency_code == "USD"
    assert itinerary.price_basis == pb.PRICE_BASIS_LIVE
    assert itinerary.segments[1] == pb.Segment(
        flight_id="f2",
        carrier="B6",
        number="23",
        aircraft="A320",
        origin="ORD",
        destination="LAX",
        departure_time=timestamp(EIGHT + timedelta(hours=3)),
        arrival_time=timestamp(EIGHT + timedelta(hours=5)),
        departure_utc_offset_minutes=-240,
        arrival_utc_offset_minutes=-420,
        delayed=True,
        seats_available=4,
    )


async def test_changes_show_by_themselves(system: System) -> None:
    """Seats, prices, cancellations and removals arrive by the streams, and the answer says so."""
    await system.first_snapshots(
        flights=[flight_event(key) for key in ("a", "b", "c", "d")],
        prices=[price_event(key) for key in ("a", "b", "c", "d")],
    )
    first = await search(system)
    cancelled = schedule_pb2.FLIGHT_STATUS_CANCELLED
    changes = [
        flight_event("a", seats=3, version=2),
        flight_event("b", version=2, status=cancelled),
        flight_removed("c"),
    ]
    system.schedule.events(changes, 3)
    system.pricing.events([price_event("a", 130, version=2)], 1)
    wanted = [at_least("schedule", 3), at_least("pricing", 1)]
    second = await search(system, min_positions=wanted)

    assert flights_of(first.itineraries) == [["a"], ["b"], ["c"], ["d"]]
    assert flights_of(second.itineraries) == [["d"], ["a"]]
    assert second.itineraries[1].segments[0].seats_available == 3
    assert [(p.source, p.cursor.seq) for p in second.positions] == [("schedule", 3), ("pricing", 1)]


async def test_pages_concatenated_are_the_whole(system: System) -> None:
    """Following next_page_token gives every itinerary once, in the order of one large page."""
    start = EIGHT - timedelta(hours=6)
    flights = [flight_event(f"f{n}", departure=start + timedelta(minutes=n)) for n in range(25)]
    fares = [price_event(f"f{n}", 100 + n % 3) for n in range(25)]
    await system.first_snapshots(flights=flights, prices=fares)
    order = pb.SORT_ORDER_PRICE
    whole = await search(system, sort_order=order, page_size=100)
    default = await search(system)
    pages, token = [], ""
    while True:
        page = await search(system, sort_order=order, page_size=7, page_token=token)
        pages.append(page)
        if not (token := page.next_page_token):
            break

    assert [len(page.itineraries) for page in pages] == [7, 7, 7, 4]
    assert [i for page in pages for i in page.itineraries] == list(whole.itineraries)
    assert len(whole.itineraries) == 25
    assert not whole.next_page_token
    assert len(default.itineraries) == 20


async def test_prices_are_indicative_once_pricing_is_silent(system: System) -> None:
    """When pricing's newest word is older than five seconds, prices say so; flights are shown."""
    system.schedule.snapshot([flight_event("a")])
    system.pricing.snapshot([price_event("a")])
    system.schedule.bookmark()
    system.pricing.bookmark(age=timedelta(seconds=6))
    await system.sources.warm()
    old = await search(system)
    system.pricing.events([price_event("a", 120, version=2)], 1)
    system.pricing.bookmark(1)
    system.pricing.events([price_event("a", 130, version=3)], 2)
    fresh = await search(system, min_positions=[at_least("pricing", 2)])

    assert old.itineraries[0].price_basis == pb.PRICE_BASIS_INDICATIVE
    assert old.positions[1].lag.seconds >= 6
    assert fresh.itineraries[0].price_basis == pb.PRICE_BASIS_LIVE


@pytest.mark.parametrize(
    ("fields", "reason", "field"),
    [
        ({"query": asking(origin="XXX")}, "UNKNOWN_AIRPORT", "query.origin"),
        ({"query": asking(destination="jfk")}, "UNKNOWN_AIRPORT", "query.destination"),
        ({"query": asking(destination="JFK")}, "VALIDATION_FAILED", "query.destination"),
        (
            {"query": asking(departure_date=date(2026, 3, 5))},
            "DATE_OUT_OF_RANGE",
            "query.departure_date",
        ),
        (
            {"query": asking(departure_date=Date(year=2026, month=2, day=30))},
            "VALIDATION_FAILED",
            "query.departure_date",
        ),
        (
            {"query": asking(departure_date=Date(year=2**31 - 1, month=-1, day=1))},
            "VALIDATION_FAILED",
            "query.departure_date",
        ),
        ({"query": asking(passengers=0)}, "VALIDATION_FAILED", "query.passengers"),
        ({"query": asking(passengers=10)}, "VALIDATION_FAILED", "query.passengers"),
        ({"query": asking(cabin=0)}, "VALIDATION_FAILED", "query.cabin"),
        ({"query": asking(cabin=99)}, "VALIDATION_FAILED", "query.cabin"),
        ({"query": asking(max_stops=3)}, "VALIDATION_FAILED", "query.max_stops"),
        ({"query": asking(carriers=["b6"])}, "VALIDATION_FAILED", "query.carriers"),
        ({"query": asking(carriers=["B6"] * 11)}, "VALIDATION_FAILED", "query.carriers"),
        ({"min_positions": [at_least("pricing", 0)] * 21}, "VALIDATION_FAILED", "min_positions"),
        (
            {"preferred_positions": [at_least("pricing", 0)] * 21},
            "VALIDATION_FAILED",
            "preferred_positions",
        ),
        (
            {"query": asking(departs_from=TimeOfDay(hours=24))},
            "VALIDATION_FAILED",
            "query.departs_from",
        ),
        (
            {"query": asking(departs_from=TimeOfDay(hours=9), departs_before=TimeOfDay(hours=9))},
            "VALIDATION_FAILED",
            "query.departs_before",
        ),
        ({"sort_order": 99}, "VALIDATION_FAILED", "sort_order"),
        ({"page_size": 101}, "VALIDATION_FAILED", "page_size"),
        ({"page_size": -1}, "VALIDATION_FAILED", "page_size"),
        ({"page_token": "nonsense"}, "INVALID_PAGE_TOKEN", "page_token"),
    ],
)
async def test_a_wrong_request_names_its_field(
    system: System, fields: dict[str, Any], reason: str, field: str
) -> None:
    """Wrong requests are INVALID_ARGUMENT with a reason and the field, in both kinds of search."""
    status = await refusal(search(system, **fields))
    statuses = [status]
    if "query" in fields:
        request = pb.StreamItinerariesRequest(query=fields["query"])
        call = system.stub.StreamItineraries(request, timeout=30)
        statuses.append(await refusal(anext(aiter(call))))

    for said in statuses:
        assert said.code is grpc.StatusCode.INVALID_ARGUMENT
        assert said.reason == reason
        assert said.domain == "flight-search"
        assert [violation.field for violation in said.violations] == [field]


async def test_filters_leave_out_what_is_not_asked_for(system: System) -> None:
    """Only flights of the carriers, and first departures between the times of the clock."""
    await system.first_snapshots(
        flights=[flight_event(f"at{n}", "JFK", "LAX", EIGHT + n * HOUR) for n in range(3)]
        + [flight_event("other", "JFK", "LAX", EIGHT + HOUR, carrier="DL")],
        prices=[price_event(key) for key in ("at0", "at1", "at2", "other")],
    )
    asked = {
        "carriers": asking(carriers=["B6", "B6"]),
        "from": asking(departs_from=TimeOfDay(hours=10)),
        "before": asking(departs_before=TimeOfDay(hours=10)),
        "all": asking(
            carriers=["DL"],
            departs_from=TimeOfDay(hours=10),
            departs_before=TimeOfDay(hours=10, minutes=1),
        ),
    }
    found = {
        name: flights_of((await search(system, query=query, sort_order=DEPARTURE)).itineraries)
        for name, query in asked.items()
    }

    assert found == {
        "carriers": [["at0"], ["at1"], ["at2"]],
        "from": [["at1"], ["other"], ["at2"]],
        "before": [["at0"]],
        "all": [["other"]],
    }


async def ways_with_two_stops(system: System) -> None:
    """From New York to Los Angeles there is one over Chicago and Denver, and one over Frankfurt."""
    legs = [("JFK", "ORD"), ("ORD", "DEN"), ("DEN", "LAX"), ("ORD", "FRA"), ("FRA", "LAX")]
    flights = [
        flight_event(f"{a}-{b}", a, b, EIGHT + 4 * n * HOUR)
        for n, (a, b) in zip([0, 1, 2, 1, 2], legs, strict=True)
    ]
    keys = [event.flight_changed.flight_id for event in flights]
    await system.first_snapshots(flights=flights, prices=[price_event(key) for key in keys])


async def streamed(system: System, query: pb.ItineraryQuery) -> list[list[str]]:
    """The flights of all that a stream finds."""
    call = system.stub.StreamItineraries(pb.StreamItinerariesRequest(query=query))
    return [way async for response in call for way in flights_of(response.itineraries)]


async def test_two_stops_are_an_option(system: System) -> None:
    """They are asked for; a way that leads far astray is never offered; a stream has them last."""
    await ways_with_two_stops(system)
    usual = await search(system)
    more = await search(system, query=asking(max_stops=2))
    found = await streamed(system, asking(max_stops=2))

    assert usual.itineraries == []
    assert flights_of(more.itineraries) == [["JFK-ORD", "ORD-DEN", "DEN-LAX"]]
    assert found == [["JFK-ORD", "ORD-DEN", "DEN-LAX"]]


async def test_two_stops_can_be_switched_off(tmp_path: Path) -> None:
    """While they are off who asks for them gets ways with one stop at most, and no error."""
    switches = Switches(two_stops=False)
    search_with = partial(ItinerarySearch, switches=switches)
    wide = asking(max_stops=2)
    async with running_search(tmp_path / "search.db", make_search=search_with) as system:
        await ways_with_two_stops(system)
        off = [flights_of((await search(system, query=wide)).itineraries)]
        off += [await streamed(system, wide)]
        refused = await refusal(search(system, query=asking(max_stops=3)))
        switches.two_stops = True
        on = [flights_of((await search(system, query=wide)).itineraries)]
        on += [await streamed(system, wide)]

    assert off == [[], []]
    assert refused.code is grpc.StatusCode.INVALID_ARGUMENT
    assert on == [[["JFK-ORD", "ORD-DEN", "DEN-LAX"]]] * 2


async def test_an_area_means_all_of_its_airports(system: System) -> None:
    """NYC is New York's airports, in both directions; a journey inside it makes no sense."""
    await system.first_snapshots(
        flights=[
            *(flight_event(code, code, "LAX", EIGHT) for code in ("JFK", "LGA", "EWR", "BOS")),
            flight_event("back", "LAX", "EWR", EIGHT + 12 * HOUR),
        ],
        prices=[price_event(key) for key in ("JFK", "LGA", "EWR", "BOS", "back")],
    )
    there = await search(system, query=asking(origin="NYC"))
    back = await search(system, query=asking(origin="LAX", destination="NYC"))
    inside = await refusal(search(system, query=asking(origin="NYC", destination="LGA")))

    assert (sorted(there.origins), list(there.destinations)) == (["EWR", "JFK", "LGA"], ["LAX"])
    assert (list(back.origins), sorted(back.destinations)) == (["LAX"], sorted(there.origins))
    assert flights_of(there.itineraries) == [["EWR"], ["JFK"], ["LGA"]]
    assert flights_of(back.itineraries) == [["back"]]
    assert [violation.field for violation in inside.violations] == ["query.destination"]


async def test_a_round_trip_is_one_answer(system: System) -> None:
    """Both ways with the price of both, cheapest first, a page at a time."""
    await system.first_snapshots(
        flights=[
            *(flight_event(f"to{n}", "JFK", "LAX", EIGHT + n * HOUR) for n in range(2)),
            *(flight_event(f"back{n}", "LAX", "JFK", EIGHT + (24 + n) * HOUR) for n in range(2)),
        ],
        prices=[
            price_event("to0", 100),
            price_event("to1", 300),
            price_event("back0", 50, cents=1),
            price_event("back1", 51),
        ],
    )
    token = ""
    trips: list[pb.RoundTrip] = []
    while True:
        page = await round_trips(system, query=asking(passengers=2), page_size=3, page_token=token)
        trips += page.round_trips
        if not (token := page.next_page_token):
            break
    found = [
        (*flights_of([trip.outbound, trip.inbound]), amount(trip.price_total)) for trip in trips
    ]

    assert found == [
        (["to0"], ["back0"], Decimal("300.02")),
        (["to0"], ["back1"], Decimal(302)),
        (["to1"], ["back0"], Decimal("700.02")),
        (["to1"], ["back1"], Decimal(702)),
    ]
    assert amount(trips[0].price_per_passenger) == Decimal("150.01")
    assert [position.source for position in page.positions] == ["schedule", "pricing"]


@pytest.mark.parametrize(
    ("fields", "reason", "field"),
    [
        ({"return_date": None}, "VALIDATION_FAILED", "return_date"),
        ({"return_date": Date(year=2026, month=3, day=6)}, "VALIDATION_FAILED", "return_date"),
        ({"return_date": Date(year=2028, month=3, day=6)}, "DATE_OUT_OF_RANGE", "return_date"),
        ({"query": asking(max_stops=2)}, "VALIDATION_FAILED", "query.max_stops"),
        ({"query": asking(origin="XXX")}, "UNKNOWN_AIRPORT", "query.origin"),
        ({"page_token": "nonsense"}, "INVALID_PAGE_TOKEN", "page_token"),
    ],
)
async def test_a_wrong_round_trip_names_its_field(
    system: System, fields: dict[str, Any], reason: str, field: str
) -> None:
    """As wrong requests of one way do."""
    status = await refusal(round_trips(system, **fields))

    assert (status.code, status.reason) == (grpc.StatusCode.INVALID_ARGUMENT, reason)
    assert [violation.field for violation in status.violations] == [field]


async def test_a_month_has_the_lowest_price_of_each_day(system: System) -> None:
    """Days that are over, sold out or without flights are left out; connections count."""
    days = {"a": 0, "b": 0, "full": 2, "on": 3}
    await system.first_snapshots(
        flights=[
            *(
                flight_event(key, "JFK", "LAX", EIGHT + 24 * n * HOUR, seats=3 * (key != "full"))
                for key, n in days.items()
            ),
            flight_event("one", "JFK", "ORD", EIGHT + 24 * HOUR),
            flight_event("two", "ORD", "LAX", EIGHT + 28 * HOUR),
            flight_event("gone", "JFK", "LAX", EIGHT - 24 * 3 * HOUR),
        ],
        prices=[
            price_event(key, dollars)
            for key, dollars in {
                "a": 120,
                "b": 110,
                "full": 5,
                "on": 99,
                "one": 40,
                "two": 60,
                "gone": 1,
            }.items()
        ],
    )
    calendar = await fares(system, passengers=3, departure_date=Date(year=2026, month=3))
    direct = await fares(system, max_stops=0, departure_date=Date(year=2026, month=3, day=31))
    refusals = [
        await refusal(fares(system, **wrong))
        for wrong in (
            {"departure_date": Date(year=2026, month=1)},
            {"departure_date": Date(month=3)},
            {"max_stops": 2},
            {"origin": "XXX"},
        )
    ]

    assert [(day.date.day, amount(day.lowest_price)) for day in calendar.days] == [
        (8, Decimal(110)),
        (9, Decimal(100)),
        (11, Decimal(99)),
    ]
    assert [day.date.day for day in direct.days] == [8, 11]
    assert calendar.price_basis == pb.PRICE_BASIS_LIVE
    assert [position.source for position in calendar.positions] == ["schedule", "pricing"]
    assert [status.reason for status in refusals] == [
        "DATE_OUT_OF_RANGE",
        "VALIDATION_FAILED",
        "VALIDATION_FAILED",
        "UNKNOWN_AIRPORT",
    ]


async def test_an_empty_request_says_what_it_lacks(system: System) -> None:
    """Nothing asked is not an internal error."""
    status = await refusal(system.stub.SearchItineraries(pb.SearchItinerariesRequest(), timeout=30))

    assert status.code is grpc.StatusCode.INVALID_ARGUMENT
    assert len(status.violations) == 5


async def test_an_airport_without_flights_has_an_empty_result(system: System) -> None:
    """An airport that exists but is not served is no error."""
    await system.first_snapshots(flights=[flight_event("a")], prices=[price_event("a")])
    answer = await search(system, query=asking(origin="FRA"))

    assert answer.itineraries == []
    assert answer.next_page_token == ""


async def test_airports_are_found_as_people_type(system: System) -> None:
    """Served airports come first and say so; sizes and empty texts are checked."""
    await system.first_snapshots(flights=[flight_event("a")], prices=[])
    stub = system.stub
    found = await stub.SearchAirports(
        pb.SearchAirportsRequest(query="los", page_size=3), timeout=30
    )
    statuses = [
        await refusal(stub.SearchAirports(pb.SearchAirportsRequest(query=text, page_size=size)))
        for text, size in [("", 0), ("  ", 0), ("l" * 101, 0), ("los", 51), ("los", -1)]
    ]

    assert [(a.code, a.served) for a in found.airports[:2]] == [("LOS", False), ("LAX", True)]
    assert found.airports[1].time_zone == "America/Los_Angeles"
    assert len(found.airports) == 3
    assert [status.violations[0].field for status in statuses] == ["query"] * 3 + ["page_size"] * 2
