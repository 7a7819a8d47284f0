"""What the gateway stands on: the four services, the keys of end users, and the mesh's health."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from consulmesh.topology import Topology
from consulmesh.users import User
from flights.booking.v1.booking_pb2_grpc import BookingServiceStub
from flights.pricing.v1.pricing_pb2_grpc import PricingServiceStub
from flights.schedule.v1.schedule_pb2_grpc import ScheduleServiceStub
from flights.search.v1.search_pb2_grpc import SearchServiceStub


class Verifier(Protocol):
    """Tells whose token it is."""

    async def verify(self, token: str | None) -> User:
        """The user; raises Unauthenticated, or Unavailable where nobody can say it now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Upstreams:
    """Everything behind the gateway. The channel of `booking` relays the user's token."""

    search: SearchServiceStub
    schedule: ScheduleServiceStub
    pricing: PricingServiceStub
    booking: BookingServiceStub
    users: Verifier
    is_reachable: Callable[[], Awaitable[bool]]
    """Whether search answers through the mesh, for which Consul must have been seen once."""
    topology: Callable[[], Awaitable[Topology]]
    """The whole mesh as Consul has it; raises consulmesh.consul_api.ConsulError."""
