"""X2: whatever is sent to an RPC is served or refused as the client's fault, and leaves nothing."""

from collections.abc import Iterator
from typing import Any, Final

import grpc
import pytest
from grpc_reflection.v1alpha import (  # type: ignore[import-untyped]  # it has no stubs
    reflection_pb2,
)
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.chaos.figures import LONG, SHARE, at_most, figure
from tests.fuzz.attack import ANSWERED, PATIENCE, Attack
from tests.fuzz.examples import ROLES
from tests.fuzz.messages import TEXTS, requests, varint
from tests.fuzz.process import MEBIBYTE, SPARE
from tests.fuzz.rpcs import RPCS, Rpc

pytestmark = pytest.mark.timeout(0 if LONG else 600)

EXAMPLES: Final = int(5_000 * SHARE) if LONG else 40
LOOKS: Final = int(1_000 * SHARE) if LONG else 15  # at streams, each of which takes a moment
LARGEST: Final = 4 * MEBIBYTE  # that a server takes in one message
MARKS: Final = "\u0301\u0316".encode()  # what normalising takes longest for
ROUNDS: Final = 50 if LONG else 3
GROWTH: Final = 64 * MEBIBYTE
HEADERS: Final = (
    "authorization",
    "traceparent",
    "x-request-id",
    "mesh-criticality",
    "mesh-caller",
    "mesh-timeout",
    "mesh-no-retry",
)


def printable(text: str) -> str:
    """What a header may have of it: gRPC's own client sends nothing else."""
    return "".join(letter for letter in text if " " <= letter <= "~")[:1_000]


@st.composite
def metadata(draw: Any, good: Any) -> Any:
    """A user's metadata, nobody's, or any."""
    if draw(st.integers(0, 4)):
        return good
    values = st.sampled_from([printable(text) for text in TEXTS]) | st.text(
        st.characters(min_codepoint=32, max_codepoint=126)
    )
    return tuple(draw(st.dictionaries(st.sampled_from(HEADERS), values, max_size=4)).items())


@pytest.mark.parametrize("rpc", RPCS, ids=str)
def test_any_request_is_served_or_refused(attack: Attack, rpc: Rpc) -> None:
    """Right, nearly right, wrong or meaningless: it is never the server's error, and is gone."""
    octets = requests(rpc.request, attack.requests.get(rpc.request, []), attack.values)
    several = st.lists(octets, max_size=4) if rpc.method.client_streaming else st.tuples(octets)
    attack.process.defects()

    @settings(
        max_examples=LOOKS if rpc.method.server_streaming else EXAMPLES,
        suppress_health_check=[*HealthCheck],
        phases=(Phase.reuse, Phase.generate, Phase.shrink),
        print_blob=True,
    )
    @given(several, metadata(attack.process.user(*ROLES)))
    def answered(sent: Any, said: Any) -> None:
        assert attack.call(rpc, sent, said) in ANSWERED

    answered()
    attack.answers()
    after = attack.process.settled(attack.idle)

    assert attack.process.defects() == []
    assert after.tasks <= attack.idle.tasks + SPARE


@pytest.mark.parametrize("rpc", RPCS, ids=str)
def test_a_request_of_any_size_is_served_or_refused(attack: Attack, rpc: Rpc) -> None:
    """Full of what it does not know, of empty entries, or of text, up to the limit and beyond."""
    attack.process.defects()
    good = attack.process.user(*ROLES)
    too_large, *others = large(rpc)
    refused = attack.call(rpc, [too_large], good, look=PATIENCE)
    said = {attack.call(rpc, [octets], good) for octets in others}
    attack.answers()

    assert attack.process.defects() == []
    assert refused is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert said <= ANSWERED


def test_memory_is_flat(attack: Attack) -> None:
    """The same broken and large requests, again and again: memory does not grow with them."""
    octets = [b"\xff" * 100, *(b"\x78\x01" * size for size in (50, 50_000))]
    good = attack.process.user(*ROLES)

    def once() -> None:
        for rpc in RPCS:
            for request in octets:
                attack.call(rpc, [request], good)

    once()
    before = attack.process.state(collected=True)
    for _ in range(ROUNDS):
        once()
    after = attack.process.state(collected=True)
    growth, since = after.memory - before.memory, after.memory - attack.idle.memory
    figure(
        "X2",
        f"{attack.calls:,} calls of {len(RPCS)} RPCs: {dict(attack.codes.most_common())};"
        f" INTERNAL, UNKNOWN, UNAVAILABLE {at_most(attack.calls)};"
        f" memory {growth / MEBIBYTE:+.1f} MiB in the last {ROUNDS} rounds,"
        f" {since / MEBIBYTE:+.1f} MiB since the first call;"
        f" tasks {attack.idle.tasks} before, {after.tasks} after",
    )

    assert growth < GROWTH
    assert since < 4 * GROWTH


def large(rpc: Rpc) -> Iterator[bytes]:
    """Requests at the limit; the first is above."""
    unknown = varint(2_047 << 3) + b"\x01"
    yield unknown * (LARGEST // len(unknown) + 1)
    yield unknown * (LARGEST // len(unknown))
    for field in rpc.request.DESCRIPTOR.fields:
        tag = varint(field.number << 3 | 2)
        yield (tag + b"\0") * (LARGEST // (len(tag) + 1))
        length = (LARGEST - len(tag) - 4) // 4 * 4
        yield tag + varint(length) + b"x" * length
        yield tag + varint(length) + MARKS * (length // len(MARKS))


def test_every_rpc_is_attacked(attack: Attack) -> None:
    """The servers have no service, by their own word, that is not among those of these tests."""
    reflected: Any = reflection_pb2
    path = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
    asked = reflected.ServerReflectionRequest(list_services="").SerializeToString()
    for service in attack.process.ports:
        call: Any = attack.process.channel(service).stream_stream(path)
        (answer,) = call(iter([asked]), timeout=10)
        said = reflected.ServerReflectionResponse.FromString(answer).list_services_response
        theirs = {each.name for each in said.service}
        everywhere = {rpc.api for rpc in RPCS if not rpc.api.startswith(("flights.", "streams."))}
        own = {rpc.api for rpc in RPCS if rpc.service == service}

        assert theirs == own | everywhere
