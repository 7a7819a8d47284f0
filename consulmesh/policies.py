"""What decides whether a server does what it is asked: admission by load, authorization by peer."""

from collections.abc import Mapping
from typing import Any, Protocol

import grpc

from consulmesh.context import ContextSource
from consulmesh.propagation import Incoming

Metadata = tuple[tuple[str, str | bytes], ...]


class Peer(Protocol):
    """What is used of gRPC's servicer context, typed as it behaves."""

    async def abort(self, code: grpc.StatusCode, details: str, trailing: Metadata) -> None:
        """Sends an error, and raises."""

    async def send_initial_metadata(self, metadata: Metadata) -> None:
        """Sends the headers; once."""

    async def write(self, message: Any) -> None:
        """Sends a message of a stream."""

    def invocation_metadata(self) -> Metadata | None:
        """What the client sent."""

    def time_remaining(self) -> float | None:
        """Seconds; None without a deadline."""

    def trailing_metadata(self) -> Metadata:
        """What was set last."""

    def set_trailing_metadata(self, metadata: Metadata) -> None:
        """Sets what is sent with the status."""

    def code(self) -> grpc.StatusCode | None:
        """What the handler set, if it did."""

    def auth_context(self) -> Mapping[str, list[bytes]]:
        """What the transport proved about the peer."""


class Admission(Protocol):
    """Decides whether a call may start, by how much work there is already.

    Reading the call's context costs something: a policy does so when the answer depends on it.
    """

    def admit(self, method: str, call: Incoming) -> None:
        """Returns, or raises an error that the server's translation knows."""


class Authorization(Protocol):
    """Decides whether this peer may call this method ("package.Service/Method")."""

    def identify(self, peer: Peer) -> str:
        """Returns the service that calls, as the transport has proved; "" where it is none."""

    def authorize(self, method: str, caller: str, call: ContextSource, peer: Peer) -> None:
        """Returns, or raises PermissionDenied or Unauthenticated; `caller` is as identified."""
