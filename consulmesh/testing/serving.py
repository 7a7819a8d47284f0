"""A real server and a real channel to it, over HTTP/2 on a free port, without Consul."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import grpc
from grpc import aio
from prometheus_client import CollectorRegistry

from consulmesh import logs
from consulmesh.channel import CHANNEL_OPTIONS, MeshChannel
from consulmesh.logs import AccessRecord
from consulmesh.metrics import RpcMetrics
from consulmesh.outgoing import RouteTimeouts
from consulmesh.server import MeshServer

Add = Callable[[Any], None]
"""Adds a servicer: `lambda server: add_XServicer_to_server(servicer, server)`."""


@asynccontextmanager
async def serving(
    *add: Add,
    status_codes: Mapping[type[Exception], grpc.StatusCode] | None = None,
    service: str = "tested",
    instance_id: str = "tested-1",
    caller: str = "test",
    relay_token: bool = False,
    **options: Any,
) -> AsyncIterator[MeshChannel]:
    """A channel to a server with these servicers, which says SERVING.

    `options` are those of `running`. For several servers in a row, or to stop one, use `running`
    and `channel_to`.
    """
    options |= {"status_codes": status_codes, "service": service, "instance_id": instance_id}
    async with (
        running(*add, **options) as (_, port),
        channel_to(port, upstream=service, caller=caller, relay_token=relay_token) as channel,
    ):
        yield channel


@asynccontextmanager
async def running(
    *add: Add,
    status_codes: Mapping[type[Exception], grpc.StatusCode] | None = None,
    service: str = "tested",
    instance_id: str = "tested-1",
    access_log: Callable[[AccessRecord], None] = logs.access,
    metrics: RpcMetrics | None = None,
    serving: bool = True,
    **policies: Any,
) -> AsyncIterator[tuple[MeshServer, int]]:
    """A server with these servicers, which says SERVING unless told otherwise, and its port.

    `policies` are MeshServer's `admission`, `authorization` and `options`.
    """
    server = MeshServer(
        service,
        instance=f"{instance_id}/0.0.0",
        status_codes=status_codes or {},
        access_log=access_log,
        metrics=metrics or RpcMetrics(CollectorRegistry()),
        **policies,
    )
    for each in add:
        each(server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    if serving:
        await server.set_serving(serving=True)
    try:
        yield server, port
    finally:
        await server.stop(None)


@asynccontextmanager
async def channel_to(
    port: int,
    *,
    upstream: str = "tested",
    caller: str = "test",
    relay_token: bool = False,
    route_timeouts: RouteTimeouts | None = None,
    metrics: RpcMetrics | None = None,
) -> AsyncIterator[MeshChannel]:
    """A channel as the mesh makes them, straight to a port of this machine."""
    channel = MeshChannel(
        aio.insecure_channel(f"127.0.0.1:{port}", options=CHANNEL_OPTIONS),
        upstream=upstream,
        caller=caller,
        relay_token=relay_token,
        route_timeouts=route_timeouts,
        metrics=metrics or RpcMetrics(CollectorRegistry()),
    )
    async with channel:
        yield channel
