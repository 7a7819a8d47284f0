"""mTLS and intentions: real processes of the mesh on a Consul that denies what nothing allows."""

import asyncio
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from grpc_health.v1 import (  # type: ignore[import-untyped]  # it has no stubs
    health_pb2,
    health_pb2_grpc,
)

from consulmesh import Mesh, MeshConfig
from consulmesh.consul_api import ConsulApi, Query
from consulmesh.testing.ports import free_port
from tests.consulmesh.consuls import asked_until
from tests.consulmesh.secured import (
    Authority,
    code_of,
    identified,
    joined,
    served,
    tls_channel,
    until_code,
)
from tests.consulmesh.xds_process import SERVICE, handlers
from tests.consulmesh.xds_world import call, until


async def test_calls_are_allowed_by_intentions(authority: Authority, tmp_path: Path) -> None:
    """Who is allowed is served, by method too; a change holds at once; all others are denied."""
    ok, denied = grpc.StatusCode.OK, grpc.StatusCode.PERMISSION_DENIED
    await authority.allow({"Name": "web", "Action": "allow"})
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(served(authority, tmp_path))
        web = (await stack.enter_async_context(joined(authority, tmp_path, "web"))).channel("echo")
        app = (await stack.enter_async_context(joined(authority, tmp_path, "app"))).channel("echo")
        plain = [await code_of(web), await code_of(web, "Slow"), await code_of(app)]
        only_get = {"Action": "allow", "HTTP": {"PathExact": f"/{SERVICE}/Get"}}
        await authority.allow({"Name": "web", "Permissions": [only_get]})
        await until_code(web, denied, "Slow")
        by_method = [await code_of(web), await code_of(web, "Slow"), await code_of(app)]
        await authority.allow({"Name": "app", "Action": "allow"})
        await until_code(app, ok)
        changed = [await code_of(web), await code_of(app, "Slow")]

    assert plain == [ok, ok, denied]
    assert by_method == [ok, denied, denied]
    assert changed == [denied, ok]


async def test_strangers_do_not_get_in(authority: Authority, tmp_path: Path) -> None:
    """Without a certificate, or with one of another CA, no handler is reached."""
    await authority.allow({"Name": "*", "Action": "allow"})
    key = ec.generate_private_key(ec.SECP256R1())
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    async with served(authority, tmp_path) as mesh:
        roots = (tmp_path / "identities" / "echo-1" / "roots.pem").read_bytes()
        strangers = {
            "plain text": grpc.aio.insecure_channel(mesh.address),
            "no certificate": tls_channel(mesh.address, grpc.ssl_channel_credentials(roots)),
            "foreign": tls_channel(
                mesh.address, grpc.ssl_channel_credentials(roots, private, _self_signed(key))
            ),
        }
        codes = {}
        for name, channel in strangers.items():
            async with channel:
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await call(channel)
                codes[name] = caught.value.code()

    assert codes == dict.fromkeys(strangers, grpc.StatusCode.UNAVAILABLE)


def _self_signed(key: ec.EllipticCurvePrivateKey) -> bytes:
    """A certificate that says to be web, by nobody's word but its own."""
    now = datetime.now(UTC)
    uri = "spiffe://11111111-2222-3333-4444-555555555555.consul/ns/default/dc/dc1/svc/web"
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(x509.Name([]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri)]), critical=True
        )
        .sign(key, hashes.SHA256())
    )
    return certificate.public_bytes(serialization.Encoding.PEM)


async def test_a_tls_client_with_a_certificate_is_known_by_it(
    authority: Authority, tmp_path: Path
) -> None:
    """A certificate of the mesh is what counts, whatever client shows it."""
    await authority.allow({"Name": "web", "Action": "allow"})
    async with served(authority, tmp_path) as mesh, joined(authority, tmp_path, "web") as web:
        await until_code(web.channel("echo"), grpc.StatusCode.OK)
        folder = tmp_path / "identities" / "web-1"
        credentials = grpc.ssl_channel_credentials(
            *((folder / f"{name}.pem").read_bytes() for name in ("roots", "key", "certificate"))
        )
        async with tls_channel(mesh.address, credentials) as channel:
            answer = await call(channel)
        modes = {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()}

    assert answer == "echo-1"
    assert modes == {"roots.pem": 0o600, "key.pem": 0o600, "certificate.pem": 0o600}
    assert folder.stat().st_mode & 0o077 == 0


