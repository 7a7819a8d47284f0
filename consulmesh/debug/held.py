"""The resources that gRPC core holds in a process, and those that it refused (CSDS, gRFC A40)."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import grpc
from google.protobuf import any_pb2

from consulmesh.debug.asking import DEADLINE, METADATA
from consulmesh.debug.reading import enum_name
from consulmesh.xds.client_status import ClientStatusRequest, ClientStatusStub
from consulmesh.xds.messages import ResourceType
from consulmesh.xds.resources import Resources

NOT_HELD: Final = "NOT_HELD"


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """A resource in a process: gRPC core's status of it, and what it refused last, if it did.

    `as_consul`: what is in force is byte for byte what Consul says now.
    """

    type: str
    name: str
    status: str
    version: str
    updated: str
    as_consul: bool
    refused: str
    refused_version: str
    refused_at: str


async def held(channel: grpc.aio.Channel, upstream: str) -> Sequence[Any]:
    """Return what gRPC core holds of an upstream, as CSDS says it; raises AioRpcError."""
    response = await ClientStatusStub(channel).FetchClientStatus(
        ClientStatusRequest(), timeout=DEADLINE, metadata=METADATA
    )
    # gRPC core writes the target as a URI without an authority
    scopes = {f"xds:/{upstream}", f"xds:///{upstream}"}
    return [
        resource
        for config in response.config
        if config.client_scope in scopes
        for resource in config.generic_xds_configs
    ]


def in_force(held: Iterable[Any]) -> dict[ResourceType, dict[str, any_pb2.Any]]:
    """Return the resources that calls follow, also where a newer one was refused."""
    packed: dict[ResourceType, dict[str, any_pb2.Any]] = {type_: {} for type_ in ResourceType}
    for each in held:
        if each.type_url in packed and each.HasField("xds_config"):
            packed[ResourceType(each.type_url)][each.name] = each.xds_config
    return packed


def compared(held: Sequence[Any], consul: Resources) -> Iterator[Held]:
    """Yield what is held beside what Consul says now, and what should be held and is not.

    Nothing where core holds nothing at all: it asks for resources at the first call.
    """
    now = {
        (type_, name): packed for type_, by in consul.by_type.items() for name, packed in by.items()
    }
    for each in sorted(held, key=lambda each: (each.type_url, each.name)):
        said = now.pop((each.type_url, each.name), None)
        yield _resource(each, said)
    for type_, name in now if held else ():
        yield _resource(None, None, type_=type_, name=name)


def _resource(each: Any, said: any_pb2.Any | None, *, type_: str = "", name: str = "") -> Held:
    if each is None:
        return Held(
            type=type_.rpartition(".")[2],
            name=name,
            status=NOT_HELD,
            version="",
            updated="",
            as_consul=False,
            refused="",
            refused_version="",
            refused_at="",
        )
    refused = each.error_state
    return Held(
        type=each.type_url.rpartition(".")[2],
        name=each.name,
        status=enum_name(each, "client_status"),
        version=each.version_info,
        updated=_time(each, "last_updated"),
        as_consul=said is not None and each.xds_config.value == said.value,
        refused=refused.details,
        refused_version=refused.version_info,
        refused_at=_time(refused, "last_update_attempt"),
    )


def _time(message: Any, field: str) -> str:
    return getattr(message, field).ToJsonString() if message.HasField(field) else ""
