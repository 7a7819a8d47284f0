"""X2: who abuses HTTP/2 itself does not keep others from being served, and leaves nothing."""

import asyncio
import time
from typing import Any, Final

import pytest

from consulmesh.testing import running
from tests.chaos.figures import LONG, SHARE, figure
from tests.consulmesh.echo import SERVICE, add_echo
from tests.fuzz import http2
from tests.fuzz.attack import PATIENCE, Attack
from tests.fuzz.http2 import ABUSES, Abuse, sent
from tests.fuzz.neighbour import Neighbour
from tests.fuzz.process import MEBIBYTE, SPARE
from tests.fuzz.rpcs import RPCS

pytestmark = pytest.mark.timeout(0 if LONG else 600)

TIMES: Final = int(100_000 * SHARE) if LONG else 10_000
QUIET: Final = 0.3  # seconds without a word, after which nothing more is expected
GROWTH: Final = 64 * MEBIBYTE
ENDURED: Final = (
    http2.rapid_reset,
    http2.settings,
    http2.large_headers,
    http2.headers_without_end,
    http2.slow_headers,
    http2.windows,
    http2.window_of_a_stream,
    http2.forbidden_frames,
    http2.last_stream,
    http2.silence,
)
"""What core does not answer, not always, or only in time: it harms nobody else."""
GET_FLIGHT: Final = next(rpc for rpc in RPCS if rpc.method.name == "GetFlight")


def neighbour(attack: Attack) -> Neighbour:
    """A client that asks for a flight."""
    call: Any = attack.process.channel(GET_FLIGHT.service).unary_unary(GET_FLIGHT.path)
    return Neighbour(call, attack.requests[GET_FLIGHT.request][0].SerializeToString())


@pytest.mark.parametrize("abuse", ABUSES, ids=lambda abuse: abuse.__name__)
def test_others_are_served_meanwhile(attack: Attack, abuse: Abuse) -> None:
    """A client that breaks the rules is refused or endured; each call of another is answered."""
    attack.process.defects()
    with neighbour(attack) as before:
        time.sleep(QUIET)
    with neighbour(attack) as meanwhile:
        octets = abuse(GET_FLIGHT.path, TIMES)
        patience = 0 if abuse in ENDURED else PATIENCE
        outcome = sent(attack.process.ports[GET_FLIGHT.service], octets, QUIET, patience)
    after = attack.process.settled(attack.idle)
    attack.waits[abuse.__name__] = (before.p99, meanwhile.p99)

    assert set(meanwhile.codes) == {"OK"}
    assert outcome.refused or abuse in ENDURED
    assert attack.process.defects() == []
    assert after.tasks <= attack.idle.tasks + SPARE
    assert after.descriptors <= attack.idle.descriptors
    assert after.memory - attack.idle.memory < 4 * GROWTH


def test_abuse_leaves_no_memory(attack: Attack) -> None:
    """All of it twice more: the second time takes no more memory than the first."""
    port = attack.process.ports[GET_FLIGHT.service]

    def all_of_it() -> int:
        for abuse in ABUSES:
            sent(port, abuse(GET_FLIGHT.path, TIMES), QUIET)
        attack.process.settled(attack.idle)
        return attack.process.state(collected=True).memory

    first, second = all_of_it(), all_of_it()
    waits = "; ".join(
        f"{name} {before * 1e3:.0f} → {during * 1e3:.0f}"
        for name, (before, during) in attack.waits.items()
    )
    growth, since = second - first, second - attack.idle.memory
    figure(
        "X2",
        f"{len(ABUSES)} ways to abuse HTTP/2, {TIMES:,} times each: memory"
        f" {growth / MEBIBYTE:+.1f} MiB by the last time, {since / MEBIBYTE:+.1f} MiB in all;"
        f" another client's p99 in ms before and meanwhile, no call failed: {waits}",
    )

    assert growth < GROWTH


async def test_a_peer_that_never_says_the_first_word_is_left() -> None:
    """A connection on which nothing comes is cut: core waits for two minutes, here it is less."""
    patience = [("grpc.server_handshake_timeout_ms", 300)]
    async with running(add_echo(), options=patience) as (_, port):
        octets = http2.silence(f"/{SERVICE}/Unary", 1)
        outcome = await asyncio.to_thread(sent, port, octets, PATIENCE, PATIENCE)

    assert outcome.closed


async def test_a_peer_that_answers_no_ping_is_left() -> None:
    """One whose TCP alone is alive is cut; without a bound of ours core waits for a minute."""
    patience = [("grpc.keepalive_time_ms", 300), ("grpc.http2.ping_timeout_ms", 300)]
    async with running(add_echo(), options=patience) as (_, port):
        octets = http2.mute(f"/{SERVICE}/Unary", 1)
        outcome = await asyncio.to_thread(sent, port, octets, PATIENCE, PATIENCE)

    assert outcome.closed


@pytest.mark.skipif(not LONG, reason="takes a minute each: core's own patience")
@pytest.mark.parametrize(
    "abuse", [http2.headers_without_end, http2.slow_headers], ids=lambda abuse: abuse.__name__
)
async def test_a_peer_that_says_nothing_more_is_left(abuse: Abuse) -> None:
    """Who does not answer what every peer has to answer is cut, within two minutes."""
    async with running(add_echo()) as (_, port):
        octets = abuse(f"/{SERVICE}/Unary", 1)
        outcome = await asyncio.to_thread(sent, port, octets, 120, 120)

    assert outcome.closed
