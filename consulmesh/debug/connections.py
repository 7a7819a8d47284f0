"""The connections that a process has to an upstream, as channelz says.

gRPC core tells nobody whom outlier detection has ejected: it stays connected and gets no calls, so
calls are counted twice, a moment apart.
"""

import asyncio
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import unquote

import grpc
from grpc_channelz.v1 import channelz_pb2, channelz_pb2_grpc

from consulmesh.debug.asking import DEADLINE, METADATA
from consulmesh.debug.reading import ClusterRead, ConfigRead

_channelz: Any = channelz_pb2
_OUTLIERS: Final = "outlier_detection"
_ENOUGH: Final = 5
"""Calls that an endpoint should have had by its weight before it is odd that it had none."""
_READY: Final = "READY"
_TRACE: Final = "\n=== Source"  # of gRPC core's own code, behind the reason of a failure


@dataclass(frozen=True, slots=True, kw_only=True)
class Connection:
    """An endpoint in a process, or an address that it is still connected to.

    `calls` and `failed` count since it was first connected to, `recent` within the window;
    `calls` is None where there is no connection to it, nor an attempt. Addresses that several
    upstreams share are counted for all of them together.
    """

    address: str
    instance: str
    cluster: str
    priority: int | None
    share: float
    state: str
    calls: int | None
    failed: int
    recent: int
    remark: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """The channels to one upstream at a moment, and their subchannels, by id."""

    channels: Mapping[int, Any]
    subchannels: Mapping[int, Any]


async def sample(channel: grpc.aio.Channel, upstream: str) -> Sample:
    """Count the calls to an upstream up to now; raises AioRpcError."""
    stub: Any = channelz_pb2_grpc.ChannelzStub(channel)  # type: ignore[no-untyped-call]  # it has no types
    channels: dict[int, Any] = {}
    start, end = 0, False
    while not end:
        page = await stub.GetTopChannels(
            _channelz.GetTopChannelsRequest(start_channel_id=start),
            timeout=DEADLINE,
            metadata=METADATA,
        )
        found = {each.ref.channel_id: each for each in page.channel}
        channels |= {i: each for i, each in found.items() if _is_to(each, upstream)}
        start, end = max(found, default=0) + 1, page.end or not found
    refs = {ref.subchannel_id for each in channels.values() for ref in each.subchannel_ref}
    answers = await asyncio.gather(*(_subchannel(stub, ref) for ref in sorted(refs)))
    return Sample(
        channels=channels,
        subchannels={each.ref.subchannel_id: each for each in answers if each is not None},
    )


async def _subchannel(stub: Any, number: int) -> Any:
    """Return a subchannel, None where it is gone since it was named."""
    try:
        response = await stub.GetSubchannel(
            _channelz.GetSubchannelRequest(subchannel_id=number),
            timeout=DEADLINE,
            metadata=METADATA,
        )
    except grpc.aio.AioRpcError as error:
        if error.code() is grpc.StatusCode.NOT_FOUND:
            return None
        raise
    return response.subchannel


def _is_to(channel: Any, upstream: str) -> bool:
    return bool(channel.data.target == f"xds:///{upstream}")


def connections(
    config: ConfigRead, before: Sample, after: Sample, names: Mapping[str, str]
) -> Iterator[Connection]:
    """Yield the endpoints cluster by cluster, then what else there are connections to."""
    begun = _calls(before.subchannels.values())
    subchannels = _by_address(after.subchannels.values())
    ended = _calls(after.subchannels.values())
    recent = {address: max(0, calls - begun.get(address, 0)) for address, calls in ended.items()}
    for cluster in config.clusters:
        for endpoint in cluster.endpoints or ():
            found = subchannels.get(endpoint.address, ())
            yield _connection(
                endpoint.address,
                found,
                names,
                recent.get(endpoint.address, 0),
                cluster=cluster.name,
                priority=endpoint.priority,
                share=endpoint.share,
                remark=_not_picked(cluster, endpoint.address, recent),
            )
    listed = {e.address for cluster in config.clusters for e in cluster.endpoints or ()}
    for address in sorted(subchannels.keys() - listed):
        yield _connection(
            address,
            subchannels[address],
            names,
            recent.get(address, 0),
            cluster="",
            priority=None,
            share=0.0,
            remark="not an endpoint any more",
        )


def _connection(
    address: str,
    subchannels: Sequence[Any],
    names: Mapping[str, str],
    recent: int,
    *,
    cluster: str,
    priority: int | None,
    share: float,
    remark: str,
) -> Connection:
    states = sorted({state(each.data) for each in subchannels})
    decisive = _READY if _READY in states else ", ".join(states)
    remarks = [
        "" if address in names else "not in Consul",
        _failure(subchannels[-1]) if subchannels and decisive != _READY else "",
        remark if decisive == _READY else "",
    ]
    return Connection(
        address=address,
        instance=names.get(address, ""),
        cluster=cluster,
        priority=priority,
        share=share,
        state=decisive,
        calls=sum(each.data.calls_started for each in subchannels) if subchannels else None,
        failed=sum(each.data.calls_failed for each in subchannels),
        recent=recent,
        remark="; ".join(filter(None, remarks)),
    )


def _not_picked(cluster: ClusterRead, address: str, recent: Mapping[str, int]) -> str:
    """Say so where an endpoint got none of the calls that by its weight it should have."""
    endpoints = cluster.endpoints or ()
    (itself, *_) = (each for each in endpoints if each.address == address)
    rivals = {each.address for each in endpoints if each.priority == itself.priority}
    due = itself.share * sum(recent.get(rival, 0) for rival in rivals)
    if recent.get(address, 0) or due < _ENOUGH:
        return ""
    return "not picked: ejected?" if _OUTLIERS in cluster.settings else "not picked"


def _by_address(subchannels: Iterable[Any]) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for each in subchannels:
        # a URI whose scheme says the family; the brackets of IPv6 are escaped
        address = unquote(each.data.target).partition(":")[2]
        found.setdefault(address, []).append(each)
    return found


def _calls(subchannels: Iterable[Any]) -> dict[str, int]:
    return {
        address: sum(each.data.calls_started for each in found)
        for address, found in _by_address(subchannels).items()
    }


def state(data: Any) -> str:
    """Return the connectivity state of a channel or subchannel by its name."""
    return str(_channelz.ChannelConnectivityState.State.Name(data.state.state))


def _failure(subchannel: Any) -> str:
    """Return why the last attempt to connect failed, as channelz traced it."""
    for event in reversed(subchannel.data.trace.events):
        _, failed, why = event.description.partition("TRANSIENT_FAILURE: ")
        if failed:
            return " ".join(str(why.partition(_TRACE)[0]).split())
    return ""
