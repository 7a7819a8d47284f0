"""Toxiproxy, for the rows that are about the network."""

from collections.abc import AsyncIterator

import pytest

from tests.chaos.mesh.toxiproxy import Toxiproxy, toxiproxy, toxiproxy_program


@pytest.fixture(scope="package")
async def toxics() -> AsyncIterator[Toxiproxy]:
    """One Toxiproxy for these rows."""
    if (program := toxiproxy_program()) is None:
        pytest.skip("there is neither a Toxiproxy (TOXIPROXY_BIN) nor a Go toolchain to build it")
    async with toxiproxy(program) as running:
        yield running
