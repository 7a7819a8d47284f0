"""What the Kubernetes manifests allow and name. Nothing is run."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import pytest

from consulmesh.config import duration
from tests.tools import manifests
from tests.tools.manifests import container, labels, of, pod, workloads
from tests.tools.test_containers import COMPOSE, documented, last_stage
from tools.config_entries import services
from tools.deployment import NAMESPACE, kubernetes
from tools.programs import ADS, DURABLE, GATEWAY, IDENTITIES

WORKLOADS: Final = workloads()
OPERATOR: Final = "operator"
MEMBERS: Final = tuple(name for name in IDENTITIES if name != OPERATOR)
HEALTH: Final = 50052
ADS_SERVICE: Final = "envoy.service.discovery.v3.AggregatedDiscoveryService"


@pytest.fixture(scope="module")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """The Secrets that the command makes: their keys, by name."""
    made = kubernetes(tmp_path_factory.mktemp("secrets"), NAMESPACE, [])
    return {item["metadata"]["name"]: set(item["data"]) for item in made["items"]}


def secret_volumes(name: str) -> list[dict[str, Any]]:
    """The Secrets that a workload's pods mount."""
    return [each["secret"] for each in pod(WORKLOADS[name])["volumes"] if "secret" in each]


def variables(name: str) -> dict[str, str]:
    """The environment of a workload's container, but for what comes from Secrets."""
    fields = {"metadata.name": "POD", "status.podIP": "IP", "spec.nodeName": "NODE"}
    return manifests.environment(container(WORKLOADS[name]), fields)


def test_every_file_is_part_of_the_base() -> None:
    """A file that nobody names would be validated and never applied."""
    files = {path.name for path in manifests.BASE.iterdir()} - {"kustomization.yaml"}
    generators = manifests.KUSTOMIZATION["configMapGenerator"]
    named = {
        name for each in generators for name in (*each.get("files", ()), *each.get("envs", ()))
    }

    assert files == {*manifests.KUSTOMIZATION["resources"]} | named
    assert manifests.KUSTOMIZATION["namespace"] == NAMESPACE
    assert of("Namespace").keys() == {NAMESPACE}


def test_everything_runs_somewhere() -> None:
    """Each identity has pods of its name; people's tools do not run by themselves."""
    assert {*IDENTITIES} <= WORKLOADS.keys()
    assert WORKLOADS.keys() - {*IDENTITIES} == {
        "consul-server",
        "consul-agent",
        "consul-setup",
        "postgres",
    }
    assert WORKLOADS[OPERATOR]["spec"]["replicas"] == 0


