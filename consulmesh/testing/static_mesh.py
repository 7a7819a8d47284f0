"""A member of a mesh without Consul: its upstreams are where it was told that they are."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Final, Self

import grpc

from consulmesh.channel import CHANNEL_OPTIONS, MeshChannel
from consulmesh.config import MeshConfig
from consulmesh.member import Member
from consulmesh.registration import Check

_OPTIONS: Final[tuple[tuple[str, Any], ...]] = (
    *CHANNEL_OPTIONS,
    ("grpc.service_config", '{"loadBalancingConfig": [{"round_robin": {}}]}'),
    # one that was restarted at its address is found within a moment
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 200),
)


class StaticMesh(Member):
    """Instance `slot` of a service; `targets` are gRPC's, by upstream, and never change.

    Calls go round all addresses of a target such as `ipv4:127.0.0.1:4001,127.0.0.1:4002`. `serving`
    is set as long as Consul would list the process.

        async with StaticMesh("booking", {"pricing": "127.0.0.1:4001"}) as mesh:
            await mesh.serve(server)
    """

    def __init__(
        self,
        service: str,
        targets: Mapping[str, str],
        *,
        slot: int = 1,
        config: MeshConfig | None = None,
    ) -> None:
        config = config or MeshConfig(version="0.0.0", metrics_port=None)
        super().__init__(service, config, instance_id=f"{service}-{slot}", slot=slot)
        self.serving = asyncio.Event()
        self._targets = targets

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Raises JobFailedError where a background job failed and the block did not."""
        await self.aclose()
        if error is None:
            self._jobs.check()

    def _connected(self, upstream: str, *, relay_token: bool, hedged: bool) -> MeshChannel:
        return MeshChannel(
            grpc.aio.insecure_channel(self._targets[upstream], options=_OPTIONS),
            upstream=upstream,
            caller=self.service,
            relay_token=relay_token,
        )

    @asynccontextmanager
    async def _listed(
        self, port: int, check: Check, meta: Mapping[str, str]
    ) -> AsyncIterator[None]:
        self.serving.set()
        try:
            yield
        finally:
            self.serving.clear()
