"""A small gRPC service of all four kinds of RPC, as generated code would add it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import grpc
from google.protobuf.wrappers_pb2 import StringValue
from grpc import aio

SERVICE = "test.v1.EchoService"

Context = aio.ServicerContext[Any, Any]


def text(value: str) -> StringValue:
    """A message."""
    return StringValue(value=value)


async def until(condition: Callable[[], object], seconds: float = 20.0) -> None:
    """Waits for what no event tells."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - see above
            await asyncio.sleep(0.001)


def add_echo(**handlers: Callable[[Any, Any], Any]) -> Callable[[aio.Server], None]:
    """Adds the service with these handlers: unary, collect, spread, chat (see `EchoStub`)."""
    makers = {
        "unary": ("Unary", grpc.unary_unary_rpc_method_handler),
        "collect": ("Collect", grpc.stream_unary_rpc_method_handler),
        "spread": ("Spread", grpc.unary_stream_rpc_method_handler),
        "chat": ("Chat", grpc.stream_stream_rpc_method_handler),
    }
    methods: dict[str, Any] = {}
    for name, handler in handlers.items():
        method, make = makers[name]
        methods[method] = make(
            handler,
            request_deserializer=StringValue.FromString,
            response_serializer=StringValue.SerializeToString,
        )

    def add(server: aio.Server) -> None:
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, methods),))
        server.add_registered_method_handlers(SERVICE, methods)

    return add


class EchoStub:
    """The client of the service."""

    def __init__(self, channel: aio.Channel) -> None:
        self.channel = channel
        kinds = {
            "Unary": channel.unary_unary,
            "Collect": channel.stream_unary,
            "Spread": channel.unary_stream,
            "Chat": channel.stream_stream,
            "Missing": channel.unary_unary,
        }
        generated: Any = {"_registered_method": True}  # missing in gRPC's stubs
        made: dict[str, Any] = {
            method: make(
                f"/{SERVICE}/{method}",
                request_serializer=StringValue.SerializeToString,
                response_deserializer=StringValue.FromString,
                **generated,
            )
            for method, make in kinds.items()
        }
        self.Unary = made["Unary"]
        self.Collect = made["Collect"]
        self.Spread = made["Spread"]
        self.Chat = made["Chat"]
        self.Missing = made["Missing"]
