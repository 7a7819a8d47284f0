"""Request bodies: bounded in size and in time, and read before anything else is done."""

import asyncio
from datetime import timedelta
from typing import Any

import orjson
from starlette.requests import ClientDisconnect, Request

from gateway_bff.connection import ClientGone
from gateway_bff.problems import Problem


class BufferedRequest(Request):
    """A request whose body has arrived."""

    def __init__(self, request: Request, body: bytes) -> None:
        super().__init__(request.scope, request.receive)
        self._body = body

    async def json(self) -> Any:
        """The body as JSON (RFC 8259, no NaN); raises json.JSONDecodeError."""
        return orjson.loads(self._body)


async def buffered(request: Request, limit: int, patience: timedelta) -> BufferedRequest:
    """The request with its body; raises BODY_TOO_LARGE, REQUEST_TIMEOUT or ClientGone."""
    try:
        async with asyncio.timeout(patience.total_seconds()):
            return BufferedRequest(request, await _read(request, limit))
    except TimeoutError:
        raise Problem("REQUEST_TIMEOUT", headers={"Connection": "close"}) from None
    except ClientDisconnect:
        raise ClientGone from None


async def _read(request: Request, limit: int) -> bytes:
    if int(request.headers.get("content-length", 0)) > limit:
        raise _too_large(request, limit)
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit:
            raise _too_large(request, limit)
    return bytes(body)


def _too_large(request: Request, limit: int) -> Problem:
    """The rest is thrown away by the HTTP server, so that a client that sends it can still read.

    One that asked before sending must not be left in doubt whether it still has to send.
    """
    headers = {"Connection": "close"} if "expect" in request.headers else {}
    return Problem("BODY_TOO_LARGE", f"At most {limit} bytes.", headers=headers)
