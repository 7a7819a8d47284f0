"""The sagas that have not ended, the oldest first: `python -m tools.sagas` (`make sagas`).

Asks any instance of booking that Consul says is well, as an operator of the local issuer.
"""

import argparse
import asyncio
import os
import sys
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Final

import grpc
from consul.exceptions import ConsulException
from requests import RequestException

from consulmesh import Mesh, MeshConfig, logs
from consulmesh.errors import Status
from consulmesh.local_issuer import LocalIssuer
from consulmesh.operators import OPERATOR, PATIENCE
from consulmesh.wellknown import instant
from flights.booking.v1 import booking_pb2 as pb
from flights.booking.v1.booking_pb2_grpc import BookingServiceStub
from tools import announce
from tools.binaries import ROOT
from tools.operators import joined
from tools.programs import Ports, Settings
from tools.system import administration

HEADINGS: Final = ("BOOKING", "STEP", "AGE", "ATTEMPTS", "EPOCH", "NEXT", "OWNER", "LAST ERROR")
PAGE: Final = 100
DEADLINE: Final = 5.0  # seconds, of a page

Row = tuple[str, ...]


async def unfinished(stub: BookingServiceStub, token: str, limit: int) -> tuple[list[Row], bool]:
    """Up to `limit` sagas as rows of the table, and whether there are more."""
    rows: list[Row] = []
    request = pb.ListUnfinishedSagasRequest()
    while len(rows) < limit:
        request.page_size = min(limit - len(rows), PAGE)
        metadata = [("authorization", f"Bearer {token}")]
        page = await stub.ListUnfinishedSagas(request, metadata=metadata, timeout=DEADLINE)
        rows += [row(saga, page) for saga in page.sagas]
        request.page_token = page.next_page_token
        if not page.next_page_token:
            return rows, False
    return rows, True


def row(saga: pb.UnfinishedSaga, page: pb.ListUnfinishedSagasResponse) -> Row:
    """A saga as a line of the table; times are from when the page was read."""
    now = instant(page.read_time)
    return (
        saga.booking_id,
        pb.SagaStep.Name(saga.step).removeprefix("SAGA_STEP_").lower(),
        span(now - instant(saga.start_time)),
        str(saga.attempts),
        str(saga.epoch),
        span(instant(saga.due_time) - now),
        saga.owner or "-",
        saga.last_error or "-",
    )


def span(length: timedelta) -> str:
    """A time span as a person would say it: 850ms, 12.3s, 2h05m."""
    length = max(length, timedelta())
    if length < timedelta(seconds=1):
        return f"{length / timedelta(milliseconds=1):.0f}ms"
    if length < timedelta(minutes=1):
        return f"{length.total_seconds():.1f}s"
    if length < timedelta(hours=1):
        return f"{length // timedelta(minutes=1)}m{length.seconds % 60:02}s"
    return f"{length // timedelta(hours=1)}h{length.seconds // 60 % 60:02}m"


def address(settings: Settings) -> str:
    """Where an instance of booking is; exits where there is none."""
    try:
        with administration(settings) as client:
            _, entries = client.health.service("booking", passing=True)
    except (RequestException, ConsulException) as error:
        sys.exit(f"Consul at {settings.consul_url} does not answer: {error}")
    if not entries:
        sys.exit("no instance of booking passes its checks: is the system up?")
    found = entries[0]
    host = found["Service"]["Address"] or found["Node"]["Address"]
    return f"{host}:{found['Service']['Port']}"


async def ask(settings: Settings, token: str, limit: int) -> None:
    """Print the table of a system; in the secure profile, by the mesh and as the operator.

    In a container, where no folder of a system is, the environment says which Consul and token.
    """
    if not settings.secure and os.environ.get("MESH_SECURE", "").lower() in {"true", "1"}:
        own = MeshConfig.from_env(os.environ, version="0.0.0")
        async with Mesh.join(OPERATOR, replace(own, metrics_port=None)) as mesh:
            await asyncio.wait_for(mesh.certified(), PATIENCE.total_seconds())
            await show_from(mesh.channel("booking"), "booking", token, limit)
        return
    target = address(settings)
    if not settings.secure:
        await show(target, token, limit)
        return
    async with joined(settings) as mesh:
        await show_from(mesh.channel("booking"), "booking", token, limit)


async def show(target: str, token: str, limit: int) -> None:
    """Print the table of an instance, asked in plain text."""
    async with grpc.aio.insecure_channel(target) as channel:
        await show_from(channel, f"booking at {target}", token, limit)


async def show_from(channel: grpc.aio.Channel, asked: str, token: str, limit: int) -> None:
    """Print the table of what a channel leads to."""
    stub = BookingServiceStub(channel)
    try:
        rows, more = await unfinished(stub, token, limit)
    except grpc.aio.AioRpcError as error:
        status = Status.of(error)
        sys.exit(f"{asked} says {status.code.name}: {status.message}")
    if not rows:
        announce.say("every saga has ended")
        return
    announce.table(rows, HEADINGS)
    if more:
        announce.say(f"… and more than these {limit} (LIMIT=1000 shows more)")


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="python -m tools.sagas", description=__doc__)
    parser.add_argument("--run", type=Path, default=ROOT / ".run", help="folder of the system")
    parser.add_argument("--consul-port", type=int, default=Ports().consul)
    parser.add_argument("--limit", type=int, default=PAGE)
    parser.add_argument("--token", help="an operator's, where it is not the local issuer's")
    given = parser.parse_args()
    settings = Settings(
        run=given.run.resolve(),
        ports=Ports(consul=given.consul_port),
        consul=os.environ.get("CONSUL_HTTP_ADDR"),
    )
    logs.configure("critical", sys.stderr.fileno())
    token = given.token or LocalIssuer(settings.run / "issuer").token("sagas", {"operator"})
    asyncio.run(ask(settings, token, given.limit))


if __name__ == "__main__":
    main()
