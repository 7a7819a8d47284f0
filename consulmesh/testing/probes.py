"""The probes of a fake Consul: real gRPC health calls and HTTP requests, over new connections."""

import asyncio
import random
import re
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any, Never

import aiohttp
import grpc
from grpc_health.v1 import (  # type: ignore[import-untyped]  # it has no stubs
    health_pb2,
    health_pb2_grpc,
)

UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
SHORTEST = 1.0  # seconds; Consul probes no more often

Report = Callable[[str, str], None]


async def probe_for_ever(definition: Mapping[str, Any], report: Report) -> Never:
    """Probe at the interval of a check's definition and report status and output each time."""
    interval = max(SHORTEST, seconds(definition.get("interval", "10s")))
    patience = seconds(definition.get("timeout", "10s"))
    probe, target = (
        (_grpc, definition["grpc"]) if "grpc" in definition else (_http, definition["http"])
    )
    await asyncio.sleep(random.uniform(0, interval))  # noqa: S311 - spreads the first probes
    while True:
        report(*await probe(target, patience))
        await asyncio.sleep(interval)


def seconds(duration: str) -> float:
    """Read a Go duration."""
    parts = re.findall(r"([\d.]+)(ms|s|m|h)", duration)
    return sum(float(number) * UNITS[unit] for number, unit in parts)


async def _grpc(target: str, patience: float) -> tuple[str, str]:
    address, _, service = target.partition("/")
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0)]
    async with grpc.aio.insecure_channel(address, options=options) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        try:
            answer = await stub.Check(
                health_pb2.HealthCheckRequest(service=service), timeout=patience
            )
        except grpc.aio.AioRpcError as error:
            return "critical", f"{error.code().name}: {error.details()}"
    if answer.status != health_pb2.HealthCheckResponse.SERVING:
        status = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
        return "critical", f"gRPC {target} serving status: {status}"
    return "passing", f"gRPC check {target}: success"


async def _http(target: str, patience: float) -> tuple[str, str]:
    limits = aiohttp.ClientTimeout(total=patience)
    try:
        async with aiohttp.ClientSession(timeout=limits) as session, session.get(target) as answer:
            status = answer.status
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        return "critical", f"{type(error).__name__}: {error}"
    output = f"HTTP GET {target}: {status}"
    if HTTPStatus.OK <= status < HTTPStatus.MULTIPLE_CHOICES:
        return "passing", output
    return ("warning" if status == HTTPStatus.TOO_MANY_REQUESTS else "critical"), output
