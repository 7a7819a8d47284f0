"""What an attacker inside cannot do (docs/threat-model.md), tried on a real secure Consul."""

import asyncio
import json
import os
import sys
import uuid
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import aiohttp
import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from grpc._cython import cygrpc
from grpc_reflection.v1alpha import reflection  # type: ignore[import-untyped]  # it has no stubs
from prometheus_client import REGISTRY, generate_latest

from consulmesh import Mesh
from consulmesh.connect_ca import ConsulAuthority
from consulmesh.identity import Identity
from consulmesh.local_issuer import LocalIssuer
from consulmesh.logs import AccessRecord
from consulmesh.spiffe import SpiffeId
from consulmesh.xds.messages import (
    AggregatedDiscoveryServiceStub,
    DiscoveryRequest,
    ResourceType,
)
from tests.chaos.figures import figure
from tests.consulmesh.processes import ROOT
from tests.consulmesh.secured import (
    Authority,
    code_of,
    identified,
    joined,
    secure_consul,
    served,
    tls_channel,
    until_code,
)
from tests.consulmesh.test_identity import PEM, Signer, kept
from tests.consulmesh.xds_process import SERVICE, handlers
from tests.consulmesh.xds_world import call, until

FLAGS: Final = "flags/echo/"
NODE: Final = "test"

Request = tuple[str, str, Any]


def config_entry(kind: str, name: str, **fields: Any) -> Request:
    """Writing a config entry."""
    return "PUT", "/v1/config", {"Kind": kind, "Name": name, **fields}


REGISTRATIONS: Final[dict[str, Request]] = {
    "an instance": ("PUT", "/v1/agent/service/register", {"Name": "echo", "Port": 1}),
    "an instance under another's id": (
        "PUT",
        "/v1/agent/service/register",
        {"Name": "web", "ID": "echo-1", "Port": 1},
    ),
    "the end of an instance": ("PUT", "/v1/agent/service/deregister/echo-1", None),
    "maintenance of an instance": ("PUT", "/v1/agent/service/maintenance/echo-1?enable=1", None),
    "a check of an instance": (
        "PUT",
        "/v1/agent/check/register",
        {"Name": "x", "ServiceID": "echo-1", "TTL": "10s"},
    ),
    "a check of the node": ("PUT", "/v1/agent/check/register", {"Name": "x", "TTL": "10s"}),
    "an instance in the catalog": (
        "PUT",
        "/v1/catalog/register",
        {"Node": NODE, "Address": "127.0.0.1", "Service": {"Service": "echo", "Port": 1}},
    ),
    "a node": (
        "PUT",
        "/v1/catalog/register",
        {"Node": "evil", "Address": "127.0.0.2", "Service": {"Service": "web", "Port": 1}},
    ),
    "the end of it in the catalog": (
        "PUT",
        "/v1/catalog/deregister",
        {"Node": NODE, "ServiceID": "echo-1"},
    ),
}
ENTRIES: Final[dict[str, Request]] = {
    "others' intentions": config_entry(
        "service-intentions", "echo", Sources=[{"Name": "web", "Action": "allow"}]
    ),
    "own intentions": config_entry(
        "service-intentions", "web", Sources=[{"Name": "*", "Action": "allow"}]
    ),
    "everybody's intentions": config_entry(
        "service-intentions", "*", Sources=[{"Name": "*", "Action": "allow"}]
    ),
    "no intentions": ("DELETE", "/v1/config/service-intentions/echo", None),
    "an intention": (
        "PUT",
        "/v1/connect/intentions/exact?source=web&destination=echo",
        {"Action": "allow"},
    ),
    "defaults": config_entry("service-defaults", "echo", Protocol="tcp"),
    "a router": config_entry("service-router", "echo", Routes=[]),
    "a splitter": config_entry("service-splitter", "echo", Splits=[{"Weight": 100}]),
    "a resolver": config_entry("service-resolver", "echo", Redirect={"Service": "web"}),
    "defaults of all": config_entry("proxy-defaults", "global", Config={}),
    "the mesh": ("PUT", "/v1/config", {"Kind": "mesh"}),
    "exports": config_entry("exported-services", "default", Services=[]),
}
SECRETS: Final[dict[str, Request]] = {
    "flags": ("GET", f"/v1/kv/{FLAGS}secret", None),
    "a flag": ("PUT", f"/v1/kv/{FLAGS}secret", "true"),
    "tokens": ("GET", "/v1/acl/tokens", None),
    "a token": ("PUT", "/v1/acl/token", {"ServiceIdentities": [{"ServiceName": "echo"}]}),
    "the first token": ("PUT", "/v1/acl/bootstrap", None),
    "the authority's settings": ("GET", "/v1/connect/ca/configuration", None),
    "another authority": (
        "PUT",
        "/v1/connect/ca/configuration",
        {"Provider": "consul", "Config": {}},
    ),
    "a key of another": ("GET", "/v1/agent/connect/ca/leaf/echo", None),
    "all data": ("GET", "/v1/snapshot", None),
    "gossip keys": ("GET", "/v1/operator/keyring", None),
}
AGENT: Final[dict[str, Request]] = {
    "its settings": ("GET", "/v1/agent/self", None),
    "its log": ("GET", "/v1/agent/monitor", None),
    "its figures": ("GET", "/v1/agent/metrics", None),
    "its machine": ("GET", "/v1/agent/host", None),
    "its memory": ("GET", "/debug/pprof/heap", None),
    "its end": ("PUT", "/v1/agent/leave", None),
    "another's end": ("PUT", f"/v1/agent/force-leave/{NODE}", None),
    "its settings again": ("PUT", "/v1/agent/reload", None),
    "its maintenance": ("PUT", "/v1/agent/maintenance?enable=true", None),
    "its token": ("PUT", "/v1/agent/token/default", {"Token": "x"}),
    "a session": ("PUT", "/v1/session/create", {}),
    "an event": ("PUT", "/v1/event/fire/x", None),
    "a peer": ("POST", "/v1/peering/token", {"PeerName": "evil"}),
    "the servers": ("GET", "/v1/operator/raft/configuration", None),
}
LISTS: Final = (
    "/v1/agent/services",
    "/v1/agent/checks",
    "/v1/agent/members",
    "/v1/catalog/services",
    "/v1/catalog/nodes",
    "/v1/health/service/echo",
    "/v1/config/service-intentions",
    "/v1/config/service-defaults",
    "/v1/internal/ui/services",
    "/v1/internal/ui/nodes",
)
"""What answers 200 to whoever asks, with what may be seen."""
ONE: Final = (
    "/v1/agent/service/echo-1",
    "/v1/discovery-chain/echo",
    "/v1/config/service-intentions/echo",
    "/v1/connect/intentions/match?by=destination&name=echo",
)


