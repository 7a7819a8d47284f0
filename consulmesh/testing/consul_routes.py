"""The part of Consul's HTTP API that a fake Consul answers."""

import re
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any

from aiohttp import web

from consulmesh.testing.consul_state import Json
from consulmesh.testing.fake_agent import FakeAgent, Fault
from consulmesh.testing.probes import seconds

FILTER = re.compile(r'Service\.Meta\.(\w+) == "([^"]*)"')
WAIT = "5m"  # Consul's own default


class ConsulRoutes:
    """HTTP handlers over a fake agent, and the middleware that makes them fail."""

    def __init__(self, agent: FakeAgent) -> None:
        self._agent = agent

    def table(self) -> list[web.RouteDef]:
        """Return what is answered."""
        return [
            web.put("/v1/agent/service/register", self._register),
            web.put("/v1/agent/service/deregister/{id}", self._deregister),
            web.put("/v1/agent/service/maintenance/{id}", self._maintenance),
            web.get("/v1/agent/service/{id}", self._agent_service),
            web.get("/v1/agent/services", self._agent_services),
            web.get("/v1/catalog/services", self._services),
            web.get("/v1/health/service/{name}", self._health),
            web.get("/v1/discovery-chain/{name}", self._chain),
            web.put("/v1/config", self._put_config),
            web.get("/v1/config/{kind}", self._list_config),
            web.get("/v1/config/{kind}/{name}", self._get_config),
            web.delete("/v1/config/{kind}/{name}", self._delete_config),
            web.get("/v1/connect/intentions/match", self._intentions),
            web.get("/v1/kv/{key:.*}", self._get_keys),
            web.put("/v1/kv/{key:.*}", self._put_key),
            web.delete("/v1/kv/{key:.*}", self._delete_key),
            web.get("/v1/status/leader", self._leader),
        ]

    @web.middleware
    async def faulty(
        self,
        request: web.Request,
        handler: Callable[[web.Request], Awaitable[web.StreamResponse]],
    ) -> web.StreamResponse:
        """Answer as the fault of the moment demands."""
        await self._agent.answers_again()
        response = None if self._agent.fault is Fault.ERRORS else await handler(request)
        await self._agent.answers_again()
        if response is None or self._agent.fault is Fault.ERRORS:
            return _text("rpc error getting client: No cluster leader", 500)
        return response

    async def _register(self, request: web.Request) -> web.Response:
        definition = await request.json()
        if not (definition.get("name") or definition.get("Name")):
            return _text("Missing service name", 400)
        registered = self._agent.state.register(definition)
        self._agent.start_probes(registered)
        return web.Response()

    async def _deregister(self, request: web.Request) -> web.Response:
        service_id = request.match_info["id"]
        if not self._agent.state.deregister(service_id):
            return _unknown(service_id)
        self._agent.stop_probes(service_id)
        return web.Response()

    async def _maintenance(self, request: web.Request) -> web.Response:
        service_id = request.match_info["id"]
        if service_id not in self._agent.state.services:
            return _unknown(service_id)
        check_id = f"_service_maintenance:{service_id}"
        if request.query["enable"].lower() == "true":
            notes = request.query.get("reason", "")
            check = {"CheckID": check_id, "Status": "critical", "Notes": notes, "Output": ""}
            self._agent.state.set_check(service_id, check)
        else:
            self._agent.state.drop_check(service_id, check_id)
        return web.Response()

    async def _agent_service(self, request: web.Request) -> web.Response:
        service_id = request.match_info["id"]
        services = self._agent.state.services

        def changed() -> bool:
            registered = services.get(service_id)
            return registered is None or registered.content_hash != request.query["hash"]

        if "hash" in request.query and service_id in services:
            await self._agent.until(changed, _wait(request))
        if (registered := self._agent.state.services.get(service_id)) is None:
            return _text(f"unknown service ID: {service_id}", 404)
        content_hash = registered.content_hash
        return web.json_response(
            {**registered.service, "ContentHash": content_hash, "Datacenter": "dc1"},
            headers={"X-Consul-ContentHash": content_hash},
        )

    async def _agent_services(self, request: web.Request) -> web.Response:
        empty = self._agent.fault is Fault.EMPTY_LISTS
        services = {} if empty else {i: r.service for i, r in self._agent.state.services.items()}
        return web.json_response(services)

    async def _services(self, request: web.Request) -> web.Response:
        registered = self._agent.state.services.values()
        tags: Json = {"consul": []}
        for each in registered:
            tags.setdefault(each.service["Service"], []).extend(each.service.get("Tags") or [])
        return web.json_response(tags)

    async def _health(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]

        def listed() -> list[Json]:
            entries = self._agent.state.health(name)
            if "passing" in request.query:
                entries = [e for e in entries if all(_passes(check) for check in e["Checks"])]
            if text := request.query.get("filter"):
                entries = _filtered(entries, text)
            return entries

        return await self._blocking(request, f"health/{name}", listed)

    async def _chain(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        return await self._blocking(
            request, f"chain/{name}", lambda: {"Chain": self._agent.state.chain(name)}
        )

    async def _put_config(self, request: web.Request) -> web.Response:
        entry = await request.json()
        known = self._agent.state.config.get((entry["Kind"], entry["Name"]), {})
        if "cas" in request.query and int(request.query["cas"]) != known.get("ModifyIndex", 0):
            return web.json_response(data=False)
        self._agent.state.put_config(entry)
        return web.json_response(data=True)

    async def _delete_config(self, request: web.Request) -> web.Response:
        self._agent.state.delete_config(request.match_info["kind"], request.match_info["name"])
        return web.json_response({})

    async def _get_config(self, request: web.Request) -> web.Response:
        kind, name = request.match_info["kind"], request.match_info["name"]
        return await self._blocking(
            request, f"{kind}/{name}", lambda: self._agent.state.config.get((kind, name))
        )

    async def _list_config(self, request: web.Request) -> web.Response:
        kind = request.match_info["kind"]
        return await self._blocking(
            request, kind, lambda: [e for k, e in self._agent.state.config.items() if k[0] == kind]
        )

    async def _intentions(self, request: web.Request) -> web.Response:
        name = request.query["name"]
        return await self._blocking(
            request,
            f"service-intentions/{name}",
            lambda: {name: self._agent.state.intentions(name)},
        )

    async def _get_keys(self, request: web.Request) -> web.Response:
        key = request.match_info["key"]
        prefix = "recurse" in request.query

        def found() -> list[Json] | None:
            return self._agent.state.keys(key, prefix=prefix) or None

        return await self._blocking(request, "kv", found)

    async def _put_key(self, request: web.Request) -> web.Response:
        self._agent.state.put_key(request.match_info["key"], await request.read())
        return web.json_response(data=True)

    async def _delete_key(self, request: web.Request) -> web.Response:
        self._agent.state.delete_key(request.match_info["key"])
        return web.json_response(data=True)

    async def _leader(self, request: web.Request) -> web.Response:
        return web.json_response("127.0.0.1:8300")

    async def _blocking(
        self, request: web.Request, topic: str, read: Callable[[], Any]
    ) -> web.Response:
        """Answer when the topic's index is above the one given, or when the wait is over."""
        index = int(request.query.get("index", 0))
        if index:
            await self._agent.until(
                lambda: self._agent.state.index_of(topic) > index, _wait(request)
            )
        data = read()
        if isinstance(data, list) and self._agent.fault is Fault.EMPTY_LISTS:
            data = []
        headers = {"X-Consul-Index": str(self._agent.index_of(topic))}
        if data is None:
            return web.Response(status=HTTPStatus.NOT_FOUND, headers=headers)
        return web.json_response(data, headers=headers)


def _text(text: str, status: int) -> web.Response:
    return web.Response(text=text, status=status)


def _unknown(service_id: str) -> web.Response:
    return _text(f'Unknown service ID "{service_id}".', 404)


def _passes(check: Json) -> bool:
    return bool(check["Status"] == "passing")


def _filtered(entries: list[Json], text: str) -> list[Json]:
    if not (match := FILTER.fullmatch(text)):
        raise web.HTTPInternalServerError(text=f"the fake cannot evaluate {text!r}")
    return [e for e in entries if e["Service"]["Meta"].get(match[1]) == match[2]]


def _wait(request: web.Request) -> float:
    return seconds(request.query.get("wait", WAIT))
