"""The context of a call as gRPC metadata: `extract` on the server, `inject` on the client.

The deadline is not among it: gRPC carries that itself (`grpc-timeout`), but hides it, so that the
timeout as it was sent is said once more. What the receiver would assume anyway is not sent: the
request id of a call is that of its trace, and its criticality is "critical", unless it says
otherwise. What a peer sends is untrusted: values that are not well-formed are replaced, never
refused.
"""

import re
import time
from collections.abc import Iterable
from typing import Final

from consulmesh.context import CallContext, Criticality, TraceContext

TRACEPARENT: Final = "traceparent"
BAGGAGE: Final = "baggage"
"""W3C Baggage, carried as it came: routes match it, so that a preview holds on every hop."""
REQUEST_ID: Final = "x-request-id"
CRITICALITY: Final = "mesh-criticality"
CALLER: Final = "mesh-caller"
AUTHORIZATION: Final = "authorization"
INSTANCE: Final = "mesh-instance"
TIMEOUT: Final = "mesh-timeout"
"""The call's timeout as its client sent it, in milliseconds."""
NO_RETRY: Final = "mesh-no-retry"
"""A call that carries it is tried once, by gRPC core's routes: the retry budget is empty."""
_ATTEMPTS: Final = "grpc-previous-rpc-attempts"

_BEARER: Final = "bearer "
_LONGEST_ID: Final = 128
_LONGEST_BAGGAGE: Final = 1024
_MILLISECONDS: Final = re.compile("[0-9]{1,6}")  # beyond, gRPC core sends minutes and hours
_STEPS: Final = ((1_000, 1), (10_000, 10), (100_000, 100))
_EDGE: Final = 3  # milliseconds, more than gRPC core's clock may add to a timeout
_CRITICALITIES: Final = {criticality.value: criticality for criticality in Criticality}


class Incoming:
    """The context of an incoming call, read out of its metadata when somebody looks.

    Most handlers never do, and the log does so away from the event loop: reading is most of what
    a server would add to a call.

    `waited` is the seconds from when the client sent the call until it was taken up, None if
    unknown: the time in gRPC core's queue, and what the network took.
    """

    __slots__ = ("_context", "_metadata", "_remaining", "deadline", "waited")

    def __init__(
        self, metadata: Iterable[tuple[str, str | bytes]], remaining: float | None, now: float
    ) -> None:
        self.deadline = None if remaining is None else now + remaining
        self._remaining = remaining
        self._metadata = metadata
        self._context: CallContext | None = None
        self.waited = self._since_sent()

    def _since_sent(self) -> float | None:
        if self._remaining is None:
            return None
        get = dict(self._metadata).get
        sent = get(TIMEOUT)
        # the timeout of another attempt is less than that of the first, which is what was said
        if not isinstance(sent, str) or not _MILLISECONDS.fullmatch(sent) or get(_ATTEMPTS):
            return None
        return max(0.0, _on_the_wire(int(sent)) / 1000 - self._remaining)

    def read(self) -> CallContext:
        """The context, with a span of its own."""
        if self._context is None:
            # Two threads never do this at once: the log gets the call when its handler has ended.
            self._context = _read(self._metadata, self.deadline)
        return self._context


def sendable(timeout: float) -> int:
    """A timeout in milliseconds, not longer, of which is known what gRPC core will send.

    Core adds up to a millisecond and rounds up, and some time passes before: 10 s would be sent as
    10.1 s, or as 10 s. So what is near the edge of a step is moved to where one step is certain.
    """
    milliseconds = int(timeout * 1000)
    if milliseconds <= _STEPS[0][0] - _EDGE:  # sent as it is
        return milliseconds
    step = max(_step(milliseconds), _STEPS[1][1])
    beyond = milliseconds % step
    if _EDGE < beyond <= step - _EDGE:
        return milliseconds
    return milliseconds - beyond - _EDGE + (step if beyond > _EDGE else 0)


def _on_the_wire(milliseconds: int) -> int:
    """What gRPC core makes of a timeout: it rounds up to hundredths, as the time is a header."""
    step = _step(milliseconds)
    return -(-milliseconds // step) * step


def _step(milliseconds: int) -> int:
    for limit, step in _STEPS:
        if milliseconds < limit:
            return step
    return 1000


def extract(
    metadata: Iterable[tuple[str, str | bytes]], time_remaining: float | None
) -> CallContext:
    """The context of an incoming call of which so many seconds remain."""
    deadline = None if time_remaining is None else time.monotonic() + time_remaining
    return _read(metadata, deadline)


def _read(metadata: Iterable[tuple[str, str | bytes]], deadline: float | None) -> CallContext:
    get = dict(metadata).get
    trace = TraceContext.joined(_text(get(TRACEPARENT)))
    request_id, criticality, token = get(REQUEST_ID), get(CRITICALITY), get(AUTHORIZATION)
    return CallContext(
        deadline=deadline,
        trace=trace,
        request_id=(request_id and _identifier(request_id)) or trace.trace_id,
        criticality=_criticality(criticality) if criticality else Criticality.CRITICAL,
        token=_bearer_token(token) if token else None,
        baggage=_identifier(get(BAGGAGE), _LONGEST_BAGGAGE),
        caller=_identifier(get(CALLER)),
    )


def begin(*, caller: str) -> tuple[tuple[str, str], ...]:
    """The metadata of a call that no other asked for: what a fresh context would give."""
    return (TRACEPARENT, TraceContext.root().traceparent()), (CALLER, caller)


def inject(context: CallContext, *, caller: str, relay_token: bool) -> tuple[tuple[str, str], ...]:
    """The metadata of an outgoing call, which is a new span."""
    pairs: tuple[tuple[str, str], ...] = ((TRACEPARENT, context.trace.below()), (CALLER, caller))
    if context.request_id != context.trace.trace_id:
        pairs += ((REQUEST_ID, context.request_id),)
    if context.criticality is not Criticality.CRITICAL:
        pairs += ((CRITICALITY, context.criticality.value),)
    if context.baggage is not None:
        pairs += ((BAGGAGE, context.baggage),)
    if relay_token and context.token is not None:
        pairs += ((AUTHORIZATION, f"Bearer {context.token}"),)
    return pairs


def _text(value: str | bytes | None) -> str | None:
    """Keys that end in "-bin" have bytes as values; none of ours does, whatever a peer says."""
    return value if isinstance(value, str) else None


def _criticality(value: str | bytes) -> Criticality:
    return _CRITICALITIES.get(_text(value) or "", Criticality.CRITICAL)


def _identifier(value: str | bytes | None, longest: int = _LONGEST_ID) -> str | None:
    """The value when it can stand in a log line and in a header as it is."""
    if not isinstance(value, str) or not 0 < len(value) <= longest:
        return None
    return value if value.isascii() and value.isprintable() else None


def _bearer_token(value: str | bytes) -> str | None:
    if not isinstance(value, str) or value[: len(_BEARER)].lower() != _BEARER:
        return None
    return value[len(_BEARER) :].strip() or None
