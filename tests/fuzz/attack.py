"""One call as the attack makes it, and what may come back."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

import grpc
from google.protobuf.message import Message

from tests.fuzz import examples, messages
from tests.fuzz.messages import Known
from tests.fuzz.process import Process, State
from tests.fuzz.rpcs import RPCS, Rpc

ANSWERED: Final = frozenset(
    {
        grpc.StatusCode.OK,
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.OUT_OF_RANGE,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
    }
)
"""What a healthy server says to a request, whatever it is."""
NOT_WRITTEN: Final = ("/grpc.health.v1.Health/List",)
"""Methods that gRPC's own servicers leave out."""

PATIENCE: Final = 20.0  # seconds for an answer; none takes that long
A_LOOK: Final = 0.05  # seconds for a stream: most of them begin at once, and have no end
_WAIT: Final = 0.3  # seconds where the request asks to wait for what may never be
_GOOD: Final = ("GetFlight", "GetPrices", "GetBooking", "SearchItineraries")
_TAKEN: Final = 4  # messages of a stream


@dataclass
class Attack:
    """Calls of a process with what Python's messages and others cannot say.

    State: what the process had before, how many calls were made, what came back, and how
    long another client waited before and during each abuse.
    """

    process: Process
    idle: State = field(init=False)
    requests: dict[type[Message], list[Message]] = field(default_factory=dict)
    values: Known = field(default_factory=dict)
    calls: int = 0
    codes: Counter[str] = field(default_factory=Counter)
    waits: dict[str, tuple[float, float]] = field(default_factory=dict)

    def prepare(self) -> None:
        """Make what examples are about."""
        rpc_of = {rpc.request: rpc for rpc in RPCS}
        asked, answers = examples.served(
            lambda request: self._asked(rpc_of[type(request)], request)
        )
        for request in asked:
            self.requests.setdefault(type(request), []).append(request)
        self.values = messages.known([*asked, *answers])
        self.answers()
        self.idle = self.process.state(collected=True)

    def call(
        self, rpc: Rpc, octets: Sequence[bytes], metadata: Any = (), look: float = A_LOOK
    ) -> grpc.StatusCode:
        """Send these requests to a method (one, unless it takes a stream); how it ended.

        A stream that goes on is left after a look.
        """
        self.calls += 1
        channel: Any = self.process.channel(rpc.service)
        if rpc.method.client_streaming:
            stream = channel.stream_stream(rpc.path)
            code = _streamed(rpc, stream(iter(octets), timeout=look, metadata=metadata))
        elif rpc.method.server_streaming:
            stream = channel.unary_stream(rpc.path)
            code = _streamed(rpc, stream(octets[0], timeout=look, metadata=metadata))
        else:
            waits = may_wait(rpc, octets[0])
            call = partial(channel.unary_unary(rpc.path), octets[0], metadata=metadata)
            code = _unary(rpc, call, _WAIT if waits else PATIENCE)
            if waits and code is grpc.StatusCode.DEADLINE_EXCEEDED:
                code = grpc.StatusCode.OK
        self.codes[code.name] += 1
        if code is grpc.StatusCode.UNIMPLEMENTED and rpc.path in NOT_WRITTEN:
            return grpc.StatusCode.INVALID_ARGUMENT
        return code

    def answers(self) -> None:
        """Make a good call of each service; raises where it is not answered."""
        for rpc in RPCS:
            if rpc.method.name in _GOOD:
                self._asked(rpc, self.requests[rpc.request][0])

    def _asked(self, rpc: Rpc, request: Message) -> Message:
        metadata = self.process.user(*examples.ROLES)
        make: Any = self.process.channel(rpc.service).unary_unary(rpc.path)
        octets = make(request.SerializeToString(), timeout=PATIENCE, metadata=metadata)
        return rpc.response.FromString(octets)


def may_wait(rpc: Rpc, octets: bytes) -> bool:
    """Whether a request asks search to wait for a position, which it then does until the end."""
    if rpc.service != "flight-search" or rpc.method.server_streaming:
        return False
    try:
        request: Any = rpc.request.FromString(octets)
    except Exception:  # noqa: BLE001 - whatever it is, it waits for nothing
        return False
    return bool(getattr(request, "min_positions", ()))


def _unary(rpc: Rpc, call: Callable[..., bytes], timeout: float) -> grpc.StatusCode:
    try:
        rpc.response.FromString(call(timeout=timeout))
    except grpc.RpcError as error:
        return _code(error)
    return grpc.StatusCode.OK


def _streamed(rpc: Rpc, call: Any) -> grpc.StatusCode:
    try:
        for _, octets in zip(range(_TAKEN), call, strict=False):
            rpc.response.FromString(octets)
    except grpc.RpcError as error:
        code = _code(error)
        return grpc.StatusCode.OK if code is grpc.StatusCode.DEADLINE_EXCEEDED else code
    finally:
        call.cancel()
    return grpc.StatusCode.OK


def _code(error: Any) -> grpc.StatusCode:
    code: grpc.StatusCode = error.code()
    return code