class Attacker:
    """Asks Consul's HTTP API with a token, or without."""

    def __init__(self, session: aiohttp.ClientSession, token: str | None) -> None:
        self._session = session
        self._headers = {"X-Consul-Token": token} if token else {}

    async def ask(self, request: Request) -> tuple[int, str]:
        """Return the status and what is said."""
        method, path, body = request
        async with self._session.request(method, path, json=body, headers=self._headers) as answer:
            return answer.status, await answer.text()

    async def refused(self, requests: dict[str, Request]) -> dict[str, int]:
        """Return the status of each request."""
        return {name: (await self.ask(request))[0] for name, request in requests.items()}


@pytest.fixture
async def session(authority: Authority) -> AsyncIterator[aiohttp.ClientSession]:
    """A session with Consul; there is an instance of echo, an intention, and a flag."""
    await authority.allow({"Name": "app", "Action": "allow"})
    listed = {"Name": "echo", "ID": "echo-1", "Address": "127.0.0.1", "Port": 1}
    await authority.put("/v1/agent/service/register", listed)
    await authority.put(f"/v1/kv/{FLAGS}secret", True)  # noqa: FBT003 - a flag's value
    async with aiohttp.ClientSession(authority.consul.url) as session:
        yield session
    await authority.put("/v1/agent/service/deregister/echo-1", None)


async def state(authority: Authority) -> list[Any]:
    """Everything that the attacks are after, as the operator sees it."""
    return [
        await authority.get(path)
        for path in (
            "/v1/agent/services",
            "/v1/health/service/echo",
            "/v1/catalog/nodes",
            "/v1/config/service-intentions",
            "/v1/discovery-chain/echo",
            "/v1/kv/flags?recurse=true",
            "/v1/connect/ca/configuration",
        )
    ]


