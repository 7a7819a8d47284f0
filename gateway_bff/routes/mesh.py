"""The mesh behind the gateway, for operators."""

import asyncio
from typing import Any, Final

from fastapi import APIRouter, Security
from fastapi.security import HTTPBearer
from starlette.responses import Response

from consulmesh.consul_api import ConsulError
from consulmesh.instances import Instance
from consulmesh.topology import START_TIME, Service, Topology
from gateway_bff import schemas
from gateway_bff.failures import RETRY_AFTER
from gateway_bff.openapi import problems
from gateway_bff.problems import Problem
from gateway_bff.reply import Json, TheSettings, TheUpstreams
from gateway_bff.route import OperatorRoute

_NAME: Final = "mesh"

# Only for the document: the route has verified the token before dependencies are looked at.
_BEARER: Final[Any] = Security(
    HTTPBearer(bearerFormat="JWT", scheme_name="operator", auto_error=False)
)

router = APIRouter(route_class=OperatorRoute, tags=["operations"], dependencies=[_BEARER])


@router.get(
    "/v1/mesh",
    name=_NAME,
    operation_id="getMesh",
    summary="Services, instances, health, versions, and the policy in force",
    responses={200: {"model": schemas.Mesh}, **problems(401, 403)},
)
async def show_mesh(upstreams: TheUpstreams, settings: TheSettings) -> Response:
    """Show the mesh as Consul has it now."""
    try:
        async with asyncio.timeout(settings.budgets[_NAME]):
            found = await upstreams.topology()
    except TimeoutError:
        raise Problem("DEADLINE_EXCEEDED") from None
    except ConsulError:
        retry = {"Retry-After": str(RETRY_AFTER)}
        raise Problem("UPSTREAM_UNAVAILABLE", "Consul does not answer.", headers=retry) from None
    return Json(_mesh(found))


def _mesh(found: Topology) -> dict[str, Any]:
    return {
        "services": [_service(service) for service in found.services],
        "edges": [{"from": caller, "to": called} for caller, called in found.edges],
    }


def _service(service: Service) -> dict[str, Any]:
    return {
        "name": service.name,
        "instances": [_instance(instance) for instance in service.instances],
        "policy": service.policy,
        "warnings": service.warnings,
    }


def _instance(instance: Instance) -> dict[str, Any]:
    host = f"[{instance.address}]" if ":" in instance.address else instance.address
    shown: dict[str, Any] = {
        "id": instance.id,
        "address": f"{host}:{instance.port}",
        "version": instance.version,
        "status": instance.status,
    }
    if since := instance.meta.get(START_TIME):
        shown["since"] = since
    return shown
