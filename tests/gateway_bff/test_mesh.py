import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from consulmesh.consul_api import ConsulError
from consulmesh.instances import Instance, Status
from consulmesh.topology import Service, Topology
from gateway_bff import schemas
from gateway_bff.upstreams import Upstreams
from tests.gateway_bff.conftest import SETTINGS, Gateway, running_gateway
from tests.gateway_bff.fakes import Fakes

Bearer = Callable[..., dict[str, str]]
ROUTER = {"Routes": [{"Destination": {"NumRetries": 2}}]}


def instance(number: int, address: str, **meta: str) -> Instance:
    """An instance of booking."""
    return Instance(
        id=f"booking-{number}",
        address=address,
        port=41233,
        weight=1,
        version="0.1.0",
        status=Status.PASSING,
        meta=meta,
    )


FOUND = Topology(
    services=[
        Service(
            name="booking",
            instances=[
                instance(1, "127.0.0.1", start_time="2026-11-22T05:00:00Z"),
                instance(2, "::1"),
            ],
            policy={"service-router": ROUTER},
            warnings=["a failover is not applied"],
        )
    ],
    edges=[("gateway-bff", "booking")],
)


async def asked(gateway: Gateway, headers: dict[str, str]) -> tuple[int, Any]:
    """The status and the document of an answer."""
    async with gateway.client.get("/v1/mesh", headers=headers) as response:
        return response.status, await response.json()


async def test_operators_see_the_mesh(gateway: Gateway, bearer: Bearer) -> None:
    """Services with their instances, the policy in force and what of it is without effect."""
    gateway.fakes.mesh = FOUND

    status, body = await asked(gateway, bearer("operator"))

    assert status == 200
    assert (
        schemas.Mesh.model_validate(body).model_dump(mode="json", by_alias=True, exclude_unset=True)
        == body
    )
    assert body == {
        "services": [
            {
                "name": "booking",
                "instances": [
                    {
                        "id": "booking-1",
                        "address": "127.0.0.1:41233",
                        "version": "0.1.0",
                        "status": "passing",
                        "since": "2026-11-22T05:00:00Z",
                    },
                    {
                        "id": "booking-2",
                        "address": "[::1]:41233",
                        "version": "0.1.0",
                        "status": "passing",
                    },
                ],
                "policy": {"service-router": ROUTER},
                "warnings": ["a failover is not applied"],
            }
        ],
        "edges": [{"from": "gateway-bff", "to": "booking"}],
    }


@pytest.mark.parametrize(("roles", "status"), [(None, 401), (("customer",), 403)])
async def test_nobody_else_does(
    gateway: Gateway, bearer: Bearer, roles: tuple[str, ...] | None, status: int
) -> None:
    """What runs where is not for the public."""
    gateway.fakes.mesh = FOUND

    answer, problem = await asked(gateway, bearer(*roles) if roles else {})

    assert answer == problem["status"] == status


async def test_without_consul_it_can_not_be_said(gateway: Gateway, bearer: Bearer) -> None:
    """503, with nothing of where Consul is."""
    gateway.fakes.mesh = ConsulError("ClientConnectorError: 10.0.0.7:8500")

    status, problem = await asked(gateway, bearer("operator"))

    assert (status, problem["code"]) == (503, "UPSTREAM_UNAVAILABLE")
    assert "10.0.0.7" not in str(problem)


async def test_a_consul_that_hangs_is_not_waited_for_longer_than_the_budget(
    upstreams: tuple[Upstreams, Fakes], bearer: Bearer
) -> None:
    """504 when the budget of the route is used up."""

    async def hang(_request: object) -> None:
        await asyncio.Event().wait()

    settings = replace(SETTINGS, budgets={**SETTINGS.budgets, "mesh": 0.1})
    async with running_gateway(*upstreams, settings) as gateway:
        gateway.fakes.reset()
        gateway.fakes.mesh = hang
        status, problem = await asked(gateway, bearer("operator"))

    assert (status, problem["code"]) == (504, "DEADLINE_EXCEEDED")
