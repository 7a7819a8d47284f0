"""What the calls of one method have in common before they are made: timeout, metadata, metrics."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

import grpc
from grpc import aio

from consulmesh.calls import code_of
from consulmesh.context import CURRENT, ContextSource, Criticality
from consulmesh.errors import Overloaded, Status
from consulmesh.metrics import MethodMetrics
from consulmesh.propagation import NO_RETRY, TIMEOUT, begin, inject, sendable
from consulmesh.throttling import RetryBudget, Throttle, Throttles

Metadata = aio.Metadata | Sequence[tuple[str, str | bytes]]
RouteTimeouts = Callable[[str], float | None]
"""Seconds that the upstream's routes allow a method ("/package.Service/Method"), if they say so."""

UNARY_TIMEOUT: Final = 5.0  # seconds, when neither caller, route nor deadline says anything
# What the answer needs to get back. gRPC rounds timeouts up by as much as a hundredth on the wire:
# with less, the innermost call would not be the first to time out.
_MARGIN_LEAST: Final = 0.005
_MARGIN_SHARE: Final = 0.01


class _Pairs(tuple[tuple[str, str | bytes], ...], aio.Metadata):  # type: ignore[misc]  # their methods differ; none is called
    """Pairs that gRPC takes for its Metadata, and only iterates over.

    To build what it would build of them costs more than everything else here.
    """

    __slots__ = ()


_pairs: Callable[[tuple[tuple[str, str | bytes], ...]], aio.Metadata] = partial(
    tuple.__new__, _Pairs
)


class Outgoing:
    """What the calls of one method have in common."""

    __slots__ = (
        "_caller",
        "_default",
        "_method",
        "_metrics",
        "_relay_token",
        "_retries",
        "_route_timeouts",
        "_throttles",
        "_upstream",
    )

    def __init__(
        self,
        method: str,
        default_timeout: float | None,
        *,
        upstream: str,
        route_timeouts: RouteTimeouts | None,
        caller: str,
        relay_token: bool,
        metrics: MethodMetrics,
        throttles: Throttles,
        retries: RetryBudget,
    ) -> None:
        self._method = method
        self._upstream = upstream
        self._default = default_timeout
        self._route_timeouts = route_timeouts
        self._caller = caller
        self._relay_token = relay_token
        self._metrics = metrics
        self._throttles = throttles
        self._retries = retries

    def prepare(
        self, timeout: float | None, metadata: Metadata | None
    ) -> tuple[float | None, aio.Metadata]:
        """Timeout and metadata of a call that is to be made now."""
        source = CURRENT.get()
        timeout = self._timeout(timeout, None if source is None else source.deadline)
        if timeout is not None and timeout <= 0:
            raise self._no_time_left()
        if source is None:
            pairs = begin(caller=self._caller)
        else:
            pairs = inject(source.read(), caller=self._caller, relay_token=self._relay_token)
        if timeout is not None:
            throttle = self._throttle(source)
            if throttle is not None and throttle.refuses():
                raise self._too_much()
            milliseconds = sendable(timeout)
            timeout = milliseconds / 1000 or timeout
            pairs += ((TIMEOUT, str(milliseconds)),)
        if self._retries.empty:
            pairs += ((NO_RETRY, "1"),)
        return timeout, _pairs(_merged(tuple(metadata), pairs) if metadata else pairs)

    def watch(self, call: aio.Call) -> None:
        """Measures a call that was just made."""
        self._metrics.started()
        throttle = self._throttle(CURRENT.get())
        call.add_done_callback(partial(self._ended, time.perf_counter(), throttle))

    def _ended(self, started: float, throttle: Throttle | None, call: aio.Call) -> None:
        code = code_of(call)
        self._retries.ended(failed=code is grpc.StatusCode.UNAVAILABLE)
        if throttle is not None:
            throttle.ended(refused=code is grpc.StatusCode.RESOURCE_EXHAUSTED)
        self._metrics.ended(code.name, time.perf_counter() - started)

    def _timeout(self, explicit: float | None, deadline: float | None) -> float | None:
        timeout = explicit
        if self._route_timeouts is not None:
            route = self._route_timeouts(self._method)
            if route is not None and (timeout is None or route < timeout):
                timeout = route
        if deadline is not None:
            left = deadline - time.monotonic()
            left -= max(_MARGIN_LEAST, left * _MARGIN_SHARE)
            if timeout is None or left < timeout:
                timeout = left
        return self._default if timeout is None else timeout

    def _throttle(self, source: ContextSource | None) -> Throttle | None:
        criticality = Criticality.CRITICAL if source is None else source.read().criticality
        return self._throttles.get(criticality)

    def _no_time_left(self) -> aio.AioRpcError:
        code = grpc.StatusCode.DEADLINE_EXCEEDED
        return self._not_made(code, f"No time is left to call {self._method}.")

    def _too_much(self) -> aio.AioRpcError:
        """As the upstream would say it."""
        status = Status(
            code=grpc.StatusCode.RESOURCE_EXHAUSTED,
            message=f"{self._upstream} has too much to do.",
            reason=Overloaded.reason,
            domain=self._upstream,
            retry_after=Overloaded.retry_after,
        )
        return self._not_made(status.code, status.message, aio.Metadata(*status.trailers()))

    def _not_made(
        self, code: grpc.StatusCode, details: str, trailers: aio.Metadata | None = None
    ) -> aio.AioRpcError:
        self._metrics.started()
        self._metrics.ended(code.name, 0.0)
        return aio.AioRpcError(code, aio.Metadata(), trailers or aio.Metadata(), details=details)


def _merged(
    own: tuple[tuple[str, str | bytes], ...], ours: tuple[tuple[str, str], ...]
) -> tuple[tuple[str, str | bytes], ...]:
    keys = {key for key, _ in own}
    return (*own, *(pair for pair in ours if pair[0] not in keys))
