"""CSDS: what gRPC core holds of the xDS resources it was sent (gRFC A40), for who looks into it.

Part of gRPC's admin services (gRFC A38), beside channelz. It shows policy and addresses as Consul
has them, and which of them core refused; neither tokens nor calls.
"""

from collections.abc import AsyncIterator
from typing import Any

import grpc
from envoy.service.status.v3 import csds_pb2, csds_pb2_grpc
from grpc._cython import cygrpc

_messages: Any = csds_pb2
_services: Any = csds_pb2_grpc

SERVICE_NAME: str = _messages.DESCRIPTOR.services_by_name["ClientStatusDiscoveryService"].full_name
ClientStatusRequest = _messages.ClientStatusRequest
ClientStatusResponse = _messages.ClientStatusResponse
ClientStatusStub = _services.ClientStatusDiscoveryServiceStub
add_ClientStatusServicer_to_server = (  # noqa: N816 - as generated names are
    _services.add_ClientStatusDiscoveryServiceServicer_to_server
)


class ClientStatusServicer(_services.ClientStatusDiscoveryServiceServicer):  # type: ignore[misc]  # generated without types
    """Answers with all xDS targets of the process; a request's matchers are not looked at.

    The servicer of grpcio-csds does the same, for servers of threads only. A channel that was given
    a bootstrap of its own, which only tests do, is not among them.
    """

    async def FetchClientStatus(
        self, request: Any, context: grpc.aio.ServicerContext[Any, Any]
    ) -> Any:
        """Return what there is now."""
        return _status()

    async def StreamClientStatus(
        self, requests: AsyncIterator[Any], context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[Any]:
        """Yield what there is, for each request."""
        async for _ in requests:
            yield _status()


def _status() -> Any:
    return ClientStatusResponse.FromString(cygrpc.dump_xds_configs())
