"""Exit 0 when the health port of this container says SERVING: the container's health check."""

import os
import sys

import grpc
from grpc_health.v1 import (  # type: ignore[import-untyped]  # it has no stubs
    health_pb2,
    health_pb2_grpc,
)


def main() -> None:
    """Entry point. The health port is in plain text in either profile."""
    host = os.environ.get("MESH_HOST", "127.0.0.1")
    with grpc.insecure_channel(f"{host}:{os.environ['MESH_HEALTH_PORT']}") as channel:
        answer = health_pb2_grpc.HealthStub(channel).Check(
            health_pb2.HealthCheckRequest(), timeout=3
        )
    sys.exit(answer.status != health_pb2.HealthCheckResponse.SERVING)


if __name__ == "__main__":
    main()
