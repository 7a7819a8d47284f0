"""The secure profile: the whole system by `make up SECURE=1`, and who gets in where."""

import asyncio
import json
import os
import ssl
import stat
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import grpc
import psutil
import pytest

from bench import oracle
from bench.steady import some_searches
from bench.subject import Subject
from consulmesh.client_certificate import client_certificate
from consulmesh.config import MeshConfig
from consulmesh.consul_api import ConsulApi
from consulmesh.errors import Status
from consulmesh.identity import dns_name
from consulmesh.local_issuer import LocalIssuer
from consulmesh.mesh import ADMIN_PORT
from consulmesh.operators import OPERATOR
from tests.consulmesh.processes import Process
from tests.e2e.conftest import run, started
from tests.e2e.test_walk import booked, found, quoted
from tests.interop.programs import Go, Language, MissingError, Node, client
from tests.interop.world import Answer, Client
from tests.loaded_timetable import LoadedTimetable
from tools import callers
from tools.binaries import ROOT
from tools.credentials import RELEASES
from tools.operators import config
from tools.programs import ADS, CONSUL, GATEWAY, IDENTITIES, SERVICES, Settings
from tools.supervision import Supervisor

pytestmark = pytest.mark.timeout(600)  # the start of a system beside another one

AT_ONCE: Final = 8
DEADLINE: Final = 20.0  # seconds; a stream that says nothing until then was let in
HEALTH: Final = "/grpc.health.v1.Health/Check"
DENIED: Final = "INTENTION_DENIED"


@pytest.fixture(scope="module")
def secure(
    tmp_path_factory: pytest.TempPathFactory, loaded_timetable: LoadedTimetable
) -> Iterator[Settings]:
    """A system in the secure profile."""
    folder = tmp_path_factory.mktemp("secure")
    with started(folder, "--secure", timetable=loaded_timetable) as settings:
        yield settings


@pytest.fixture
async def attached(secure: Settings) -> AsyncIterator[Subject]:
    """The secure system, with a client that is gone after the test."""
    async with Subject.attach(secure) as subject:
        yield subject


@pytest.fixture
async def consul(secure: Settings) -> AsyncIterator[ConsulApi]:
    """Its Consul, asked as an operator."""
    async with ConsulApi(
        secure.consul_url, secure.credentials.token(OPERATOR), secure.credentials.roots
    ) as api:
        yield api


def holder(settings: Settings, token: str) -> MeshConfig:
    """The configuration of who has a token of the system."""
    return replace(config(settings), consul_token=settings.credentials.token(token))


async def doors(subject: Subject) -> dict[str, str]:
    """Where one instance of each service serves gRPC; the gateway's is for admin services."""
    found = {}
    for name in (*SERVICES, ADS, GATEWAY):
        (entry,) = await subject.consul("GET", f"/v1/health/service/{name}")
        service = entry["Service"]
        port = service["Meta"][ADMIN_PORT] if name == GATEWAY else service["Port"]
        found[name] = f"{service['Address']}:{port}"
    return found


def roles(settings: Settings, role: str) -> dict[str, str]:
    """An Authorization header of the local issuer."""
    token = LocalIssuer(settings.run / "issuer").token("ann", {role})
    return {"Authorization": f"Bearer {token}"}


async def test_a_traveller_notices_nothing(attached: Subject, secure: Settings) -> None:
    """Search, quote and book through the gateway, and an operator sees the whole mesh."""
    itinerary = (await found(attached, some_searches()[0]))[0]
    quote = await quoted(attached, itinerary)
    headers = roles(secure, "customer") | {"Idempotency-Key": str(uuid.uuid4())}
    status, booking = await booked(attached, quote, headers)
    url = f"{secure.gateway_url}/v1/mesh"
    async with attached.http.get(url, headers=roles(secure, "operator")) as answer:
        mesh = await answer.json()

    assert status == 201, booking
    oracle.check_booking(booking, quote)
    assert {service["name"] for service in mesh["services"]} == {*SERVICES, GATEWAY, ADS}
    assert {(edge["from"], edge["to"]) for edge in mesh["edges"]} == {
        (rule.caller, rule.called) for rule in callers.rules() if rule.allowed
    }


