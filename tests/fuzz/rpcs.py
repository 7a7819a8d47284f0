"""Every RPC of every service, from the descriptors of the protos that servers are made of."""

from dataclasses import dataclass
from typing import Any, Final

from envoy.service.status.v3 import csds_pb2
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from grpc_channelz.v1 import channelz_pb2
from grpc_health.v1 import health_pb2  # type: ignore[import-untyped]  # it has no stubs
from grpc_reflection.v1alpha import (  # type: ignore[import-untyped]  # it has no stubs
    reflection_pb2,
)
from xds.service.orca.v3 import orca_pb2

from flights.booking.v1 import booking_pb2
from flights.pricing.v1 import pricing_pb2
from flights.schedule.v1 import schedule_pb2
from flights.search.v1 import search_pb2
from streams.v1 import inbox_pb2

_SERVED: Final[dict[str, tuple[Any, ...]]] = {
    "schedule": (
        schedule_pb2,
        health_pb2,
        reflection_pb2,
        channelz_pb2,
        csds_pb2,
        orca_pb2,
    ),
    "pricing": (pricing_pb2, inbox_pb2),
    "booking": (booking_pb2, inbox_pb2),
    "flight-search": (search_pb2,),
}
"""What each server serves; what all of them serve is with the first."""


@dataclass(frozen=True, slots=True)
class Rpc:
    """A method as a mesh service serves it."""

    service: str
    method: MethodDescriptor

    def __str__(self) -> str:
        return f"{self.service}/{self.api.rpartition('.')[2]}.{self.method.name}"

    @property
    def api(self) -> str:
        """Full name of the service of the proto."""
        return str(self.method.containing_service.full_name)

    @property
    def path(self) -> str:
        """As in the header `:path`."""
        return f"/{self.api}/{self.method.name}"

    @property
    def request(self) -> type[Message]:
        """The class of its requests."""
        return GetMessageClass(self.method.input_type)

    @property
    def response(self) -> type[Message]:
        """The class of its responses."""
        return GetMessageClass(self.method.output_type)


RPCS: Final = tuple(
    Rpc(service, method)
    for service, modules in _SERVED.items()
    for module in modules
    for api in module.DESCRIPTOR.services_by_name.values()
    for method in api.methods
)
