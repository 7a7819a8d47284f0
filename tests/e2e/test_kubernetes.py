"""The manifests' own commands, configuration and Secrets, run as processes: a cluster of Consul."""

import asyncio
import json
import shutil
from base64 import b64decode
from pathlib import Path
from typing import Any, Final

import aiohttp
import grpc
import pytest
from grpc_health.v1 import (  # type: ignore[import-untyped]  # it has no stubs
    health_pb2,
    health_pb2_grpc,
)

from consulmesh.consul_api import ConsulApi, Query
from tests.consulmesh.consuls import asked_until
from tests.e2e.native import (
    FEW_FLIGHTS,
    PATIENCE,
    PAUSE,
    Machine,
    flights_for,
    machine,
    refused,
)
from tests.tools import manifests
from tools.binaries import ROOT

pytestmark = pytest.mark.timeout(300)

NODE: Final = "node-1"
SERVERS: Final = ("consul-server-0", "consul-server-1", "consul-server-2")
PODS: Final = {
    **dict.fromkeys(SERVERS, "consul-server"),
    "consul-agent-x": "consul-agent",
    "consul-setup-x": "consul-setup",
    "schedule-x": "schedule",
    "gateway-bff-x": "gateway-bff",
    "mesh-ads-x": "mesh-ads",
    "operator-x": "operator",
}
"""Pods by name, and what they are pods of."""
MEMBERS: Final = ("schedule-x", "gateway-bff-x", "mesh-ads-x")
NAMES: Final = {"consul": SERVERS[0], "consul-agent": "consul-agent-x"}
"""Services, and the pod that stands behind each here."""
ENTRYPOINT: Final = ["/srv/flightmesh/container/entrypoint"]


class Cluster:
    """Pods of the manifests on a machine."""

    def __init__(self, on: Machine, secrets: dict[str, Any]) -> None:
        self.on = on
        on.addresses |= {name: on.at(pod) for name, pod in NAMES.items()}
        self._secrets = secrets
        self._workloads = manifests.workloads()
        self._mounts = {pod: self._mounted(pod) for pod in PODS}

    def _mounted(self, pod: str) -> dict[str, Path]:
        """Make the volumes of a pod; returns where they are, by where the pod has them."""
        workload = self._workloads[PODS[pod]]
        volumes = {each["name"]: each for each in manifests.pod(workload)["volumes"]}
        mounts = {"/srv/flightmesh/container": ROOT / "deploy" / "container"}
        for mount in manifests.container(workload)["volumeMounts"]:
            folder = self.on.folder / "pods" / pod / mount["name"]
            folder.mkdir(parents=True)
            mounts[mount["mountPath"]] = folder
            volume = volumes.get(mount["name"], {})
            if "secret" in volume:
                self._secret(pod, volume["secret"], folder, mount["mountPath"])
            if "configMap" in volume:
                for name, text in manifests.config_maps()[volume["configMap"]["name"]].items():
                    (folder / name).write_text(self._joined(text))
        del mounts["/tmp"]  # noqa: S108 - a folder of the container's own
        return mounts

    def _secret(self, pod: str, volume: dict[str, Any], folder: Path, seen_at: str) -> None:
        data = self._secrets[volume["secretName"]]
        for item in volume["items"]:
            file = folder / item["path"]
            file.parent.mkdir(exist_ok=True)
            content = b64decode(data[item["key"]])
            if item["path"] == "consul.json":
                content = content.replace(f'"{seen_at}/'.encode(), f'"{folder}/'.encode())
            file.write_bytes(content)
            file.chmod(volume["defaultMode"])

    def _joined(self, text: str) -> str:
        """A configuration of Consul's; the name of all servers becomes their addresses."""
        assert text.count('["consul-server"]') == 1
        addresses = json.dumps([self.on.at(server) for server in SERVERS])
        return text.replace('["consul-server"]', addresses)

    def environment(self, pod: str) -> dict[str, str]:
        """Of a pod's container; its database is SQLite, and it listens at its own address."""
        fields = {
            "metadata.name": pod,
            "status.podIP": self.on.at(pod),
            "spec.nodeName": NODE,
        }
        found = manifests.environment(self._container(pod), fields)
        mapped = {k: self.on.mapped(v, pod, self._mounts[pod]) for k, v in found.items()}
        state = self._mounts[pod].get("/var/lib/flightmesh")
        return mapped | ({"MESH_STATE_DIR": str(state)} if state else {})

    def _container(self, pod: str) -> dict[str, Any]:
        return manifests.container(self._workloads[PODS[pod]])

    def words(self, pod: str, listed: list[str]) -> list[str]:
        """A command of a pod's container."""
        variables = self.environment(pod)
        return [
            self.on.mapped(manifests.expanded(word, variables), pod, self._mounts[pod])
            for word in listed
        ]

    def command(self, pod: str) -> list[str]:
        """What a pod's container runs."""
        own = self._container(pod)
        return self.words(pod, [*own.get("command", ENTRYPOINT), *own.get("args", ())])

    async def start(self, pod: str, **extra: str) -> None:
        """Start a pod."""
        await self.on.start(pod, self.command(pod), self.environment(pod) | extra)

    async def ready(self, pod: str, kind: str = "readinessProbe") -> None:
        """Wait until a pod's readiness probe, or another one, succeeds."""
        probe = self._container(pod)[kind]
        if "exec" in probe:
            await self.on.until(self.words(pod, probe["exec"]["command"]), self.environment(pod))
        elif "grpc" in probe:
            await self._healthy(pod, probe["grpc"]["port"], probe["grpc"].get("service", ""))
        else:
            await self._answers(pod, probe["httpGet"])

    async def passing(self, service: str) -> tuple[str, str]:
        """Wait until the servers list an instance as passing; returns its node and its id."""
        own = self.environment("operator-x")
        token, roots = (Path(own[name]) for name in ("CONSUL_HTTP_TOKEN_FILE", "CONSUL_CACERT"))
        url = f"https://{self.on.at('consul')}:8501"
        async with ConsulApi(url, token.read_text(encoding="utf-8"), roots) as api:
            found = await asked_until(api, Query.health(service, passing="1"), bool, PATIENCE)
        (entry,) = found.data
        return entry["Node"]["Node"], entry["Service"]["ID"]

    async def replaced(self, pod: str) -> int:
        """End a pod and start the next one, which finds its volumes empty; returns its end."""
        ended = await self.on.stop(pod)
        shutil.rmtree(self._mounts[pod]["/var/lib/consul"])
        await self.start(pod)
        await self.ready(pod)
        return ended

    async def _healthy(self, pod: str, port: int, service: str) -> None:
        """Ask as a kubelet does."""
        async with (
            asyncio.timeout(PATIENCE),
            grpc.aio.insecure_channel(f"{self.on.at(pod)}:{port}") as channel,
        ):
            stub = health_pb2_grpc.HealthStub(channel)
            request = health_pb2.HealthCheckRequest(service=service)
            serving = health_pb2.HealthCheckResponse.SERVING
            while await _status(stub, request) is not serving:
                await asyncio.sleep(PAUSE)

    async def _answers(self, pod: str, probe: dict[str, Any]) -> None:
        """Ask as a kubelet does: it verifies no certificate."""
        scheme = probe.get("scheme", "HTTP").lower()
        url = f"{scheme}://{self.on.at(pod)}:{probe['port']}{probe['path']}"
        async with asyncio.timeout(PATIENCE), aiohttp.ClientSession() as session:
            while await _http_status(session, url) != 200:
                await asyncio.sleep(PAUSE)