# --- a service's token, and none


@pytest.mark.parametrize("what", [REGISTRATIONS, ENTRIES, SECRETS, AGENT])
async def test_a_token_is_good_for_its_own_service_alone(
    authority: Authority, session: aiohttp.ClientSession, what: dict[str, Request]
) -> None:
    """Others' instances, policy, intentions (its own too), flags, keys and the agent: 403."""
    before = await state(authority)
    answers = await Attacker(session, authority.tokens["web"]).refused(what)
    after = await state(authority)

    assert answers == dict.fromkeys(what, 403)
    assert after == before


async def test_a_token_may_shape_calls_to_its_own_service(
    authority: Authority, session: aiohttp.ClientSession
) -> None:
    """Defaults, resolver, splitter and router of itself: known, and nothing but calls to it."""
    web = Attacker(session, authority.tokens["web"])
    before = await authority.get("/v1/discovery-chain/echo")
    entries: dict[str, dict[str, Any]] = {
        "service-defaults": {"Protocol": "grpc"},
        "service-resolver": {"ConnectTimeout": "5s"},
        "service-splitter": {"Splits": [{"Weight": 100}]},
        "service-router": {"Routes": []},
    }
    written = [
        (await web.ask(config_entry(kind, "web", **fields)))[0] for kind, fields in entries.items()
    ]
    taken = [
        (await web.ask(("DELETE", f"/v1/config/{kind}/web", None)))[0]
        for kind in reversed([*entries][1:])
    ]

    assert (written, taken) == ([200] * 4, [200] * 3)
    assert await authority.get("/v1/discovery-chain/echo") == before


async def test_a_token_with_its_own_flags_reads_no_others(
    authority: Authority, session: aiohttp.ClientSession
) -> None:
    """What makes flags readable, a rule for one prefix, opens that prefix and nothing beside."""
    rules = 'key_prefix "flags/web/" { policy = "read" }'
    policy = await authority.put("/v1/acl/policy", {"Name": "flags-web", "Rules": rules})
    given = {"ServiceIdentities": [{"ServiceName": "web"}], "Policies": [{"ID": policy["ID"]}]}
    token = (await authority.put("/v1/acl/token", given))["SecretID"]
    await authority.put("/v1/kv/flags/web/mine", 1)
    web = Attacker(session, token)
    own = await web.ask(("GET", "/v1/kv/flags/web/?recurse=true", None))
    others = [
        await web.ask(("GET", path, None))
        for path in (f"/v1/kv/{FLAGS}?recurse=true", f"/v1/kv/{FLAGS}secret", "/v1/kv/?keys=true")
    ]
    write, _ = await web.ask(("PUT", "/v1/kv/flags/web/mine", "2"))

    assert (own[0], json.loads(own[1])[0]["Key"]) == (200, "flags/web/mine")
    assert [status in {403, 404} or "echo" not in text for status, text in others] == [True] * 3
    assert "secret" not in "".join(text for status, text in others if status == 200)
    assert write == 403


@pytest.mark.parametrize("token", [None, str(uuid.uuid4())], ids=["none", "unknown"])
async def test_without_a_token_the_agent_shows_and_changes_nothing(
    authority: Authority, session: aiohttp.ClientSession, token: str | None
) -> None:
    """Lists are empty, the rest is refused; what is left are roots, the leader and the version."""
    nobody = Attacker(session, token)
    before = await state(authority)
    refusals = {
        name: status
        for requests in (REGISTRATIONS, ENTRIES, SECRETS, AGENT)
        for name, status in (await nobody.refused(requests)).items()
    }
    lists = {path: await nobody.ask(("GET", path, None)) for path in LISTS}
    ones = {path: (await nobody.ask(("GET", path, None)))[0] for path in ONE}
    _, public = await nobody.ask(("GET", "/v1/connect/ca/roots", None))
    after = await state(authority)

    # an event with an unknown token is refused as an error
    assert {name for name, status in refusals.items() if status not in {403, 500}} == set()
    assert [name for name, status in refusals.items() if status == 500] in ([], ["an event"])
    assert {text.strip() for status, text in lists.values() if status == 200} <= {"[]", "{}"}
    assert {status for status, _ in lists.values()} <= {200, 403}
    assert ones == dict.fromkeys(ONE, 403)
    assert "PRIVATE" not in public
    assert after == before


