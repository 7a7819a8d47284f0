import grpc

from flights.schedule.v1.schedule_pb2 import (
    FLIGHT_STATUS_DELAYED,
    GetFlightRequest,
    GetFlightResponse,
)
from tests.gateway_bff import examples
from tests.gateway_bff.conftest import Gateway
from tests.gateway_bff.fakes import refusal


async def test_a_flight_is_shown_as_it_is_now(gateway: Gateway) -> None:
    """A flight has its published times beside the expected ones, and its seats by cabin."""
    flight = examples.flight()
    flight.departure_time.seconds += 35 * 60
    flight.status = FLIGHT_STATUS_DELAYED
    flight.status_reason = "weather"
    gateway.fakes.schedule.answers["GetFlight"] = GetFlightResponse(flight=flight)

    async with gateway.client.get(f"/v1/flights/{examples.FLIGHT}") as response:
        body = await response.json()

    assert response.status == 200
    assert gateway.fakes.schedule.requests == [GetFlightRequest(flight_id=examples.FLIGHT)]
    assert body == {
        "flight_id": examples.FLIGHT,
        "carrier": "B6",
        "number": "23",
        "aircraft": "A320",
        "departure": {
            "airport": "JFK",
            "time": "2026-12-01T07:05:00-05:00",
            "scheduled_time": "2026-12-01T06:30:00-05:00",
        },
        "arrival": {
            "airport": "LAX",
            "time": "2026-12-01T09:55:00-08:00",
            "scheduled_time": "2026-12-01T09:55:00-08:00",
        },
        "status": "delayed",
        "status_reason": "weather",
        "distance_km": 3983,
        "inferred": False,
        "cabins": [{"cabin": "economy", "capacity": 150, "seats_available": 112}],
        "version": 3,
        "etag": "v3",
    }


async def test_an_unknown_flight_is_404(gateway: Gateway) -> None:
    """NOT_FOUND of schedule is 404."""
    gateway.fakes.schedule.answers["GetFlight"] = refusal(
        grpc.StatusCode.NOT_FOUND, "FLIGHT_NOT_FOUND"
    )

    async with gateway.client.get(f"/v1/flights/{examples.FLIGHT}") as response:
        problem = await response.json()

    assert (response.status, problem["code"]) == (404, "NOT_FOUND")


async def test_a_flight_that_has_not_changed_is_not_sent_again(gateway: Gateway) -> None:
    """Its ETag is that of all that is shown, seats too: another seat, another ETag."""
    gateway.fakes.schedule.answers["GetFlight"] = GetFlightResponse(flight=examples.flight())
    path = f"/v1/flights/{examples.FLIGHT}"
    async with gateway.client.get(path) as response:
        had = {"If-None-Match": response.headers["ETag"]}
    async with gateway.client.get(path, headers=had) as same:
        nothing = await same.read()
    sold = examples.flight()
    sold.cabins[0].available -= 1
    gateway.fakes.schedule.answers["GetFlight"] = GetFlightResponse(flight=sold)
    async with gateway.client.get(path, headers=had) as other:
        await other.read()

    assert (same.status, nothing) == (304, b"")
    assert other.status == 200