@pytest.mark.parametrize("name", WORKLOADS)
def test_a_pod_gains_no_rights(name: str) -> None:
    """It passes the restricted standard, cannot write its root, has no account of the cluster."""
    spec = pod(WORKLOADS[name])
    (namespace,) = of("Namespace").values()

    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["runAsUser"] > 0
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container(WORKLOADS[name])["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert spec["automountServiceAccountToken"] is False
    assert not spec.keys() & {"hostNetwork", "hostPID", "hostIPC", "serviceAccountName"}
    assert not any("hostPath" in volume for volume in spec["volumes"])
    assert not any("hostPort" in port for port in container(WORKLOADS[name]).get("ports", ()))


def test_our_pods_are_the_images_user() -> None:
    """The user and the group that the image makes, so that its files and Secrets can be read."""
    (made,) = (rest for instruction, rest in last_stage() if instruction == "RUN")
    ours = [n for n in WORKLOADS if container(WORKLOADS[n])["image"].startswith("flightmesh:")]
    users = {
        pod(WORKLOADS[name])["securityContext"][key]
        for name in ours
        for key in ("runAsUser", "runAsGroup", "fsGroup")
    }

    assert users == {10001}
    assert "--uid 10001 --gid 10001" in made
    assert {*ours} == {*IDENTITIES, "consul-setup"}


def test_secrets_are_those_that_the_command_makes(secrets: dict[str, set[str]]) -> None:
    """Each Secret and key that a pod names is made, is mounted 0400, and none is made in vain."""
    mounted: dict[str, set[str]] = {}
    for name in WORKLOADS:
        for volume in secret_volumes(name):
            keys = {item["key"] for item in volume.get("items", ())}
            mounted[volume["secretName"]] = keys or secrets[volume["secretName"]]
            assert volume["defaultMode"] == 0o400
    referenced = {
        each["valueFrom"]["secretKeyRef"]["name"]: {each["valueFrom"]["secretKeyRef"]["key"]}
        for name in WORKLOADS
        for each in container(WORKLOADS[name]).get("env", ())
        if "secretKeyRef" in each.get("valueFrom", {})
    }

    assert mounted | referenced == secrets
    assert referenced.keys() == {f"{name}-database" for name in DURABLE}


@pytest.mark.parametrize("name", IDENTITIES)
def test_a_process_has_its_own_token_alone(name: str) -> None:
    """One Secret, its own; every file that its environment names is in it."""
    (volume,) = secret_volumes(name)
    paths = {f"/secrets/{item['path']}" for item in volume["items"]}
    tokens = {path for path in paths if "/tokens/" in path}
    told = variables(name)

    assert volume["secretName"] == name
    assert tokens - {"/secrets/tokens/releases"} == {f"/secrets/tokens/{name}"}
    assert len(tokens) == 1 + (name == OPERATOR)
    assert told["CONSUL_HTTP_TOKEN_FILE"] == f"/secrets/tokens/{name}"
    assert told["MESH_SECURE"] == "true"
    assert told["CONSUL_HTTP_ADDR"].startswith("https://")
    assert {value for value in told.values() if value.startswith("/secrets/")} <= paths
    assert not any("TOKEN" in each and each != "CONSUL_HTTP_TOKEN_FILE" for each in told)


def test_no_secret_is_in_the_files() -> None:
    """They have no Secret, and no URL with a password."""
    text = "".join(path.read_text(encoding="utf-8") for path in manifests.BASE.iterdir())

    assert of("Secret") == {}
    assert "://" not in re.sub(r"https://[a-z0-9.-]+:\d+", "", text)
    assert not re.search(r"initial_management|encrypt\s*=|BEGIN ", text)


def test_variables_are_those_that_are_read() -> None:
    """A name that no process knows would be a setting without effect."""
    for name in WORKLOADS:
        if name != "postgres":
            theirs = {"POD_NAME", "POD_IP", "NODE_NAME"} if name.startswith("consul-") else set()

            assert {*variables(name)} - theirs <= documented()


def test_images_have_the_versions_of_the_compose_file() -> None:
    """So that what runs is what was looked at."""
    here = {container(each)["image"] for each in WORKLOADS.values()}
    there = {service["image"] for service in COMPOSE["services"].values()}
    (image,) = manifests.KUSTOMIZATION["images"]

    assert here == there
    assert all(":" in each for each in here)
    assert f"{image['name']}:{image['newTag']}" in here


@pytest.mark.parametrize("name", [name for name in MEMBERS if name != GATEWAY])
def test_a_kubelet_asks_at_the_health_port(name: str) -> None:
    """Liveness asks for the process, readiness for the service that Consul's check asks for."""
    own = container(WORKLOADS[name])
    apis = {service: api.full_name for service, api in services()} | {ADS: ADS_SERVICE}

    assert variables(name)["MESH_HEALTH_PORT"] == str(HEALTH)
    assert {port["name"]: port["containerPort"] for port in own["ports"]}["health"] == HEALTH
    assert own["startupProbe"]["grpc"] == own["livenessProbe"]["grpc"] == {"port": HEALTH}
    assert own["readinessProbe"]["grpc"] == {"port": HEALTH, "service": apis[name]}


def test_the_gateway_is_asked_by_http() -> None:
    """Liveness depends on nobody else, readiness on search; new connections end before it does."""
    own = container(WORKLOADS[GATEWAY])

    assert own["livenessProbe"]["httpGet"] == {"port": 8080, "path": "/livez"}
    assert own["readinessProbe"]["httpGet"] == {"port": 8080, "path": "/readyz"}
    assert variables(GATEWAY)["MESH_PORT"] == "8080"
    assert duration(variables(GATEWAY)["MESH_SHUTDOWN_DELAY"]) >= timedelta(seconds=5)


@pytest.mark.parametrize("name", MEMBERS)
def test_a_process_has_the_time_to_drain(name: str) -> None:
    """Kubernetes waits longer than the process does, and no instance leaves before its next one."""
    grace = 10 + 5 + 2  # MESH_DRAIN_GRACE, MESH_SHUTDOWN_DELAY, streams

    assert pod(WORKLOADS[name])["terminationGracePeriodSeconds"] > grace
    assert WORKLOADS[name]["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] == 0


def test_processes_differ_in_what_they_are_alone() -> None:
    """But for name, module, settings, probes and labels, the services' Deployments are one."""

    def common(name: str) -> str:
        spec = json.dumps(WORKLOADS[name]["spec"] | {"template": None, "selector": None})
        parts = {
            k: v for k, v in pod(WORKLOADS[name]).items() if k not in {"containers", "volumes"}
        }
        return spec + json.dumps(parts).replace(name, "NAME")

    assert len({common(name) for name in MEMBERS if name != ADS}) == 1


def test_ports_are_those_that_are_listened_at() -> None:
    """What a pod declares is what its environment or configuration says."""
    for name in MEMBERS:
        told = variables(name)
        ports = {
            each["name"]: str(each["containerPort"]) for each in container(WORKLOADS[name])["ports"]
        }

        assert ports["metrics"] == told["MESH_METRICS_PORT"]
        assert ports.get("http") == (told["MESH_PORT"] if name == GATEWAY else None)
        grpc = {GATEWAY: "MESH_ADMIN_PORT", ADS: "MESH_XDS_PORT"}.get(name, "MESH_PORT")
        assert ports["grpc"] == told[grpc]


def test_consul_has_no_port_without_tls() -> None:
    """Neither a server nor an agent; and a server waits for the number of replicas."""
    maps = manifests.config_maps()
    for name, file in (("consul-server", "server.hcl"), ("consul-agent", "agent.hcl")):
        settings = dict(re.findall(r"^\s*(\w+)\s*=\s*(.+)$", maps[name][file], re.MULTILINE))

        assert (settings["http"], settings["grpc"], settings["dns"]) == ("-1", "-1", "-1")
        assert settings["https"] == "8501"
        assert "-config-file=/secrets/consul.json" in container(WORKLOADS[name])["args"]
    replicas = WORKLOADS["consul-server"]["spec"]["replicas"]
    server = maps["consul-server"]["server.hcl"]

    assert f"bootstrap_expect = {replicas}\n" in server
    assert 'default_intention_policy = "deny"' in server


def test_an_agent_serves_its_own_node() -> None:
    """Processes reach the agent that checks them, by a name that its certificate has."""
    assert of("Service")["consul-agent"]["spec"]["internalTrafficPolicy"] == "Local"
    assert WORKLOADS["consul-agent"]["kind"] == "DaemonSet"
    assert variables("booking")["CONSUL_HTTP_ADDR"] == "https://consul-agent:8501"


@pytest.mark.parametrize("name", of("Service"))
def test_a_service_finds_its_pods(name: str) -> None:
    """Its selector is some workload's label, and its ports are that container's."""
    spec = of("Service")[name]["spec"]
    (workload,) = (w for w in WORKLOADS.values() if spec["selector"].items() <= labels(w).items())
    ports = {port["containerPort"] for port in container(workload)["ports"]}

    assert {port.get("targetPort", port["port"]) for port in spec["ports"]} <= ports


@pytest.mark.parametrize("name", of("PodDisruptionBudget"))
def test_a_budget_is_for_several_pods(name: str) -> None:
    """With one pod it would keep a node from being drained; with several one may go."""
    spec = of("PodDisruptionBudget")[name]["spec"]

    assert spec["selector"]["matchLabels"].items() <= labels(WORKLOADS[name]).items()
    assert WORKLOADS[name]["spec"]["replicas"] > 1


METRICS: Final = 9464
OUTSIDE: Final = "outside"
AGENTS: Final = ("consul-server", "consul-agent")


def wanted() -> Iterator[tuple[str, str, int]]:
    """Who has to reach whom, at which port."""
    yield OUTSIDE, GATEWAY, 8080
    yield "consul-agent", GATEWAY, 8080  # its check
    yield "consul-setup", "consul-server", 8501
    yield OPERATOR, "consul-server", 8501
    for caller in (*MEMBERS, OPERATOR):
        for called in MEMBERS:
            yield caller, called, 18000 if called == ADS else 50051
        yield caller, "consul-agent", 8501
        yield caller, "consul-server", 8503
    for called in MEMBERS:
        yield "consul-agent", called, HEALTH
        yield OPERATOR, called, METRICS  # a release that watches its canary
    for one in AGENTS:
        yield one, "consul-server", 8300
        for another in AGENTS:
            yield one, another, 8301
    for name in DURABLE:
        yield name, "postgres", 5432


def selects(selector: Mapping[str, Any], name: str) -> bool:
    """Whether pods of a workload are meant."""
    matched: Mapping[str, str] = selector.get("matchLabels", {})
    return name != OUTSIDE and matched.items() <= labels(WORKLOADS[name]).items()


def lets(direction: str, of_pod: str, peer: str, port: int) -> bool:
    """Whether some policy of a pod allows a port, from or to a peer; `nobody` covers all pods."""
    word = "from" if direction == "ingress" else "to"
    rules = [
        rule
        for policy in of("NetworkPolicy").values()
        if selects(policy["spec"]["podSelector"], of_pod)
        for rule in policy["spec"].get(direction, ())
    ]
    return any(
        port in {each["port"] for each in rule["ports"]}
        and (
            word not in rule
            or any(
                selects(each["podSelector"], peer) for each in rule[word] if "podSelector" in each
            )
        )
        for rule in rules
    )


def test_policies_let_through_what_is_needed_and_nothing_else() -> None:
    """Each pair of pods, and the outside, at each port that a pod has."""
    possible = {
        (source, target, port["containerPort"])
        for source in (OUTSIDE, *WORKLOADS)
        for target, workload in WORKLOADS.items()
        for port in container(workload).get("ports", ())
    }
    found = {
        (source, target, port)
        for source, target, port in possible
        if lets("ingress", target, source, port)
        and (source == OUTSIDE or lets("egress", source, target, port))
    }
    nobody = of("NetworkPolicy")["nobody"]["spec"]

    assert found == {*wanted()}
    assert nobody == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}


def test_nobody_is_let_out_but_for_names() -> None:
    """Rules for what leaves a pod name other pods of the namespace; the one other is for DNS."""
    leaving = [
        (peer, {port["port"] for port in rule["ports"]})
        for policy in of("NetworkPolicy").values()
        for rule in policy["spec"].get("egress", ())
        for peer in rule["to"]
    ]
    elsewhere = [(peer, ports) for peer, ports in leaving if peer.keys() != {"podSelector"}]
    system = {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}}

    assert elsewhere == [({"namespaceSelector": system}, {53})]
    assert all(peer["podSelector"] for peer, _ in leaving if "podSelector" in peer)


