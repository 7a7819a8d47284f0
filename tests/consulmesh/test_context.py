import asyncio
import time
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consulmesh.context import (
    CallContext,
    Criticality,
    TraceContext,
    current,
    remaining,
    use,
    within,
)
from consulmesh.propagation import extract, inject

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
SPAN = "00f067aa0ba902b7"


def test_outside_any_call_each_context_is_fresh() -> None:
    """Work that no call asked for has no deadline, and a trace of its own each time."""
    first, second = current(), current()

    assert first.deadline is None
    assert first.trace.trace_id != second.trace.trace_id
    assert first.request_id == first.trace.trace_id


def test_a_context_is_current_within_its_block_only() -> None:
    """Leaving the block, also by an error, brings the outer context back."""
    outer, inner = CallContext.fresh(), CallContext.fresh()

    with use(outer):
        with suppress(ZeroDivisionError), use(inner):
            within_block = current()
            raise ZeroDivisionError
        after_block = current()

    assert (within_block, after_block) == (inner, outer)


async def test_tasks_of_a_call_inherit_its_context() -> None:
    """What a handler starts belongs to the call; what runs beside it does not."""
    context = CallContext.fresh()

    async def seen() -> CallContext:
        return current()

    beside = asyncio.create_task(seen())
    with use(context):
        inside = asyncio.create_task(seen())

    assert await inside is context
    assert await beside is not context


def test_a_deadline_can_only_be_narrowed() -> None:
    """The nearer of two deadlines counts, and the outer one is back after the block."""
    with within(1.0):
        with within(100.0):
            far = remaining()
        with within(0.1):
            near = remaining()

    assert far is not None
    assert 0.9 < far <= 1.0
    assert near is not None
    assert 0 < near <= 0.1
    assert remaining() is None


def test_nothing_remains_after_the_deadline() -> None:
    """The remaining time is never negative."""
    with use(CallContext(deadline=time.monotonic() - 5, request_id="r")):
        assert remaining() == 0.0


def test_a_token_is_not_in_the_representation() -> None:
    """A context may be logged without giving the user's token away."""
    assert "secret" not in repr(CallContext(request_id="r", token="secret"))


def test_a_traceparent_survives_the_round_trip() -> None:
    """What is well-formed is taken over, sampled or not."""
    header = f"00-{TRACE}-{SPAN}-01"

    assert TraceContext.parse(header) == TraceContext(TRACE, SPAN, sampled=True)
    assert TraceContext.parse(header).traceparent() == header
    assert not TraceContext.parse(header[:-1] + "0").sampled
    assert TraceContext.parse(header[:-2] + "fd").sampled


def test_a_child_is_a_new_span_of_the_same_trace() -> None:
    """Trace and sampling stay, the span is new."""
    parent = TraceContext(TRACE, SPAN, sampled=False)
    child = parent.child()

    assert (child.trace_id, child.sampled) == (TRACE, False)
    assert child.span_id != SPAN
    assert TraceContext.parse(child.traceparent()) == child


def test_joining_a_trace_is_parsing_it_and_taking_a_child() -> None:
    """The shorter way gives the same, also where there is nothing to join."""
    joined = TraceContext.joined(f"00-{TRACE}-{SPAN}-00")

    assert (joined.trace_id, joined.sampled) == (TRACE, False)
    assert joined.span_id != SPAN
    assert TraceContext.joined("garbage").trace_id != TRACE
    assert TraceContext.joined(None).trace_id != TRACE


def test_a_later_version_of_traceparent_is_read_as_far_as_it_is_known() -> None:
    """As W3C Trace Context demands, parts that are added later do not matter."""
    assert TraceContext.parse(f"01-{TRACE}-{SPAN}-01-more").trace_id == TRACE


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "garbage",
        f"00-{TRACE}-{SPAN}",
        f"00-{TRACE}-{SPAN}-01-more",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{TRACE[:-1]}_-{SPAN}-01",
        f"00-{TRACE}-{SPAN}- 1",
        f"00_{TRACE}_{SPAN}_01",
        f"00-{TRACE[:-1]}é-{SPAN}-01",
    ],
)
def test_a_traceparent_that_is_not_well_formed_starts_a_new_trace(header: str | None) -> None:
    """Nothing of a broken header is believed."""
    trace = TraceContext.parse(header)

    assert trace.trace_id != TRACE
    assert TraceContext.parse(trace.traceparent()) == trace


@given(st.text(max_size=80))
def test_no_traceparent_is_an_error(header: str) -> None:
    """Whatever a peer sends, there is a trace that can be sent on."""
    trace = TraceContext.parse(header)

    assert TraceContext.parse(trace.traceparent()) == trace


@pytest.mark.parametrize("criticality", list(Criticality))
@pytest.mark.parametrize("request_id", [TRACE, "req-7"])
def test_a_context_survives_the_wire(criticality: Criticality, request_id: str) -> None:
    """Trace, request id and criticality arrive, also where they were left out as the default."""
    sent = CallContext(
        trace=TraceContext(TRACE, SPAN), request_id=request_id, criticality=criticality
    )
    received = extract(inject(sent, caller="booking", relay_token=False), 1.5)

    assert received.trace.trace_id == TRACE
    assert received.trace.span_id != SPAN
    assert received.request_id == request_id
    assert received.criticality is criticality
    assert received.caller == "booking"
    assert received.deadline is not None


@pytest.mark.parametrize(("relay", "token"), [(True, "abc"), (False, None)])
def test_a_token_travels_only_where_asked(relay: bool, token: str | None) -> None:  # noqa: FBT001 - a parameter of the test
    """The end user's token is for those upstreams that the service names."""
    sent = CallContext(request_id="r", token="abc")
    received = extract(inject(sent, caller="gateway", relay_token=relay), None)

    assert received.token == token


@pytest.mark.parametrize("scheme", ["Bearer ", "bearer ", "BEARER  "])
def test_the_scheme_of_a_token_is_case_insensitive(scheme: str) -> None:
    """As RFC 9110 has it; other schemes carry nothing for us."""
    assert extract([("authorization", f"{scheme}abc")], None).token == "abc"
    assert extract([("authorization", "Basic abc")], None).token is None
    assert extract([("authorization", "Bearer ")], None).token is None


@given(
    st.dictionaries(
        st.sampled_from(
            ["traceparent", "x-request-id", "mesh-criticality", "mesh-caller", "authorization"]
        ),
        st.text(max_size=200) | st.binary(max_size=50),
    )
)
def test_no_metadata_is_an_error(metadata: dict[str, str | bytes]) -> None:
    """Whatever a peer sends, the context is one that can be logged and sent on."""
    context = extract(tuple(metadata.items()), None)

    for text in (context.request_id, context.caller or "x"):
        assert text.isascii()
        assert text.isprintable()
        assert 0 < len(text) <= 128