async def signed(
    authority: Authority, token: str | None, ids: Iterable[str], *dns: str
) -> x509.Certificate | grpc.StatusCode:
    """Ask Consul to sign for services; return the certificate, or why not."""
    domain = (await authority.get("/v1/connect/ca/roots"))["TrustDomain"]
    names = [x509.UniformResourceIdentifier(each.format(domain)) for each in ids]
    request = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([]))
        .add_extension(
            x509.SubjectAlternativeName([*names, *map(x509.DNSName, dns)]), critical=False
        )
        .sign(ec.generate_private_key(ec.SECP256R1()), hashes.SHA256())
    )
    async with ConsulAuthority(authority.consul.grpc, token) as consul:
        try:
            chain = await consul.sign(request.public_bytes(PEM).decode())
        except grpc.aio.AioRpcError as error:
            return error.code()
    return x509.load_pem_x509_certificates(chain)[0]


async def test_a_token_signs_for_its_own_service_alone(authority: Authority) -> None:
    """No other service, no second name, no agent or server, no other domain; nobody without."""
    web = "spiffe://{}/ns/default/dc/dc1/svc/web"
    echo = "spiffe://{}/ns/default/dc/dc1/svc/echo"
    asked = {
        "other": [echo],
        "both": [web, echo],
        "both, the other first": [echo, web],
        "none": [],
        "an agent": ["spiffe://{}/agent/client/dc/dc1/id/x"],
        "a server": ["spiffe://{}/agent/server/dc/dc1"],
        "another domain": [web.format("11111111-2222-3333-4444-555555555555.consul")],
        "a path": [web + "/../echo"],
    }
    token = authority.tokens["web"]
    answers = {name: await signed(authority, token, ids) for name, ids in asked.items()}
    nobody = [await signed(authority, each, [web]) for each in (None, str(uuid.uuid4()))]
    own = await signed(authority, token, [web])

    assert {name for name, each in answers.items() if isinstance(each, x509.Certificate)} == set()
    assert answers["other"] is grpc.StatusCode.PERMISSION_DENIED
    assert nobody == [grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAUTHENTICATED]
    assert isinstance(own, x509.Certificate)
    assert not own.extensions.get_extension_for_class(x509.BasicConstraints).value.ca


# --- a certificate


def served_so_often(method: str, code: str) -> float:
    """How many calls of a method ended with a code in this process."""
    labels = {"rpc_method": f"{SERVICE}/{method}", "rpc_response_status_code": code}
    return REGISTRY.get_sample_value("rpc_server_call_duration_seconds_count", labels) or 0.0


@asynccontextmanager
async def counted(
    authority: Authority, folder: Path
) -> AsyncIterator[tuple[Mesh, list[str], list[AccessRecord]]]:
    """Serve as echo; what handlers were reached, and what was logged of calls."""
    reached: list[str] = []
    lines: list[AccessRecord] = []

    def counting(name: str) -> Any:
        async def one(_request: bytes, _context: Any) -> bytes:
            reached.append(name)
            return b""

        async def many(_request: bytes, _context: Any) -> AsyncIterator[bytes]:
            reached.append(name)
            yield b""

        made = (grpc.unary_unary_rpc_method_handler, grpc.unary_stream_rpc_method_handler)
        return made[name == "Watch"]((one, many)[name == "Watch"])

    async with joined(authority, folder, "echo") as mesh:
        server = mesh.server(status_codes={})
        server._pipeline.access_log = lines.append
        server.add_registered_method_handlers(SERVICE, {n: counting(n) for n in ("Get", "Watch")})
        serving = asyncio.create_task(mesh.serve(server))
        try:
            await until(lambda: bool(mesh.address), seconds=20)
            yield mesh, reached, lines
        finally:
            mesh.draining.set()
            await serving


def shown(folder: Path, instance: str) -> grpc.ChannelCredentials:
    """The credentials of a process, as who reads its files has them."""
    files = (folder / "identities" / instance / f"{n}.pem" for n in ("roots", "key", "certificate"))
    return grpc.ssl_channel_credentials(*(file.read_bytes() for file in files))


