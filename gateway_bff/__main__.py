"""The gateway's process: joins the mesh, opens the door, and closes it without a failed request."""

import asyncio
import os
from datetime import timedelta

import structlog
from prometheus_client import REGISTRY

import consulmesh
from consulmesh import Check, Mesh, MeshConfig
from consulmesh.users import TokenVerifier
from flights.booking.v1.booking_pb2_grpc import BookingServiceStub
from flights.pricing.v1.pricing_pb2_grpc import PricingServiceStub
from flights.schedule.v1.schedule_pb2_grpc import ScheduleServiceStub
from flights.search.v1.search_pb2_grpc import SearchServiceStub
from gateway_bff import __version__
from gateway_bff.app import create_app
from gateway_bff.readiness import Readiness
from gateway_bff.server import listening
from gateway_bff.settings import DEFAULT_PORT, Settings
from gateway_bff.upstreams import Upstreams

_log = structlog.get_logger()

_LAST_EVENTS = timedelta(seconds=2)  # for streams that have an end to come to it


async def main() -> None:
    """Serve until told to stop.

    Then: not ready, deregistered, still serving for a while, streams ended, requests finished.
    """
    environ = {"MESH_PORT": str(DEFAULT_PORT), **os.environ}
    config = MeshConfig.from_env(environ, version=__version__)
    settings = Settings.from_env(environ)
    users = TokenVerifier.from_env(environ, config.state_dir)
    async with Mesh.join("gateway-bff", config) as mesh:
        upstreams = Upstreams(
            search=SearchServiceStub(mesh.channel("flight-search", hedged=True)),
            schedule=ScheduleServiceStub(mesh.channel("schedule", hedged=True)),
            pricing=PricingServiceStub(mesh.channel("pricing", hedged=True)),
            booking=BookingServiceStub(mesh.channel("booking", relay_token=True, hedged=True)),
            users=users,
            is_reachable=Readiness(mesh.channel("flight-search", hedged=True)),
            topology=mesh.topology,
        )
        app = create_app(upstreams, settings, registry=REGISTRY)
        mesh.start(users.run(), name="keys of users")
        for name, job in app.state.live.jobs().items():
            mesh.start(job, name=name)
        async with listening(
            app,
            host=config.host,
            port=config.port,
            settings=settings,
            grace=config.drain_grace,
        ) as port:
            check = Check.http("/readyz", interval=config.check_interval)
            async with mesh.announced(port, check):
                _log.info("serving", instance=mesh.instance_id, address=mesh.address)
                await mesh.draining.wait()
                app.state.draining = True
            await asyncio.sleep(settings.shutdown_delay.total_seconds())
            await app.state.streams.end(_LAST_EVENTS)
        await app.state.quotas.aclose()


if __name__ == "__main__":
    consulmesh.run(main)
