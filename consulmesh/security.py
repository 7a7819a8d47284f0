"""The secure profile of a process: who it is, whom it believes, and who may call it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Self

import grpc

from consulmesh.catalog import Catalog
from consulmesh.config import MeshConfig
from consulmesh.connect_ca import ConsulAuthority
from consulmesh.consul_api import ConsulApi, Query
from consulmesh.identity import Identity
from consulmesh.intentions import IntentionAuthorization
from consulmesh.watch import Watch


class Security:
    """Made by `joined`, which follows the intentions for its block.

    `identity` is for the process to keep.
    """

    def __init__(self, identity: Identity, authorization: IntentionAuthorization) -> None:
        self.identity = identity
        self.authorization = authorization

    @classmethod
    @asynccontextmanager
    async def joined(
        cls, service: str, config: MeshConfig, consul: ConsulApi, catalog: Catalog, folder: Path
    ) -> AsyncIterator[Self]:
        """Have what it takes for the block; nothing waits for Consul."""
        roots = config.consul_roots.read_bytes() if config.consul_roots else None

        async def datacenter() -> str:
            return str((await catalog.known(service)).chain["Datacenter"])

        async with ConsulAuthority(config.consul_grpc, config.consul_token, roots) as authority:
            address = config.advertised if config.address_signed else None
            identity = Identity(service, datacenter, folder, authority, address=address)
            authorization = IntentionAuthorization(service, lambda: identity.domains)
            watch = Watch(consul, Query.intentions(service), authorization.changed)
            watch.start()
            try:
                yield cls(identity, authorization)
            finally:
                await watch.aclose()

    async def ready(self) -> None:
        """Wait for a certificate."""
        await self.identity.ready.wait()

    def domains(self) -> Sequence[str]:
        """Return the trust domains, none before they are known."""
        return self.identity.domains

    def channel_credentials(self) -> grpc.ChannelCredentials:
        """Return credentials of a channel over xDS, whose clusters say whom to believe.

        Where one did not, nobody of the mesh would be believed.
        """
        return grpc.xds_channel_credentials(grpc.ssl_channel_credentials())
