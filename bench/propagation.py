"""From a change at its owner to the public search: `python -m bench.propagation --changes 200`.

Each change delays a flight by UpdateFlight over gRPC and asks the public API until it shows. Also
says how long a search itself takes, as that is the resolution of the figure.
"""

import argparse
import asyncio
import uuid
from datetime import datetime, timedelta
from typing import Any

import grpc
from google.protobuf.duration_pb2 import Duration

from bench.steady import percentile, query_of, some_searches
from bench.subject import Subject
from flights.schedule.v1.schedule_pb2 import UpdateFlightRequest
from flights.schedule.v1.schedule_pb2_grpc import ScheduleServiceStub
from tools.programs import Settings

DEADLINE = 5.0


async def direct(subject: Subject) -> dict[str, dict[str, Any]]:
    """First segments of the direct flights of a popular route, by flight id."""
    query = query_of(some_searches()[0]) | {"max_stops": "0", "page_size": "100"}
    url = f"{subject.settings.gateway_url}/v1/itineraries"
    async with subject.http.get(url, params=query) as answer:
        answer.raise_for_status()
        found = (await answer.json())["itineraries"]
    return {i["segments"][0]["flight_id"]: i["segments"][0] for i in found}


async def shown_after(
    subject: Subject, schedule: ScheduleServiceStub, flight_id: str, minutes: int
) -> tuple[float, float]:
    """Delay a flight; seconds from UpdateFlight's answer until search shows it, and of a search."""
    loop = asyncio.get_running_loop()
    request = UpdateFlightRequest(
        request_id=str(uuid.uuid4()),
        flight_id=flight_id,
        delay=Duration(seconds=60 * minutes),
        reason="propagation",
    )
    flight = (await schedule.UpdateFlight(request, timeout=DEADLINE)).flight
    expected = flight.departure_time.seconds
    began = loop.time()
    while True:
        asked = loop.time()
        segment = (await direct(subject)).get(flight_id)
        now = loop.time()
        if segment and datetime.fromisoformat(segment["departure"]["time"]).timestamp() == expected:
            return now - began, now - asked
        if now - began > DEADLINE:
            raise TimeoutError(f"{flight_id} did not show within {DEADLINE} s")


async def measure(subject: Subject, changes: int) -> list[tuple[float, float]]:
    """So many changes, over the flights of one route in turn; all delays are taken back."""
    instance = next(i for i in await subject.instances("schedule") if i.status == "passing")
    async with grpc.aio.insecure_channel(f"{instance.address}:{instance.port}") as channel:
        schedule = ScheduleServiceStub(channel)
        flights = sorted(await direct(subject))[:10]
        minutes = [1 + n // len(flights) % 30 for n in range(changes)]
        chosen = [flights[n % len(flights)] for n in range(changes)]
        pairs = zip(chosen, minutes, strict=True)
        times = [await shown_after(subject, schedule, flight, delay) for flight, delay in pairs]
        for flight in flights:
            await shown_after(subject, schedule, flight, 0)
    return times


def report(times: list[tuple[float, float]]) -> str:
    """The figures in one line."""
    shown = [1000 * seconds for seconds, _ in times]
    search = [1000 * seconds for _, seconds in times]
    said = ", ".join(
        f"p{share:.0%}".rstrip("%") + f" {percentile(shown, share):.1f} ms" for share in (0.5, 0.99)
    )
    return (
        f"{len(times)} changes shown: {said}; a search itself p50 {percentile(search, 0.5):.1f} ms"
    )


async def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="python -m bench.propagation", description=__doc__)
    parser.add_argument("--changes", type=int, default=200)
    async with Subject.attach(Settings()) as subject:
        began = datetime.now().astimezone()
        print(report(await measure(subject, parser.parse_args().changes)))
        print(f"took {(datetime.now().astimezone() - began) / timedelta(seconds=1):.1f} s")


if __name__ == "__main__":
    asyncio.run(main())
