"""What operators and their machines ask: does it live, is it ready, what does it measure."""

import asyncio

from fastapi import APIRouter
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from starlette.requests import Request
from starlette.responses import Response

from gateway_bff.failures import RETRY_AFTER
from gateway_bff.problems import Problem
from gateway_bff.reply import Json, TheUpstreams
from gateway_bff.route import Route

router = APIRouter(tags=["system"])


@router.get("/livez", summary="The process answers", include_in_schema=False)
async def livez() -> Response:
    """Say that the process answers; nothing else is looked at."""
    return Json({"status": "live"})


async def readyz(request: Request, upstreams: TheUpstreams) -> Response:
    """Say whether requests should come here: search was found through Consul and answers."""
    retry = {"Retry-After": str(RETRY_AFTER)}
    if request.app.state.draining:
        raise Problem("SHUTTING_DOWN", headers=retry)
    if not await upstreams.is_reachable():
        raise Problem("NOT_READY", "Search can't be reached.", headers=retry)
    return Json({"status": "ready"})


router.add_api_route(
    "/readyz", readyz, name="ready", include_in_schema=False, route_class_override=Route
)


@router.get("/metrics", summary="Prometheus text", include_in_schema=False)
async def metrics(request: Request) -> Response:
    """Show the metrics of this process."""
    registry: CollectorRegistry = request.app.state.registry
    # in a thread: there may be thousands of series
    text = await asyncio.to_thread(generate_latest, registry)
    return Response(text, headers={"Content-Type": CONTENT_TYPE_LATEST})