async def test_who_may_call_what_is_what_the_table_says(
    attached: Subject, secure: Settings, consul: ConsulApi
) -> None:
    """Each method of each service is called with each service's certificate."""
    at = await doors(attached)
    papers = {
        name: await client_certificate(holder(secure, name), consul, name) for name in IDENTITIES
    }
    few = asyncio.Semaphore(AT_ONCE)
    said = list(callers.rules())
    async with AsyncExitStack() as stack:
        channels = {
            (caller, called): await stack.enter_async_context(
                papers[caller].channel(called, at[called])
            )
            for caller in IDENTITIES
            for called in at
        }

        async def tried(rule: callers.Rule) -> callers.Rule:
            async with few:
                allowed = await let_in(channels[rule.caller, rule.called], rule.method)
            return replace(rule, allowed=allowed)

        seen = await asyncio.gather(*map(tried, said))
    print(f"{len(seen)} calls, {sum(rule.allowed for rule in seen)} let in")

    assert {rule.called for rule in said} == {*at}
    assert [rule for rule in seen if rule not in said] == []


async def let_in(channel: grpc.aio.Channel, method: str) -> bool:
    """Whether a call with an empty message gets past the intentions."""
    calling: Any = channel.unary_stream(f"/{method}")
    call = calling(b"", timeout=DEADLINE, wait_for_ready=True)
    try:
        await call.read()
    except grpc.aio.AioRpcError as error:
        if error.code() is grpc.StatusCode.UNAVAILABLE:
            raise
        return Status.of(error).reason != DENIED
    finally:
        call.cancel()
    return True


async def test_no_port_takes_plain_text_or_strangers(
    attached: Subject, secure: Settings, consul: ConsulApi
) -> None:
    """Without a certificate nobody gets as far as a status of a service, on any port."""
    roots = (await client_certificate(holder(secure, OPERATOR), consul)).roots
    codes: dict[tuple[str, str], grpc.StatusCode] = {}
    for name, address in (await doors(attached)).items():
        named = (("grpc.ssl_target_name_override", dns_name(name)),)
        no_certificate = grpc.ssl_channel_credentials(roots)
        for how, channel in {
            "plain": grpc.aio.insecure_channel(address),
            "no certificate": grpc.aio.secure_channel(address, no_certificate, options=named),
        }.items():
            async with channel:
                method: Any = channel.unary_unary(HEALTH)
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await method(b"", timeout=DEADLINE)
            codes[name, how] = caught.value.code()

    assert set(codes.values()) == {grpc.StatusCode.UNAVAILABLE}
    assert len(codes) == 2 * (len(SERVICES) + 2)


async def test_nothing_but_health_and_xds_is_in_plain_text(secure: Settings) -> None:
    """On whatever port a process listens, no other method is there for who has no certificate."""
    tried = {rule.method for rule in callers.rules()} - {callers.ADMIN[-1]}  # xDS, on loopback
    codes: dict[tuple[int, str], grpc.StatusCode] = {}
    few = asyncio.Semaphore(AT_ONCE)

    async def call(port: int, method: str) -> None:
        options = (("grpc.initial_reconnect_backoff_ms", 60_000),)
        async with few, grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=options) as channel:
            calling: Any = channel.unary_stream(f"/{method}")
            try:
                await calling(b"", timeout=DEADLINE).read()
                codes[port, method] = grpc.StatusCode.OK
            except grpc.aio.AioRpcError as error:
                codes[port, method] = error.code()

    ports = listening(secure)
    await asyncio.gather(*(call(port, method) for port in ports for method in tried))

    assert len(ports) > 3 * len(SERVICES)  # calls, health, metrics, xDS
    assert set(codes.values()) <= {
        grpc.StatusCode.UNAVAILABLE,  # TLS, or HTTP/1.1
        grpc.StatusCode.UNIMPLEMENTED,
    }


def listening(settings: Settings) -> set[int]:
    """Every port on which a process of the mesh listens."""
    supervisor = Supervisor(settings)
    pids = [state.pid for state in supervisor.states() if state.name != CONSUL]
    supervisor.close()
    return {
        connection.laddr.port
        for pid in pids
        for connection in psutil.Process(pid).net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
    }