async def status_of(channel: grpc.aio.Channel, path: str, *, many: bool, **given: Any) -> Any:
    """The status of a call that says nothing."""
    method: Any = channel.unary_stream(path) if many else channel.unary_unary(path)
    try:
        if many:
            async for _ in method(b"", timeout=10, **given):
                pass
        else:
            await method(b"", timeout=10, **given)
    except grpc.aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK


async def test_without_an_intention_no_handler_is_reached(
    authority: Authority, tmp_path: Path
) -> None:
    """A good certificate, whatever else is claimed: denied, logged and counted, every method."""
    denied = grpc.StatusCode.PERMISSION_DENIED
    await authority.allow({"Name": "app", "Action": "allow"})
    claims = (
        ("mesh-caller", "app"),
        ("x-forwarded-client-cert", "URI=spiffe://x/ns/default/dc/dc1/svc/app"),
        ("x-consul-token", authority.tokens["app"]),
        ("authorization", "Bearer e30.e30.e30"),
    )
    paths = {
        f"/{SERVICE}/Get": False,
        f"/{SERVICE}/Watch": True,
        f"/{SERVICE}/Unknown": False,
        "/grpc.health.v1.Health/Check": False,
        "/xds.service.orca.v3.OpenRcaService/StreamCoreMetrics": True,
        "/grpc.channelz.v1.Channelz/GetServers": False,
        "/envoy.service.status.v3.ClientStatusDiscoveryService/FetchClientStatus": False,
        f"/{reflection.SERVICE_NAME}/ServerReflectionInfo": True,
    }
    before = {name: served_so_often(name, denied.name) for name in ("Get", "Watch")}
    async with AsyncExitStack() as stack:
        mesh, reached, lines = await stack.enter_async_context(counted(authority, tmp_path))
        app = await stack.enter_async_context(joined(authority, tmp_path, "app"))
        await until_code(app.channel("echo"), grpc.StatusCode.OK)
        web = await stack.enter_async_context(joined(authority, tmp_path, "web"))
        await identified(web)
        reached.clear()
        lines.clear()
        async with tls_channel(mesh.address, shown(tmp_path, "web-1")) as channel:
            codes = {
                path: await status_of(channel, path, many=many, metadata=claims)
                for path, many in paths.items()
            }
        logged = [json.loads(line.line()) for line in lines]
        after = {name: served_so_often(name, denied.name) for name in ("Get", "Watch")}
    figure("X7", f"{len(paths)} methods called without an intention: {len(reached)} reached")

    assert codes == dict.fromkeys(paths, denied)
    assert reached == []
    assert {(line["code"], line["reason"], line["caller"]) for line in logged} == {
        (denied.name, "INTENTION_DENIED", "web")
    }
    assert [f"/{line['method']}" for line in logged] == list(paths)
    assert {name: after[name] - before[name] for name in after} == {"Get": 1, "Watch": 1}