def test_gossip_is_let_through_by_both_protocols() -> None:
    """Consul's agents lose each other where UDP is missing."""
    for name in AGENTS:
        spec = of("NetworkPolicy")[name]["spec"]
        for direction in ("ingress", "egress"):
            serf = [
                port.get("protocol", "TCP")
                for rule in spec[direction]
                for port in rule["ports"]
                if port["port"] == 8301
            ]

            assert set(serf) == {"TCP", "UDP"}
            assert serf.count("TCP") == serf.count("UDP")


def validated(folder: Path, change: str = "") -> int:
    """Validate the manifests as `make check` does; returns the exit status."""
    program = Path(sys.executable).with_name("kubernetes-validate")
    files = []
    for name in manifests.KUSTOMIZATION["resources"]:
        text = (manifests.BASE / name).read_text(encoding="utf-8")
        (folder / name).write_text(text.replace(change, "misspelt") if change else text)
        files.append(str(folder / name))
    done = subprocess.run(
        [program, "--strict", "--quiet", *files], capture_output=True, check=False
    )
    return done.returncode


def test_the_manifests_fit_the_schema(tmp_path: Path) -> None:
    """Each object has the fields that Kubernetes knows; a misspelt one is refused."""
    right = validated(tmp_path)
    wrong = validated(tmp_path, "readOnlyRootFilesystem")

    assert right == 0
    assert wrong != 0
