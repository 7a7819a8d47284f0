# One image for every process of the mesh; what runs is the command: `schedule`, `booking`, …
FROM python:3.11-slim AS build
WORKDIR /src
COPY requirements.lock pyproject.toml ./
RUN python -m venv /opt/flightmesh \
 && /opt/flightmesh/bin/pip install --no-cache-dir --require-hashes -r requirements.lock
COPY . .
RUN /opt/flightmesh/bin/pip install --no-cache-dir --no-deps --no-build-isolation .

FROM python:3.11-slim
# A new volume takes its owner from the folder that it is mounted over; that of Consul's data is here
# for this alone.
RUN groupadd --system --gid 10001 flightmesh \
 && useradd --system --uid 10001 --gid 10001 --home-dir /var/lib/flightmesh --create-home flightmesh \
 && install --directory --owner=flightmesh --mode=0700 /var/lib/consul /secrets \
    /secrets/all /secrets/issuer /secrets/consul /secrets/operator /secrets/mesh-ads /secrets/gateway-bff \
    /secrets/schedule /secrets/pricing /secrets/flight-search /secrets/booking
COPY --from=build /opt/flightmesh /opt/flightmesh
COPY tools /srv/flightmesh/tools
COPY consul /srv/flightmesh/consul
COPY deploy/container /srv/flightmesh/container
ENV PATH=/opt/flightmesh/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    MESH_PORT=50051 \
    MESH_HEALTH_PORT=50052 \
    MESH_STATE_DIR=/var/lib/flightmesh
WORKDIR /srv/flightmesh
USER flightmesh
VOLUME /var/lib/flightmesh
ENTRYPOINT ["/srv/flightmesh/container/entrypoint"]
HEALTHCHECK --interval=5s --timeout=4s --start-period=60s --retries=3 \
    CMD ["python", "/srv/flightmesh/container/healthcheck.py"]