@pytest.mark.parametrize("name", ["{}", "*{}"], ids=["as it is", "with a wildcard"])
async def test_a_name_in_disguise_is_not_believed(
    authority: Authority,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    """A DNS name that spells echo's SPIFFE id, which Consul signs, makes nobody echo."""
    await authority.allow({"Name": "*", "Action": "allow"})
    domain = (await authority.get("/v1/connect/ca/roots"))["TrustDomain"]
    echo = f"spiffe://{domain}/ns/default/dc/dc1/svc/echo"
    spelt = name.format(echo if name == "{}" else echo[echo.index(".consul") :])
    honest = Identity._request

    def disguised(identity: Identity, domain: str) -> str:
        if identity._service != "app":
            return honest(identity, domain)
        own = SpiffeId(domain=domain, datacenter="dc1", service="app")
        names = [x509.UniformResourceIdentifier(str(own)), x509.DNSName(spelt)]
        request = (
            x509.CertificateSigningRequestBuilder()
            .subject_name(x509.Name([]))
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .sign(identity._key, hashes.SHA256())
        )
        return request.public_bytes(PEM).decode()

    monkeypatch.setattr(Identity, "_request", disguised)
    async with AsyncExitStack() as stack:
        impostor = await stack.enter_async_context(joined(authority, tmp_path, "app"))
        server = impostor.server(status_codes={})
        server.add_registered_method_handlers(SERVICE, handlers(impostor))
        serving = asyncio.create_task(impostor.serve(server))
        await until(lambda: bool(impostor.address), seconds=20)
        chain = (tmp_path / "identities" / "app-1" / "certificate.pem").read_bytes()
        (leaf, *_) = x509.load_pem_x509_certificates(chain)
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        port = int(impostor.address.rpartition(":")[2])
        listed = {"Name": "echo", "ID": "echo-9", "Address": "127.0.0.1", "Port": port}
        await authority.put("/v1/agent/service/register", listed)
        web = await stack.enter_async_context(joined(authority, tmp_path, "web"))
        await identified(web)
        channel = web.channel("echo")
        await until(lambda: web._directory.endpoint_count("echo") == 1, seconds=20)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(channel, timeout=5)
        await authority.put("/v1/agent/service/deregister/echo-9", None)
        impostor.draining.set()
        await serving

    assert names.get_values_for_type(x509.DNSName) == [spelt]
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert "permitted subtree violation" in (caught.value.details() or "")


async def test_an_expired_certificate_is_refused(tmp_path: Path) -> None:
    """By servers before any handler, and by clients, although the mesh's own root signed it."""
    signer = Signer()
    key = ec.generate_private_key(ec.SECP256R1())
    private = key.private_bytes(
        PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    leaves = {
        name: signer.leaf(key.public_key(), "echo", begins=timedelta(minutes=minutes))
        for name, minutes in (("good", -30), ("expired", -61), ("of tomorrow", 24 * 60))
    }
    reached: list[str] = []

    async def handler(_request: bytes, context: Any) -> bytes:
        reached.append(context.auth_context()["peer_spiffe_id"][0].decode())
        return b""

    @asynccontextmanager
    async def listening(credentials: grpc.ServerCredentials) -> AsyncIterator[str]:
        server = grpc.aio.server()
        method: Any = {"Get": grpc.unary_unary_rpc_method_handler(handler)}
        server.add_registered_method_handlers(SERVICE, method)
        port = server.add_secure_port("127.0.0.1:0", credentials)
        await server.start()
        try:
            yield f"127.0.0.1:{port}"
        finally:
            await server.stop(None)

    async def tried(address: str, roots: bytes, *own: bytes) -> grpc.StatusCode:
        async with tls_channel(address, grpc.ssl_channel_credentials(roots, *own)) as channel:
            code: grpc.StatusCode = await status_of(channel, f"/{SERVICE}/Get", many=False)
            return code

    async with kept(signer, tmp_path) as identity:
        await asyncio.wait_for(identity.ready.wait(), 10)
        roots = (tmp_path / "roots.pem").read_bytes()
        async with listening(identity.server_credentials()) as address:
            clients = {
                name: await tried(address, roots, private, leaf) for name, leaf in leaves.items()
            }
        calls = list(reached)
        servers = {}
        for name, leaf in leaves.items():
            mutual = grpc.ssl_server_credentials(
                [(private, leaf)], root_certificates=roots, require_client_auth=True
            )
            async with listening(mutual) as address:
                servers[name] = await tried(address, roots, private, leaves["good"])

    expected = dict.fromkeys(leaves, grpc.StatusCode.UNAVAILABLE)
    assert clients == servers == expected | {"good": grpc.StatusCode.OK}
    assert calls == ["spiffe://first.consul/ns/default/dc/dc1/svc/echo"]


# --- secrets


def secrets(key: Path, *tokens: str) -> set[str]:
    """What must be nowhere: tokens, whole and in their parts, and lines of a key."""
    inside = {line for line in key.read_text().splitlines() if line[:1] not in {"-", ""}}
    parts = {part for token in tokens for part in token.split(".")[1:]}
    return inside | parts | set(tokens)


def leaks(text: str, hidden: set[str]) -> list[str]:
    """The lines that have something of what must not be there."""
    return [line for line in text.splitlines() if any(each in line for each in hidden)]


class Run:
    """A process of echo in the secure profile, and all that it writes to anybody."""

    def __init__(self, process: asyncio.subprocess.Process, output: Path) -> None:
        self.process = process
        self._output = output

    @classmethod
    async def start(cls, authority: Authority, folder: Path, token: str) -> "Run":
        """Run it with a token, as talkative as it can be."""
        output = folder.with_suffix(".output")
        with output.open("wb") as file:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "tests.consulmesh.xds_process"),
                cwd=ROOT,
                env={
                    "PATH": os.environ["PATH"],
                    "CONSUL_HTTP_ADDR": authority.consul.url,
                    "CONSUL_GRPC_ADDR": authority.consul.grpc,
                    "CONSUL_HTTP_TOKEN": token,
                    "GRPC_VERBOSITY": "debug",
                    "MESH_INSTANCE_ID": "echo-1",
                    "MESH_LOG_LEVEL": "debug",
                    "MESH_SECURE": "true",
                    "MESH_STATE_DIR": str(folder),
                    "PYTHONASYNCIODEBUG": "1",
                },
                stdout=file,
                stderr=file,
            )
        return cls(process, output)

    def text(self) -> str:
        """What it wrote so far."""
        return self._output.read_text(errors="replace")

    async def wrote(self, event: str) -> dict[str, Any]:
        """Wait for a log event; return its line."""
        found: list[dict[str, Any]] = []

        def written() -> bool:
            lines = (line for line in self.text().splitlines() if f'"event":"{event}"' in line)
            found.extend(json.loads(line) for line in lines if line.endswith("}"))
            return bool(found)

        await until(written, seconds=30)
        return found[0]

    async def kill(self) -> None:
        """End it at once."""
        if self.process.returncode is None:
            self.process.kill()
        await self.process.wait()


