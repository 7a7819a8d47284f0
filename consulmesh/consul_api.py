"""Access to Consul's HTTP API: typed queries and answers over one aiohttp session.

py-consul registers and administers (`administration`); what blocks is asked here, because
py-consul can block neither on discovery chains nor on config entries.
Source: https://developer.hashicorp.com/consul/api-docs/features/blocking
"""

import json
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from http import HTTPStatus
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import aiohttp
from yarl import URL

from consulmesh.administration import Administration

ANSWER_TIMEOUT = timedelta(seconds=10)
CONNECT_TIMEOUT = timedelta(seconds=3)
NO_WAIT = timedelta(0)


class ConsulError(Exception):
    """Consul could not be asked; what was known before is still the best there is.

    `status` is that of its error answer, None where no complete answer came at all.
    """

    def __init__(self, text: str, status: int | None = None) -> None:
        super().__init__(text)
        self.status = status


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """A read that can block until its answer changes."""

    path: str
    params: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        return "&".join([self.path, *(f"{name}={value}" for name, value in self.params)])

    @classmethod
    def services(cls) -> Self:
        """The names of all services, as the keys of an object."""
        return cls(path="/v1/catalog/services")

    @classmethod
    def health(cls, service: str, **params: str) -> Self:
        """All instances of a service with their checks; `params` are filter, passing, dc, peer."""
        return cls(path=f"/v1/health/service/{_segment(service)}", params=tuple(params.items()))

    @classmethod
    def discovery_chain(cls, service: str) -> Self:
        """The compiled chain of a service; there is one for unknown services too."""
        return cls(path=f"/v1/discovery-chain/{_segment(service)}")

    @classmethod
    def config_entry(cls, kind: str, name: str) -> Self:
        """One config entry; its absence is an answer too (data None)."""
        return cls(path=f"/v1/config/{_segment(kind)}/{_segment(name)}")

    @classmethod
    def config_entries(cls, kind: str) -> Self:
        """All config entries of a kind."""
        return cls(path=f"/v1/config/{_segment(kind)}")

    @classmethod
    def intentions(cls, destination: str) -> Self:
        """The intentions about calls to a service, those first that go before others."""
        params = (("by", "destination"), ("name", destination))
        return cls(path="/v1/connect/intentions/match", params=params)

    @classmethod
    def keys(cls, prefix: str) -> Self:
        """Every key that starts so, with its value in base64; None where there is none."""
        return cls(path=f"/v1/kv/{quote(prefix)}", params=(("recurse", "true"),))

    @classmethod
    def agent_service(cls, instance_id: str) -> Self:
        """The registration of one instance at this agent; blocks on its hash, not on an index."""
        return cls(path=f"/v1/agent/service/{_segment(instance_id)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What Consul said; `data` is None where it said 404. `index` is 0 where it sent none."""

    data: Any
    index: int = 0
    content_hash: str = ""


class ConsulApi:
    """One process's session with its Consul agent; used as an async context manager.

    `roots` is a file of what the agent's certificate is verified by, in place of the system's.
    Every method raises ConsulError, and nothing else, for what can go wrong at the other end.
    """

    def __init__(self, url: str, token: str | None = None, roots: Path | None = None) -> None:
        self.url = url
        self._roots = roots
        self._headers = {"X-Consul-Token": token} if token else {}
        self._token = token
        self._session: aiohttp.ClientSession | None = None

    def __repr__(self) -> str:
        return f"ConsulApi({self.url!r})"

    async def __aenter__(self) -> Self:
        # limit=0: every blocking query holds a connection, the default of 100 would starve others.
        # force_close: a kept connection that the agent has closed would look like an interruption.
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, force_close=True, ssl=_trusted(self._roots)),
            headers=self._headers,
            middlewares=[_once],
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the session; may be called twice."""
        if self._session is not None:
            await self._session.close()

    def administration(self, timeout: timedelta) -> Administration:
        """Return a py-consul client with the same address and token."""
        return Administration(self.url, self._token, timeout, self._roots)

    async def ask(
        self, query: Query, *, index: int = 0, content_hash: str = "", wait: timedelta = NO_WAIT
    ) -> Answer:
        """Ask once; with an index or a hash, block until the answer differs or `wait` is over."""
        params = dict(query.params)
        if not (index or content_hash):
            return await self._get(query.path, params, ANSWER_TIMEOUT)
        params |= {"hash": content_hash} if content_hash else {"index": str(index)}
        params["wait"] = f"{wait // timedelta(milliseconds=1)}ms"
        # Consul adds up to a sixteenth of the wait, so that not all queries return at once.
        return await self._get(query.path, params, ANSWER_TIMEOUT + wait * 17 / 16)

    async def _get(self, path: str, params: Mapping[str, str], limit: timedelta) -> Answer:
        if self._session is None:
            raise RuntimeError("ConsulApi is used outside its context")
        timeout = aiohttp.ClientTimeout(
            total=limit.total_seconds(), sock_connect=CONNECT_TIMEOUT.total_seconds()
        )
        url = URL(self.url + path, encoded=True).update_query(params)
        try:
            async with self._session.get(url, timeout=timeout, allow_redirects=False) as response:
                return _answer(response.status, response.headers, await response.read())
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise ConsulError(f"{type(error).__name__}: {error}") from error


def _trusted(roots: Path | None) -> ssl.SSLContext | bool:
    return ssl.create_default_context(cafile=roots) if roots else True


async def _once(
    request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
) -> aiohttp.ClientResponse:
    """Say that a connection broke before aiohttp silently sends its request again.

    An index from before an agent's restart would block there until its wait is over.
    """
    try:
        return await handler(request)
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
        raise ConsulError(f"{type(error).__name__}: {error}") from error


def _segment(name: str) -> str:
    """Quote a name so that it stays one segment of a path."""
    return quote(name, safe="")


def _answer(status: int, headers: Mapping[str, str], body: bytes) -> Answer:
    if status not in {HTTPStatus.OK, HTTPStatus.NOT_FOUND}:
        raise ConsulError(f"{status} {body.decode(errors='replace').strip()[:200]}", status)
    return Answer(
        data=json.loads(body) if status == HTTPStatus.OK else None,
        index=int(headers.get("X-Consul-Index", 0)),
        content_hash=headers.get("X-Consul-ContentHash", ""),
    )
