"""What the gateway shows of one user's bookings to others, over a real booking service: nothing."""

from collections.abc import AsyncIterator

import pytest

from flights.booking.v1 import booking_pb2 as pb
from flights.pricing.v1.pricing_pb2_grpc import PricingServiceStub
from flights.schedule.v1.schedule_pb2_grpc import ScheduleServiceStub
from flights.search.v1.search_pb2_grpc import SearchServiceStub
from gateway_bff.app import ROUTES
from gateway_bff.openapi import made
from gateway_bff.upstreams import Upstreams
from tests.booking.system import System
from tests.gateway_bff.conftest import Gateway, running_gateway
from tests.gateway_bff.fakes import Fakes

BY_BOOKING = [
    (method, path)
    for path, methods in made(ROUTES)["paths"].items()
    for method in methods
    if "{booking_id}" in path
]


async def _reachable() -> bool:
    return True


@pytest.fixture
async def gateway(system: System) -> AsyncIterator[Gateway]:
    """A gateway over a real booking service."""
    instance = await system.start()
    fakes = Fakes()
    upstreams = Upstreams(
        search=SearchServiceStub(system._schedule_channel),
        schedule=ScheduleServiceStub(system._schedule_channel),
        pricing=PricingServiceStub(system._pricing_channel),
        booking=instance.stub,
        users=system._tokens,
        is_reachable=_reachable,
        topology=fakes.topology,
    )
    async with running_gateway(upstreams, fakes) as made:
        yield made


async def asked(
    gateway: Gateway, method: str, url: str, headers: dict[str, str]
) -> tuple[int, dict[str, str], dict[str, object]]:
    """Status, headers and body of an answer, without what is of this request alone."""
    async with gateway.client.request(method, url, headers=headers) as response:
        own = {"x-request-id", "traceparent", "date"}
        shown = {name: value for name, value in response.headers.items() if name.lower() not in own}
        body = await response.json()
    return response.status, shown, body


def as_user(system: System, subject: str, role: str = "customer") -> dict[str, str]:
    """Headers of a user, with the one key that everybody uses."""
    return {"Idempotency-Key": "key-of-ann", **dict(system.user(subject, role))}


@pytest.mark.parametrize(("method", "path"), BY_BOOKING)
async def test_anothers_booking_is_as_one_that_is_not_there(
    system: System, gateway: Gateway, method: str, path: str
) -> None:
    """404, the same bytes as for an unknown id but for the path and the trace; nothing changes."""
    booking = await system.book(system.newest)
    there, unknown = booking.booking_id, f"{booking.booking_id[:-6]}zzzzzz"
    answers = []
    for booking_id in (there, unknown):
        url = path.replace("{booking_id}", booking_id)
        status, headers, problem = await asked(gateway, method, url, as_user(system, "bob"))
        assert problem.pop("instance") == url
        assert problem.pop("trace_id")
        answers.append((status, headers, problem))
    operators = path.replace("{booking_id}", there)
    refused, _, _ = await asked(gateway, method, operators, as_user(system, "olga", "operator"))
    request = pb.GetBookingRequest(booking_id=there)
    now = (await system.newest.stub.GetBooking(request, metadata=system.user())).booking

    assert answers[0] == answers[1]
    assert answers[0][0] == 404
    assert refused == 403
    assert now == booking
    await system.check(system.newest)


@pytest.mark.parametrize(("method", "path"), BY_BOOKING)
async def test_the_owner_is_served(
    system: System, gateway: Gateway, method: str, path: str
) -> None:
    """The same request by the owner: it is theirs to look at and to change."""
    booking = await system.book(system.newest)
    url = path.replace("{booking_id}", booking.booking_id)
    status, _, shown = await asked(gateway, method, url, as_user(system, "ann"))

    assert (status, shown["booking_id"]) == (200, booking.booking_id)
    await system.check(system.newest)


async def test_a_list_has_own_bookings_only(system: System, gateway: Gateway) -> None:
    """Whatever others have booked."""
    booking = await system.book(system.newest)
    lists = [
        await asked(gateway, "get", "/v1/bookings", as_user(system, subject))
        for subject in ("ann", "bob")
    ]
    ids = [[each["booking_id"] for each in body["bookings"]] for _, _, body in lists]  # type: ignore[attr-defined]  # a list

    assert ids == [[booking.booking_id], []]
    await system.check(system.newest)