async def test_consul_tells_strangers_nothing(attached: Subject, secure: Settings) -> None:
    """Consul's API is TLS alone, and without a token it lists no service, entry or key."""
    roots = ssl.create_default_context(cafile=secure.credentials.roots)
    answers = {}
    for path in ("catalog/services", "config/service-intentions", "agent/services"):
        async with attached.http.get(f"{secure.consul_url}/v1/{path}", ssl=roots) as answer:
            answers[path] = await answer.json()
    async with attached.http.get(f"{secure.consul_url}/v1/kv/flags?keys", ssl=roots) as answer:
        keys = answer.status
    plain = secure.consul_url.replace("https", "http")
    async with attached.http.get(f"{plain}/v1/status/leader") as answer:
        in_plain_text = answer.status

    assert not any(answers.values()), answers
    assert keys in {403, 404}
    assert in_plain_text == 400


async def test_a_token_is_good_for_its_own_service(
    attached: Subject, secure: Settings, consul: ConsulApi
) -> None:
    """With booking's: no certificate, instance, route, intention, flag or token of others."""
    with pytest.raises(grpc.aio.AioRpcError) as signing:
        await client_certificate(holder(secure, "booking"), consul, "pricing")
    resolver = {"Kind": "service-resolver", "Name": "pricing"}
    intention = {
        "Kind": "service-intentions",
        "Name": "booking",
        "Sources": [{"Name": "*", "Action": "allow"}],
    }
    writes: dict[str, Any] = {
        "agent/service/register": {"Name": "pricing", "ID": "pricing-9", "Port": 1},
        "agent/service/deregister/pricing-1": None,
        "config": resolver,
        "config?cas=0": intention,
        "kv/flags/booking/any": "true",
        "acl/token": {"ServiceIdentities": [{"ServiceName": "pricing"}]},
    }
    statuses = {path: await put(attached, "booking", path, body) for path, body in writes.items()}
    roots = ssl.create_default_context(cafile=secure.credentials.roots)
    url = f"{secure.consul_url}/v1/kv/flags/pricing/?recurse"
    headers = {"X-Consul-Token": secure.credentials.token("booking")}
    async with attached.http.get(url, headers=headers, ssl=roots) as answer:
        others_flags = answer.status
    flag = await put(attached, OPERATOR, "kv/flags/booking/any", "true")
    release = await put(attached, RELEASES, "config", resolver)
    async with attached.http.delete(
        f"{secure.consul_url}/v1/config/service-resolver/pricing",
        headers={"X-Consul-Token": secure.credentials.token(RELEASES)},
        ssl=roots,
    ) as answer:
        assert answer.status == 200

    assert signing.value.code() is grpc.StatusCode.PERMISSION_DENIED
    assert statuses == dict.fromkeys(writes, 403)
    assert others_flags in {403, 404}
    assert (flag, release) == (200, 200)


async def put(subject: Subject, token: str, path: str, body: Any) -> int:
    """Write to Consul with a token; returns the status."""
    credentials = subject.settings.credentials
    async with subject.http.put(
        f"{subject.settings.consul_url}/v1/{path}",
        json=body,
        headers={"X-Consul-Token": credentials.token(token)},
        ssl=ssl.create_default_context(cafile=credentials.roots),
    ) as answer:
        return answer.status


