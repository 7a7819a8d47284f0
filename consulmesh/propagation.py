"""The context of a call as gRPC metadata: `extract` on the server, `inject` on the client.

The deadline is not among it: gRPC carries that itself (`grpc-timeout`). What a peer sends is
untrusted; values that are not well-formed are replaced, never refused.
"""

import time
from collections.abc import Iterable
from typing import Final

from consulmesh.context import CallContext, Criticality, TraceContext

TRACEPARENT: Final = "traceparent"
REQUEST_ID: Final = "x-request-id"
CRITICALITY: Final = "mesh-criticality"
CALLER: Final = "mesh-caller"
AUTHORIZATION: Final = "authorization"
INSTANCE: Final = "mesh-instance"

_BEARER = "bearer "
_LONGEST_ID = 128
_CRITICALITIES = {criticality.value: criticality for criticality in Criticality}


def extract(
    metadata: Iterable[tuple[str, str | bytes]], time_remaining: float | None
) -> CallContext:
    """The context of an incoming call, with a span of its own."""
    pairs: dict[str, str] = dict(metadata)  # type: ignore[arg-type]  # our keys are text: only "-bin" keys carry bytes
    trace = TraceContext.parse(pairs.get(TRACEPARENT)).child()
    return CallContext(
        deadline=None if time_remaining is None else time.monotonic() + time_remaining,
        trace=trace,
        request_id=_identifier(pairs.get(REQUEST_ID)) or trace.trace_id,
        criticality=_CRITICALITIES.get(pairs.get(CRITICALITY, ""), Criticality.CRITICAL),
        token=_bearer_token(pairs.get(AUTHORIZATION)),
        caller=_identifier(pairs.get(CALLER)),
    )


def inject(context: CallContext, *, caller: str, relay_token: bool) -> tuple[tuple[str, str], ...]:
    """The metadata of an outgoing call, which is a new span."""
    pairs = (
        (TRACEPARENT, context.trace.child().traceparent()),
        (REQUEST_ID, context.request_id),
        (CRITICALITY, context.criticality.value),
        (CALLER, caller),
    )
    if relay_token and context.token is not None:
        return (*pairs, (AUTHORIZATION, f"Bearer {context.token}"))
    return pairs


def _identifier(value: str | None) -> str | None:
    """The value when it can stand in a log line and in a header as it is."""
    if value and len(value) <= _LONGEST_ID and value.isascii() and value.isprintable():
        return value
    return None


def _bearer_token(value: str | None) -> str | None:
    if value is None or value[: len(_BEARER)].lower() != _BEARER:
        return None
    return value[len(_BEARER) :].strip() or None