async def test_secrets_are_in_no_output(tmp_path: Path) -> None:
    """Calls, refusals, an unknown token, a defect, Consul away: tokens and keys are never said."""
    jwt = LocalIssuer(tmp_path / "issuer").token("ann", {"customer"})
    bearer = (("authorization", f"Bearer {jwt}"),)
    wrong = str(uuid.uuid4())
    async with secure_consul() as authority, AsyncExitStack() as stack:
        await authority.allow({"Name": "web", "Action": "allow"})
        runs = {
            name: await Run.start(authority, tmp_path / name, token)
            for name, token in (("right", authority.tokens["echo"]), ("wrong", wrong))
        }
        for run in runs.values():
            stack.push_async_callback(run.kill)
        serving = await runs["right"].wrote("serving")
        codes = {}
        for name in ("web", "app"):
            mesh = await stack.enter_async_context(joined(authority, tmp_path, name))
            await identified(mesh)
            async with tls_channel(serving["address"], shown(tmp_path, f"{name}-1")) as channel:
                codes[name] = [
                    await status_of(channel, f"/{SERVICE}/{method}", many=False, metadata=bearer)
                    for method in ("Get", "Unknown")
                ]
        url = f"http://127.0.0.1:{serving['metrics_port']}/metrics"
        async with aiohttp.ClientSession() as session, session.get(url) as answer:
            metrics = await answer.text()
        await runs["wrong"].wrote("consul_watch_interrupted")
        await authority.consul.kill()
        away = Run.start(authority, tmp_path / "away", authority.tokens["echo"])
        runs["away"] = await away
        stack.push_async_callback(runs["away"].kill)
        await runs["away"].wrote("consul_watch_interrupted")
        await runs["right"].wrote("roots_not_read")
        async with tls_channel(serving["address"], shown(tmp_path, "web-1")) as channel:
            await status_of(channel, f"/{SERVICE}/Fail", many=False, metadata=bearer)
        await runs["right"].wrote("job_failed")
        for run in runs.values():
            await run.kill()
        key = tmp_path / "right" / "identities" / "echo-1" / "key.pem"
        known = (jwt, wrong, authority.consul.token or "", *authority.tokens.values())
        hidden = secrets(key, *known)
        written = {name: run.text() for name, run in runs.items()}
    lines = sum(len(text.splitlines()) for text in (*written.values(), metrics))
    found = sum(len(leaks(text, hidden)) for text in (*written.values(), metrics))
    figure("X6", f"{lines} lines of secure processes searched for {len(hidden)} secrets: {found}")

    ok, denied = grpc.StatusCode.OK, grpc.StatusCode.PERMISSION_DENIED
    assert codes == {"web": [ok, grpc.StatusCode.UNIMPLEMENTED], "app": [denied] * 2}
    assert len(hidden) > 8
    assert {name: leaks(text, hidden) for name, text in written.items()} == {
        "right": [],
        "wrong": [],
        "away": [],
    }
    assert leaks(metrics, hidden) == []
    assert "INTENTION_DENIED" in written["right"]


