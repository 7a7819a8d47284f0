"""What a server reports of its load, and how clients that balance by it share their calls."""

import asyncio
from collections import Counter
from contextlib import AsyncExitStack
from datetime import timedelta
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from xds.data.orca.v3 import orca_load_report_pb2
from xds.service.orca.v3 import orca_pb2

from consulmesh import load
from consulmesh.load import Load
from consulmesh.server import MeshServer
from tests.consulmesh.test_xds_clusters import balanced
from tests.consulmesh.xds_world import SERVICE, call, instance, upstream, world

_orca: Any = orca_pb2
_report: Any = orca_load_report_pb2


class Time:
    """A clock set by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        """Say what it was set to."""
        return self.now


def test_utilization_is_how_many_calls_are_in() -> None:
    """Two calls of one second within two, one of which had waited for half: 1.25 on average."""
    clock = Time()
    load_ = Load(clock, cpu=lambda: clock.now / 4)
    before = load_.sample()
    load_.began(clock.now, None)
    load_.began(clock.now, 0.5)
    clock.now += 1
    load_.ended(clock.now, "OK")
    load_.ended(clock.now, "NOT_FOUND")
    clock.now += 1
    report = load.report(before, load_.sample())

    assert report.application_utilization == pytest.approx(1.25)
    assert report.rps_fractional == pytest.approx(1.0)
    assert report.cpu_utilization == pytest.approx(0.25)
    assert report.eps == 0


def test_a_call_that_does_not_end_counts_all_the_time() -> None:
    """An instance where calls hang is loaded, although none of them is over."""
    clock = Time()
    load_ = Load(clock, cpu=lambda: 0.0)
    load_.began(clock.now, None)
    before = load_.sample()
    clock.now += 5
    report = load.report(before, load_.sample())

    assert (report.application_utilization, report.rps_fractional) == (1.0, 0.0)


@pytest.mark.parametrize(
    ("code", "failures"),
    [("OK", 0), ("NOT_FOUND", 0), ("UNAVAILABLE", 1), ("RESOURCE_EXHAUSTED", 1), ("UNKNOWN", 1)],
)
def test_failing_fast_is_not_being_fast(code: str, failures: int) -> None:
    """A call that the server failed counts as one that stayed for a second."""
    clock = Time()
    load_ = Load(clock, cpu=lambda: 0.0)
    before = load_.sample()
    load_.began(clock.now, None)
    load_.ended(clock.now, code)
    clock.now += 1
    report = load.report(before, load_.sample())

    assert (report.application_utilization, report.eps) == (failures, failures)


async def serve(stack: AsyncExitStack, seconds: float) -> int:
    """Run an instance whose calls take so long; returns its port."""

    async def get(_request: bytes, _context: object) -> bytes:
        await asyncio.sleep(seconds)
        return str(port).encode()

    server = MeshServer("echo", instance="echo/1", status_codes={})
    handler: Any = grpc.unary_unary_rpc_method_handler(get)
    server.add_registered_method_handlers(SERVICE, {"Get": handler})
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    stack.push_async_callback(server.stop, None)
    return port


async def test_reports_are_streamed() -> None:
    """Any ORCA client gets a report each interval that it asks for, with the calls of that time."""
    async with AsyncExitStack() as stack:
        port = await serve(stack, 0.01)
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(f"127.0.0.1:{port}"))
        request = _orca.OrcaLoadReportRequest(report_interval=timedelta(milliseconds=100))
        stream: Any = channel.unary_stream(
            f"/{load.SERVICE}/StreamCoreMetrics",
            request_serializer=_orca.OrcaLoadReportRequest.SerializeToString,
            response_deserializer=_report.OrcaLoadReport.FromString,
        )(request)
        idle = await stream.read()
        get: Any = channel.unary_unary(f"/{SERVICE}/Get")
        await asyncio.gather(*(get(b"") for _ in range(10)))
        busy = await stream.read()
        while not busy.rps_fractional:
            busy = await stream.read()

    assert idle.rps_fractional == 0
    assert idle.application_utilization == 0
    assert busy.application_utilization > 0


async def test_a_slow_instance_gets_fewer_calls() -> None:
    """With least_request an instance of a fifth of the speed soon gets much less than the others.

    What is measured first is not believed for a second, and weights change twice a second.
    """
    async with AsyncExitStack() as stack:
        mesh = await stack.enter_async_context(world())
        channel = await stack.enter_async_context(mesh.channel())
        ports = [await serve(stack, seconds) for seconds in (0.02, 0.02, 0.1)]
        members = [instance(port) for port in ports]
        mesh.catalog.show(upstream(members, **balanced({"Policy": "least_request"})))
        async with asyncio.timeout(30):
            while (answers := await spread(channel))[str(ports[2])] > 20:
                pass

    assert answers.total() == 100
    assert min(answers[str(port)] for port in ports[:2]) > 25
    assert mesh.servicer.nacks.total() == 0


async def spread(channel: grpc.aio.Channel) -> Counter[str]:
    """Make a hundred calls, ten at once; return who answered how many."""
    answers: Counter[str] = Counter()
    for _ in range(10):
        answers.update(
            await asyncio.gather(*(call(channel, wait_for_ready=True) for _ in range(10)))
        )
    return answers


@pytest.mark.parametrize(
    "interval",
    [Duration(seconds=1, nanos=-1), Duration(seconds=2**63 - 1), Duration(nanos=2_000_000_000)],
)
async def test_an_interval_that_is_none_is_the_clients_fault(interval: Duration) -> None:
    """A Duration that no timedelta can hold is INVALID_ARGUMENT, not a defect of the server."""
    async with AsyncExitStack() as stack:
        port = await serve(stack, 0)
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(f"127.0.0.1:{port}"))
        stream: Any = channel.unary_stream(
            f"/{load.SERVICE}/StreamCoreMetrics",
            request_serializer=_orca.OrcaLoadReportRequest.SerializeToString,
        )(_orca.OrcaLoadReportRequest(report_interval=interval))
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await stream.read()

    assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