def tool(settings: Settings, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a tool as an operator does in a shell that knows nothing but the folder."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("CONSUL_HTTP", "MESH_"))}
    return subprocess.run(
        [sys.executable, "-m", *words],
        cwd=ROOT,
        env={**inherited, "MESH_STATE_DIR": str(settings.run)},
        capture_output=True,
        text=True,
        check=False,
    )


async def test_an_operators_tools_work_as_they_are(attached: Subject, secure: Settings) -> None:
    """Sagas, releases, debug and grpcurl find their token and get a certificate by themselves."""
    run_of = ("--run", str(secure.run))
    grpcurl = ("tools.operators", *run_of, "grpcurl", "-plaintext")
    address = (await doors(attached))["booking"]
    done = {
        " ".join(words[:1] + words[-2:]): await asyncio.to_thread(tool, secure, *words)
        for words in (
            ("tools.sagas", *run_of, "--consul-port", str(secure.ports.consul)),
            ("tools.release", "status", "pricing"),
            ("consulmesh.debug", "schedule", "--of", "booking"),
            (*grpcurl, address, "list"),
            (*grpcurl, "xds:///booking", "list"),
        )
    }
    folder = secure.run / OPERATOR

    assert {name: each.returncode for name, each in done.items()} == dict.fromkeys(done, 0), done
    shown = [each.stdout for each in done.values()]
    assert "every saga has ended" in shown[0]
    assert "0.1.0" in shown[1]
    assert "READY" in shown[2]
    assert "not what Consul says" not in shown[2]
    assert "flights.booking.v1.BookingService" in shown[3]
    assert shown[4] == shown[3]
    assert {path.name for path in folder.iterdir()} == {
        "environment",
        "roots.pem",
        "key.pem",
        "certificate.pem",
        "servers.pem",
    }


@pytest.mark.parametrize("language", [Go(), Node()], ids=["go", "node"])
async def test_a_program_in_another_language_calls_it(
    secure: Settings, tmp_path: Path, language: Language
) -> None:
    """With a companion that has an operator's environment, and nothing else."""
    try:
        command = client(language)
    except MissingError as reason:
        pytest.skip(str(reason))
    environment = secure.mesh_environment(OPERATOR) | {"MESH_STATE_DIR": str(tmp_path)}
    companion = Process(
        await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "consulmesh.companion", OPERATOR),
            cwd=ROOT,
            env=environment,
            stdout=asyncio.subprocess.PIPE,
        )
    )
    try:
        bootstrap = Path((await companion.logged("bootstrap"))["file"])
        calling = Client.calling([*command, "--secure"], "booking", bootstrap)
        async with calling as program:
            answer = await program.call(HEALTH)
        print(f"{psutil.Process(companion.pid).memory_info().rss >> 20} MiB")
    finally:
        await companion.kill()

    assert answer == Answer(code=0, instance="booking-1/0.1.0"), answer.details


async def test_a_running_system_keeps_its_profile(secure: Settings) -> None:
    """More instances are secure too and restart in turn; leaving the profile is refused."""
    refused = await asyncio.to_thread(run, secure, "up", "--no-secure")
    more = await asyncio.to_thread(run, secure, "up", "--replicas", "2")
    restarted = await asyncio.to_thread(run, secure, "restart", "pricing")
    listed = await asyncio.to_thread(run, secure, "ps")
    fewer = await asyncio.to_thread(run, secure, "up", "--replicas", "1")

    assert refused.returncode == 1
    assert "make down" in refused.stderr
    assert more.returncode == 0, more.stdout + more.stderr
    assert restarted.returncode == 0, restarted.stdout + restarted.stderr
    assert "booking-2" in listed.stdout
    assert "critical" not in listed.stdout
    assert fewer.returncode == 0, fewer.stdout + fewer.stderr


async def test_secrets_stay_where_they_are(secure: Settings) -> None:
    """No token is in a log, a command line, an environment or supervisor's file; files are 0600."""
    credentials = secure.credentials
    tokens = [file.read_text() for file in (secure.run / "tokens").iterdir()]
    told = {file.name: file.read_text(errors="replace") for file in secure.logs.iterdir()}
    told["supervisord.conf"] = secure.supervisor_config.read_text()
    told["operator/environment"] = (secure.run / OPERATOR / "environment").read_text()
    supervisor = Supervisor(secure)
    daemon = psutil.Process(supervisor.pid())
    supervisor.close()
    for process in (daemon, *daemon.children(recursive=True)):
        told[f"process {process.pid}"] = json.dumps([process.cmdline(), process.environ()])
    leaks = [name for name, text in told.items() if any(token in text for token in tokens)]
    kept = [
        path
        for folder in ("tokens", "tls", "operator", "identities")
        for path in (secure.run / folder).rglob("*")
        if path.is_file()
    ]
    open_to_others = [
        path for path in (*kept, secure.run / "consul.json") if path.stat().st_mode & 0o077
    ]

    assert len(tokens) == len(IDENTITIES) + 3
    assert credentials.token(OPERATOR) in tokens
    assert leaks == []
    assert open_to_others == []
    assert stat.S_IMODE((secure.run / "consul").stat().st_mode) == 0o700