async def test_a_server_that_is_another_service_is_refused(
    authority: Authority, tmp_path: Path
) -> None:
    """A process with app's certificate at an address that is listed as echo's gets no call."""
    await authority.allow({"Name": "*", "Action": "allow"})
    async with AsyncExitStack() as stack:
        impostor = await stack.enter_async_context(joined(authority, tmp_path, "app"))
        server = impostor.server(status_codes={})
        server.add_registered_method_handlers(SERVICE, handlers(impostor))
        serving = asyncio.create_task(impostor.serve(server))
        await until(lambda: bool(impostor.address), seconds=20)
        port = int(impostor.address.rpartition(":")[2])
        listed = {"Name": "echo", "ID": "echo-9", "Address": "127.0.0.1", "Port": port}
        await authority.put("/v1/agent/service/register", listed)
        web = await stack.enter_async_context(joined(authority, tmp_path, "web"))
        await identified(web)
        channel = web.channel("echo")
        await until(lambda: web._directory.endpoint_count("echo") == 1, seconds=20)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(channel)
        await authority.put("/v1/agent/service/deregister/echo-9", None)
        impostor.draining.set()
        await serving

    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert "SAN" in (caught.value.details() or "")


async def test_a_new_root_costs_no_call(authority: Authority, tmp_path: Path) -> None:
    """Consul rotates its root under load: everybody is signed anew, and no call fails."""
    await authority.allow({"Name": "web", "Action": "allow"})
    failures: list[grpc.aio.AioRpcError] = []
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(served(authority, tmp_path))
        web = await stack.enter_async_context(joined(authority, tmp_path, "web"))
        channel = web.channel("echo")
        await until_code(channel, grpc.StatusCode.OK)
        stop = asyncio.Event()
        made = 0

        async def load() -> None:
            nonlocal made
            while not stop.is_set():
                try:
                    made += bool(await call(channel))
                except grpc.aio.AioRpcError as error:
                    failures.append(error)
                await asyncio.sleep(0.005)

        before = [_certificate(mesh) for mesh in (server, web)]
        calling = asyncio.create_task(load())
        await authority.rotate()
        await until(
            lambda: (
                [_certificate(m) != b for m, b in zip((server, web), before, strict=True)]
                == [True, True]
            ),
            seconds=30,
        )
        await asyncio.sleep(2)  # gRPC core looks at the files every second
        await until(lambda: bool(failures) or made > 100)
        stop.set()
        await calling
        late = await stack.enter_async_context(joined(authority, tmp_path, "web", 2))
        answer = await call(late.channel("echo"), timeout=20, wait_for_ready=True)

    assert failures == []
    assert answer == "echo-1"


def _certificate(mesh: Mesh) -> bytes:
    assert mesh._security is not None
    assert mesh._security.identity.certificate is not None
    return mesh._security.identity.certificate.chain


async def test_nobody_is_signed_as_somebody_else(authority: Authority, tmp_path: Path) -> None:
    """A process with another service's token has no certificate, and serves nobody."""
    config = MeshConfig(
        version="1.0.0",
        consul_url=authority.consul.url,
        consul_grpc=authority.consul.grpc,
        consul_token=authority.tokens["web"],
        state_dir=tmp_path,
        isolated=True,
        secure=True,
    )
    async with Mesh.join("echo", config) as mesh:
        assert mesh._security is not None
        await until(lambda: bool(mesh._security and mesh._security.domains()), seconds=20)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(mesh._security.ready(), 1.0)


async def test_health_is_on_the_port_that_was_asked_for(
    authority: Authority, tmp_path: Path
) -> None:
    """Who cannot ask Consul, as a kubelet, knows the port; it answers for the proto service."""
    port = free_port()
    async with served(authority, tmp_path, health_port=port):
        async with ConsulApi(authority.consul.url, authority.consul.token) as api:
            listed = (await asked_until(api, Query.health("echo", passing="1"), bool)).data
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            asked = health_pb2_grpc.HealthStub(channel)
            answers = [
                await asked.Check(health_pb2.HealthCheckRequest(service=name), timeout=10)
                for name in ("", SERVICE)
            ]

    assert [answer.status for answer in answers] == [health_pb2.HealthCheckResponse.SERVING] * 2
    assert [entry["Service"]["Port"] for entry in listed] != [port]


async def test_health_is_all_that_is_plain(authority: Authority, tmp_path: Path) -> None:
    """Consul's check passes by a port of its own, which serves nothing but health."""
    await authority.allow({"Name": "*", "Action": "allow"})
    async with served(authority, tmp_path) as mesh:
        async with ConsulApi(authority.consul.url, authority.consul.token) as api:
            await asked_until(api, Query.health("echo", passing="1"), bool)
        async with grpc.aio.insecure_channel(f"127.0.0.1:{mesh._health_port}") as channel:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call(channel)

    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
