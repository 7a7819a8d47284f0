"""What users notice when parts of the running system die: `python -m bench.outages [NAME …]`.

Needs `make up REPLICAS=2`. Each outage happens under steady searches; its figures are printed.
"""

import argparse
import asyncio
import signal
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass

import aiohttp

from bench.steady import Summary, load, query_of, some_searches, summary
from bench.subject import POLL, Instance, Subject
from tools.programs import GATEWAY, SERVICES, Settings

RATE = 50.0  # searches per second
CALM = 2.0  # seconds of load before and after
_PATIENCE = 60.0  # seconds for what an outage does, or its end


@dataclass(frozen=True, slots=True)
class Figures:
    """What an outage did: named spans in seconds, and what became of the searches."""

    seconds: Mapping[str, float]
    searches: Summary

    def __str__(self) -> str:
        lines = [f"  {what}: {span:.3f} s" for what, span in self.seconds.items()]
        return "\n".join([*lines, f"  searches: {self.searches}"])


async def killed(subject: Subject, service: str, *, for_good: bool) -> Figures:
    """`kill -9` the second of two instances, for good or with the supervisor bringing it back."""
    victim = f"{service}-2"
    callers = await callers_of(subject, service)
    spans: dict[str, float] = {}
    async with load(subject.http, subject.settings.gateway_url, RATE) as calls:
        await asyncio.sleep(CALM)
        if for_good:
            spans = await _gone(subject, service, victim, callers)
            await subject.start(victim)
            spans["passing again after its start"] = await subject.passes(service, victim)
        else:
            subject.signal(victim, signal.SIGKILL)
            spans["not passing in Consul"] = await subject.fails(service, victim)
            spans["passing again after that"] = await subject.passes(service, victim)
        await asyncio.sleep(CALM)
    return Figures(spans, summary(calls))


async def callers_of(subject: Subject, service: str) -> list[Instance]:
    """Every instance that calls a service, by what it exports of its upstreams."""
    everyone = [i for name in (GATEWAY, *SERVICES) for i in await subject.instances(name)]
    known = [(i, await subject.endpoints(i, service)) for i in everyone if i.metrics_port]
    return [instance for instance, count in known if count >= 1]


async def _gone(
    subject: Subject, service: str, victim: str, callers: list[Instance]
) -> dict[str, float]:
    """Kill for good; seconds until Consul and each caller have noticed."""
    loop = asyncio.get_running_loop()
    began = loop.time()

    async def since(awaitable: Awaitable[float]) -> float:
        await awaitable
        return loop.time() - began

    alive = [c for c in callers if c.instance_id != victim]
    stopping = asyncio.create_task(subject.kill_for_good(victim))
    named = {"not passing in Consul": subject.fails(service, victim)}
    named |= {f"out of {c.instance_id}": subject.knows(c, service, 1) for c in alive}
    seconds = await asyncio.gather(*(since(wait) for wait in named.values()))
    await stopping
    return dict(zip(named, seconds, strict=True))


async def consul_stopped(subject: Subject, seconds: float) -> Figures:
    """Stop Consul for a while."""
    async with load(subject.http, subject.settings.gateway_url, RATE) as calls:
        await asyncio.sleep(CALM)
        await subject.stop("consul")
        await asyncio.sleep(seconds)
        await subject.start("consul")
        back = await _all_passing(subject)
        await asyncio.sleep(CALM)
    return Figures({"all passing after its return": back}, summary(calls))


async def _all_passing(subject: Subject) -> float:
    loop = asyncio.get_running_loop()
    began = loop.time()
    for service in SERVICES:
        for slot in (1, 2):
            while True:
                with suppress(aiohttp.ClientError):  # Consul has no leader yet
                    await subject.passes(service, f"{service}-{slot}")
                    break
                await asyncio.sleep(0.05)
    return loop.time() - began


async def owners_away(subject: Subject, seconds: float) -> Figures:
    """Stop pricing, then schedule too, for a while; searches go on with what search knows."""
    loop = asyncio.get_running_loop()
    spans: dict[str, float] = {}
    async with load(subject.http, subject.settings.gateway_url, RATE) as calls:
        await asyncio.sleep(CALM)
        await _each(subject.stop, "pricing")
        spans["prices indicative after pricing has gone"] = await shown(subject, "indicative")
        await _each(subject.stop, "schedule")
        began = loop.time()
        await asyncio.sleep(seconds)
        spans["both away"] = loop.time() - began
        await _each(subject.start, "schedule")
        await _each(subject.start, "pricing")
        spans["prices live after their return"] = await shown(subject, "live")
        await asyncio.sleep(CALM)
    return Figures(spans, summary(calls))


async def shown(subject: Subject, basis: str) -> float:
    """Wait until searches say that their prices have this basis; returns the seconds."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    url = f"{subject.settings.gateway_url}/v1/itineraries"
    async with asyncio.timeout(_PATIENCE):
        while True:
            async with subject.http.get(url, params=query_of(some_searches()[0])) as answer:
                found = (await answer.json())["itineraries"] if answer.ok else ()  # 503: busy
            if {each["price"]["basis"] for each in found} == {basis}:
                return loop.time() - began
            await asyncio.sleep(POLL)


async def _each(do: Callable[[str], Awaitable[None]], service: str) -> None:
    """Do something to both instances of a service."""
    for slot in (1, 2):
        await do(f"{service}-{slot}")


async def rolling(subject: Subject) -> Figures:
    """SIGTERM every instance but the gateway, one after the other."""
    loop = asyncio.get_running_loop()
    async with load(subject.http, subject.settings.gateway_url, RATE) as calls:
        await asyncio.sleep(CALM)
        began = loop.time()
        for service in SERVICES:
            for slot in (1, 2):
                await subject.restart(service, f"{service}-{slot}")
        took = loop.time() - began
        await asyncio.sleep(CALM)
    return Figures({"all restarted": took}, summary(calls))


OUTAGES: dict[str, Callable[[Subject], Awaitable[Figures]]] = {
    "search-killed": lambda subject: killed(subject, "flight-search", for_good=False),
    "search-killed-for-good": lambda subject: killed(subject, "flight-search", for_good=True),
    "schedule-killed-for-good": lambda subject: killed(subject, "schedule", for_good=True),
    "pricing-killed-for-good": lambda subject: killed(subject, "pricing", for_good=True),
    "rolling-restart": rolling,
    "owners-away-10min": lambda subject: owners_away(subject, 600),
    "consul-stopped-60s": lambda subject: consul_stopped(subject, 60),
}


async def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="python -m bench.outages", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", choices=[*OUTAGES, []])
    async with Subject.attach(Settings()) as subject:
        for name in parser.parse_args().names or OUTAGES:
            print(f"{name}\n{await OUTAGES[name](subject)}", flush=True)


if __name__ == "__main__":
    asyncio.run(main())