async def test_what_is_shown_has_no_secrets(authority: Authority, tmp_path: Path) -> None:
    """Topology (`GET /v1/mesh`), what xDS says (CSDS), `consulmesh.debug`, metrics and reprs."""
    await authority.allow({"Name": "web", "Action": "allow"})
    token = authority.tokens["web"]
    async with (
        served(authority, tmp_path),
        joined(authority, tmp_path, "web", isolated=False) as web,
    ):
        await until_code(web.channel("echo"), grpc.StatusCode.OK)
        assert web._security is not None
        said = {
            "topology": repr(await web.topology()),
            "xds": cygrpc.dump_xds_configs().decode(errors="replace"),
            "metrics": generate_latest(REGISTRY).decode(),
            "reprs": repr(
                [web, web.config, web._consul, web._security.identity, web._security.authorization]
            ),
        }
        for form in ((), ("--json",)):
            for given in (token, str(uuid.uuid4())):
                process = await asyncio.create_subprocess_exec(
                    *(sys.executable, "-m", "consulmesh.debug", "echo", "--of", "web", *form),
                    cwd=ROOT,
                    env={
                        "PATH": os.environ["PATH"],
                        "CONSUL_HTTP_ADDR": authority.consul.url,
                        "CONSUL_HTTP_TOKEN": given,
                    },
                    stdout=asyncio.subprocess.PIPE,
                    stderr=asyncio.subprocess.STDOUT,
                )
                output, _ = await process.communicate()
                said[f"debug {form} {given == token}"] = output.decode()
        hidden = secrets(tmp_path / "identities" / "web-1" / "key.pem", *authority.tokens.values())

    assert "echo-1" in said["topology"]
    assert "echo" in said["xds"]
    assert {name: leaks(text, hidden) for name, text in said.items()} == {name: [] for name in said}


# --- ports in plain text


async def test_plain_ports_change_nothing(authority: Authority, tmp_path: Path) -> None:
    """Health answers health alone, metrics are read alone, and no NACK of a stranger is believed.

    Who reads the ADS of a process learns what gRPC core has, which has no secrets.
    """
    await authority.allow({"Name": "web", "Action": "allow"})
    async with served(authority, tmp_path) as echo, joined(authority, tmp_path, "web") as web:
        await until_code(web.channel("echo"), grpc.StatusCode.OK)
        paths = [
            f"/{SERVICE}/Get",
            f"/{reflection.SERVICE_NAME}/ServerReflectionInfo",
            "/grpc.channelz.v1.Channelz/GetServers",
            "/envoy.service.status.v3.ClientStatusDiscoveryService/FetchClientStatus",
        ]
        async with grpc.aio.insecure_channel(f"127.0.0.1:{echo._health_port}") as channel:
            health = [await status_of(channel, path, many=False) for path in paths]
        url = f"http://127.0.0.1:{echo.metrics_port}"
        async with aiohttp.ClientSession(url) as session:
            metrics = [
                (await session.request(method, path)).status
                for method, path in (("GET", "/"), ("POST", "/metrics"), ("DELETE", "/metrics"))
            ]
        (config,) = (value for name, value in web._options if "xds_bootstrap" in name)
        (ads,) = json.loads(config)["xds_servers"]
        async with grpc.aio.insecure_channel(ads["server_uri"]) as channel:
            stream: Any = AggregatedDiscoveryServiceStub(channel).StreamAggregatedResources()
            request = DiscoveryRequest(type_url=ResourceType.LISTENER, resource_names=["echo"])
            await stream.write(request)
            answer = await stream.read()
            request.response_nonce = answer.nonce
            request.error_detail.message = "no"
            await stream.write(request)
            for type_ in ResourceType:
                await stream.write(DiscoveryRequest(type_url=type_, resource_names=["echo", "x"]))
            after = [await code_of(web.channel("echo")) for _ in range(20)]
            stream.cancel()
        hidden = secrets(tmp_path / "identities" / "web-1" / "key.pem", *authority.tokens.values())

    assert health == [grpc.StatusCode.UNIMPLEMENTED] * len(paths)
    assert metrics == [404, 405, 405]
    assert after == [grpc.StatusCode.OK] * 20
    assert leaks(str(answer), hidden) == []
