"""Consul's certificate authority over Consul's own gRPC API: what it signs, and its roots.

The key of a certificate never leaves the process that made it. Consul's HTTP API hands out keys
with its certificates, and an agent those it has cached to whoever asks.
Source: hashicorp/consul, proto-public/pbconnectca/ca.proto; the messages here are what of it is
used, wire-compatible.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Protocol, Self

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from grpc import aio

_PACKAGE: Final = "hashicorp.consul.connectca"
_SERVICE: Final = f"/{_PACKAGE}.ConnectCAService"
_TOKEN: Final = "x-consul-token"  # noqa: S105 - the name of a header
_SIGN_SECONDS: Final = 5.0
_OPTIONS: Final = (
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 5_000),
)

_Field = descriptor_pb2.FieldDescriptorProto


@dataclass(frozen=True, slots=True, kw_only=True)
class Roots:
    """The certificates that are trusted: all of them, in PEM, and which of them signs now."""

    domain: str
    active: str
    bundle: bytes


class Authority(Protocol):
    """Who signs."""

    def watch_roots(self) -> AsyncIterator[Roots]:
        """Yield the roots now, and whenever they change; raises aio.AioRpcError."""

    async def sign(self, request: str) -> bytes:
        """Return the certificate chain for a signing request, both PEM; raises aio.AioRpcError."""


class ConsulAuthority:
    """The certificate authority of a Consul server, at its gRPC address; a context manager.

    `roots` are those of Consul's own TLS certificate (PEM); without them nothing is encrypted: for
    loopback alone.
    """

    def __init__(self, address: str, token: str | None, roots: bytes | None = None) -> None:
        self._metadata = ((_TOKEN, token),) if token else ()
        credentials = grpc.ssl_channel_credentials(roots) if roots else None
        self._channel = (
            aio.secure_channel(address, credentials, options=_OPTIONS)
            if credentials
            else aio.insecure_channel(address, options=_OPTIONS)
        )
        self._sign: Any = self._channel.unary_unary(
            f"{_SERVICE}/Sign",
            request_serializer=_SignRequest.SerializeToString,
            response_deserializer=_SignResponse.FromString,
        )
        self._watch: Any = self._channel.unary_stream(
            f"{_SERVICE}/WatchRoots",
            request_serializer=_WatchRootsRequest.SerializeToString,
            response_deserializer=_WatchRootsResponse.FromString,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._channel.close()

    async def watch_roots(self) -> AsyncGenerator[Roots, None]:
        """Yield the roots now, and whenever they change; raises aio.AioRpcError."""
        call = self._watch(_WatchRootsRequest(), metadata=self._metadata)
        try:
            async for answer in call:
                yield Roots(
                    domain=answer.trust_domain,
                    active=answer.active_root_id,
                    bundle="".join(_lines(root.root_cert) for root in answer.roots).encode(),
                )
        finally:
            call.cancel()

    async def sign(self, request: str) -> bytes:
        """Return the certificate chain for a signing request, both PEM; raises aio.AioRpcError."""
        answer = await self._sign(
            _SignRequest(csr=request), metadata=self._metadata, timeout=_SIGN_SECONDS
        )
        return _lines(answer.cert_pem).encode()


def _lines(text: str) -> str:
    return text if text.endswith("\n") else f"{text}\n"


def _messages() -> dict[str, Any]:
    """The classes of the messages, in a pool of their own: the names are Consul's."""
    text, flag = _Field.TYPE_STRING, _Field.TYPE_BOOL
    file = descriptor_pb2.FileDescriptorProto(
        name="consulmesh/connect_ca.proto", package=_PACKAGE, syntax="proto3"
    )
    shapes: dict[str, list[tuple[int, str, Any, bool]]] = {
        "SignRequest": [(1, "csr", text, False)],
        "SignResponse": [(2, "cert_pem", text, False)],
        "WatchRootsRequest": [],
        "CARoot": [
            (1, "id", text, False),
            (5, "root_cert", text, False),
            (7, "active", flag, False),
        ],
        "WatchRootsResponse": [
            (1, "active_root_id", text, False),
            (2, "trust_domain", text, False),
            (3, "roots", "CARoot", True),
        ],
    }
    for name, fields in shapes.items():
        message = file.message_type.add(name=name)
        for number, field, kind, repeated in fields:
            made = message.field.add(
                name=field,
                number=number,
                label=_Field.LABEL_REPEATED if repeated else _Field.LABEL_OPTIONAL,
            )
            if isinstance(kind, str):
                made.type = _Field.TYPE_MESSAGE
                made.type_name = f".{_PACKAGE}.{kind}"
            else:
                made.type = kind
    pool: Any = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.{name}"))
        for name in shapes
    }


_CLASSES: Final = _messages()
_SignRequest: Final = _CLASSES["SignRequest"]
_SignResponse: Final = _CLASSES["SignResponse"]
_WatchRootsRequest: Final = _CLASSES["WatchRootsRequest"]
_WatchRootsResponse: Final = _CLASSES["WatchRootsResponse"]
