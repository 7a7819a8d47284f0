"""How loaded a server is, as it tells clients that balance by it (ORCA, gRFC A51 and A58).

gRPC's weighted round robin gives an instance calls in proportion to its calls a second divided by
its utilization. What is told as utilization is how many calls were in the server on average, so
that by Little's law the weight is one divided by how long a call stays: an instance of half the
speed gets half of the calls, whatever made it slow, and all have the same number under way.

Told out of band, on one stream of each client's connection: no call pays for it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

import grpc
from xds.data.orca.v3 import orca_load_report_pb2
from xds.service.orca.v3 import orca_pb2

from consulmesh.validation import faults
from consulmesh.wellknown import span

_report_pb2: Any = orca_load_report_pb2
_orca_pb2: Any = orca_pb2

SERVICE: Final = "xds.service.orca.v3.OpenRcaService"
_LEAST_INTERVAL: Final = timedelta(milliseconds=100)
_DEFAULT_INTERVAL: Final = timedelta(seconds=1)
_FAILURE_SECONDS: Final = 1.0
"""What a call counts for that the server failed: failing fast must not look like being fast."""

_FAILURES: Final = frozenset(
    code.name
    for code in (
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.DATA_LOSS,
    )
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """The counters at a moment: two of them make a report."""

    at: float
    stayed: float
    ended: int
    failed: int
    cpu: float


class Load:
    """How many calls are in a server, and for how long they stay.

    Calls without an end (streams without a deadline) are no part of it. State: how many are in, the
    seconds that all have stayed so far, since when that is not counted, and how many ended and
    failed.
    """

    __slots__ = ("_clock", "_cpu", "_ended", "_failed", "_in", "_since", "_stayed")

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        cpu: Callable[[], float] = time.process_time,
    ) -> None:
        self._clock = clock
        self._cpu = cpu
        self._in = 0
        self._since = clock()
        self._stayed = 0.0
        self._ended = 0
        self._failed = 0

    def __repr__(self) -> str:
        return f"<Load in={self._in} ended={self._ended} failed={self._failed}>"

    def began(self, now: float, waited: float | None) -> None:
        """A call was taken up that had waited so many seconds, where that is known."""
        self._stayed += self._in * (now - self._since) + (waited or 0.0)
        self._since = now
        self._in += 1

    def ended(self, now: float, code: str) -> None:
        """A call that began is over."""
        self._stayed += self._in * (now - self._since)
        self._since = now
        self._in -= 1
        self._ended += 1
        if code in _FAILURES:
            self._failed += 1
            self._stayed += _FAILURE_SECONDS

    def sample(self) -> Sample:
        """Return the counters now."""
        now = self._clock()
        return Sample(
            at=now,
            stayed=self._stayed + self._in * (now - self._since),
            ended=self._ended,
            failed=self._failed,
            cpu=self._cpu(),
        )


def report(before: Sample, after: Sample) -> Any:
    """Return the OrcaLoadReport of the time between two samples."""
    seconds = after.at - before.at
    return _report_pb2.OrcaLoadReport(
        application_utilization=(after.stayed - before.stayed) / seconds,
        cpu_utilization=(after.cpu - before.cpu) / seconds,
        rps_fractional=(after.ended - before.ended) / seconds,
        eps=(after.failed - before.failed) / seconds,
    )


def method_handlers(load: Load) -> dict[str, Any]:
    """Return the handlers of OpenRcaService for a server's load."""

    async def stream_core_metrics(request: Any, _context: object) -> AsyncIterator[Any]:
        with faults() as noted:
            wanted = noted.read("report_interval", span, request.report_interval)
        interval = max(wanted or _DEFAULT_INTERVAL, _LEAST_INTERVAL).total_seconds()
        before = load.sample()
        while True:
            await asyncio.sleep(interval)
            after = load.sample()
            yield report(before, after)
            before = after

    return {
        "StreamCoreMetrics": grpc.unary_stream_rpc_method_handler(
            stream_core_metrics,
            request_deserializer=_orca_pb2.OrcaLoadReportRequest.FromString,
            response_serializer=_report_pb2.OrcaLoadReport.SerializeToString,
        )
    }
