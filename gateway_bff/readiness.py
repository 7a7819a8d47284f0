"""Whether the gateway can do its work: search answers over the mesh."""

import grpc
from grpc_health.v1.health_pb2 import (  # type: ignore[import-untyped]  # it has no stubs
    HealthCheckRequest,
    HealthCheckResponse,
)
from grpc_health.v1.health_pb2_grpc import (  # type: ignore[import-untyped]  # it has no stubs
    HealthStub,
)

_SERVICE = "flights.search.v1.SearchService"


class Readiness:
    """Asks search for its health through the mesh, as requests would reach it.

    An endpoint is only known from Consul, so whoever answers was found there.
    """

    def __init__(self, search: grpc.aio.Channel) -> None:
        self._health = HealthStub(search)

    async def __call__(self) -> bool:
        """Ask, within the current deadline."""
        try:
            answer = await self._health.Check(HealthCheckRequest(service=_SERVICE))
        except grpc.aio.AioRpcError:
            return False
        return bool(answer.status == HealthCheckResponse.SERVING)