async def _status(stub: Any, request: Any) -> Any:
    try:
        return (await stub.Check(request, timeout=3, wait_for_ready=True)).status
    except grpc.aio.AioRpcError as error:
        return error.code()


async def _http_status(session: aiohttp.ClientSession, url: str) -> int:
    try:
        async with session.get(url, ssl=False) as answer:
            return answer.status
    except aiohttp.ClientError:
        return 0


async def secrets_of(on: Machine) -> dict[str, Any]:
    """Make the Secrets by the real command, with this machine's addresses as further names."""
    names = [word for pod in PODS for word in ("--name", on.at(pod))]
    folder = ("--folder", str(on.folder / "made"))
    done, said = await on.run(
        ["python", "-m", "tools.deployment", "kubernetes", *folder, *names], {}
    )
    assert done == 0, said
    return {item["metadata"]["name"]: item["data"] for item in json.loads(said)["items"]}


async def test_the_manifests_bring_a_service_up(tmp_path: Path) -> None:
    """In no order; calls and people's tools get through, and the agent's next pod is told all."""
    async with machine(tmp_path, [*PODS]) as on:
        secrets = await secrets_of(on)
        cluster = Cluster(on, secrets)
        for pod in MEMBERS:
            await cluster.start(pod, MESH_TIMETABLE=FEW_FLIGHTS, MESH_HOST=on.at(pod))
        await cluster.start("consul-agent-x")
        for server in SERVERS:
            await cluster.start(server)
        setup = "consul-setup-x"
        told = await on.run(cluster.command(setup) + folder_of(cluster), cluster.environment(setup))
        assert told[0] == 0, told[1] + on.last_words()
        for pod in (*SERVERS, "consul-agent-x", "schedule-x", "mesh-ads-x"):
            await cluster.ready(pod)
        for pod in MEMBERS:  # the gateway is ready where search is, which is not here
            await cluster.ready(pod, "livenessProbe")
        operator = cluster.environment("operator-x")
        listed = await cluster.passing("schedule")
        gateway, ads = (cluster.environment(pod) for pod in ("gateway-bff-x", "mesh-ads-x"))
        flights = await flights_for(gateway, tmp_path / "callers", "gateway-bff")
        stranger = await refused(ads, tmp_path / "callers", "mesh-ads")
        tools = [
            await on.run(["python", "-m", *words], operator)
            for words in (
                ("consulmesh.debug", "schedule"),
                ("tools.release", "status", "schedule"),
            )
        ]
        left = await cluster.replaced("consul-agent-x")
        again = await cluster.passing("schedule")
        ended = [await on.stop(pod) for pod in MEMBERS]
        said = told[1] + "".join(on.output(pod) for pod in on.running)

    assert flights > 0
    assert stranger is grpc.StatusCode.PERMISSION_DENIED
    assert listed == again == (NODE, "schedule-x")
    assert [status for status, _ in tools] == [0, 0], tools
    assert (left, ended) == (0, [0, 0, 0])
    tokens = [
        b64decode(value).decode()
        for key, value in secrets["consul-setup"].items()
        if key.startswith("tokens.")
    ]
    assert tokens
    assert "lacks permission" not in on.output("consul-agent-x")
    assert not [token for token in tokens if token in said]


def folder_of(cluster: Cluster) -> list[str]:
    """Where `setup` finds its Secret: the default of an option."""
    return ["--folder", str(cluster.on.folder / "pods" / "consul-setup-x" / "secrets")]
