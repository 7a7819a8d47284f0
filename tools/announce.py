"""What the commands tell their user."""

import json
import shlex
import time
import urllib.request
from collections.abc import Iterable
from datetime import date, timedelta
from typing import Any

from tools import databases
from tools.programs import Settings
from tools.supervision import Change

HEADINGS = ("SERVICE", "INSTANCE", "ADDRESS", "VERSION", "HEALTH")


def say(text: str) -> None:
    """Print at once, also into a pipe."""
    print(text, flush=True)


def waiting(what: str) -> None:
    """Name what the command is waiting for."""
    say(f"waiting for {what} …")


def passing(instance: str, seconds: float) -> None:
    """Name an instance that is ready."""
    say(f"  {seconds:5.1f} s  {instance} passes its checks")


def changes(change: Change) -> None:
    """Name what was started, restarted, stopped and left alone."""
    told = (
        ("started", change.started),
        ("restarted", change.restarted),
        ("stopped", change.stopped),
        ("already running", change.kept),
    )
    for word, names in told:
        if names:
            say(f"{word}: {', '.join(names)}")


def row(entry: dict[str, Any]) -> tuple[str, ...]:
    """One instance of Consul's health endpoint as a line of the table."""
    service, checks = entry["Service"], entry["Checks"]
    health = worst(check["Status"] for check in checks)
    address = f"{service['Address'] or entry['Node']['Address']}:{service['Port']}"
    version = service["Meta"].get("version", "")
    return (service["Service"], service["ID"], address, version, health)


def worst(states: Iterable[str]) -> str:
    """The state that decides."""
    order = ("critical", "warning", "passing")
    return min(states, key=order.index, default="passing")


def table(rows: list[tuple[str, ...]], headings: tuple[str, ...] = HEADINGS) -> None:
    """Print rows in columns."""
    lines = [headings, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(headings))]
    for line in lines:
        say("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())


def is_ready(settings: Settings) -> bool:
    """Whether the gateway says so."""
    try:
        with urllib.request.urlopen(f"{settings.gateway_url}/readyz", timeout=5):  # noqa: S310 - our own gateway
            return True
    except OSError:  # nobody listens, or the answer is 503
        return False


def ready(settings: Settings, seconds: float) -> None:
    """Ask for flights, as a user would, and print what can be done next."""
    began = time.monotonic()
    search = search_url(settings)
    found = itineraries(search)
    answered = seconds + time.monotonic() - began
    say(f"\nup after {seconds:.1f} s; the first search was answered after {answered:.1f} s")
    say(f"  public API  {settings.gateway_url}/docs")
    say(f"  Consul      {settings.consul_url}/ui")
    say(f"  databases   {databases.described(settings.databases)}")
    if settings.secure:
        say("  profile     secure: mTLS, intentions, ACLs  (docs/security.md)")
    say(f"  logs        {settings.logs}  (make logs)")
    say("\nTry:\n")
    for title, command in examples(settings, search, found):
        say(f"# {title}\n{command}\n")


def search_url(settings: Settings) -> str:
    """A search that has results on any day of the year, in the timetable that comes with it."""
    day = date.today() + timedelta(days=7)  # noqa: DTZ011 - the user's own calendar
    asked = f"origin=JFK&destination=LAX&date={day}&passengers=1&cabin=economy"
    return f"{settings.gateway_url}/v1/itineraries?{asked}"


def itineraries(search: str) -> list[dict[str, Any]]:
    """What the search finds."""
    with urllib.request.urlopen(search, timeout=10) as answer:  # noqa: S310 - our own gateway
        found: list[dict[str, Any]] = json.load(answer)["itineraries"]
    return found


def examples(settings: Settings, search: str, found: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """Commands to paste, each complete in itself; a booking only of what was found."""
    searches = [
        ("flights in a week, cheapest first", f"curl '{search}&page_size=2'"),
        ("the same, each as it is found", f"curl -N '{search}' -H 'Accept: text/event-stream'"),
    ]
    bookings = (
        [("a quote, and a booking at its price", booking(settings, found[0]))] if found else []
    )
    grpcurl = (
        "a service by gRPC, found as the services find each other",
        "make grpcurl ARGS='-plaintext xds:///booking list'",
    )
    return [*searches, *bookings, grpcurl]


def booking(settings: Settings, itinerary: dict[str, Any]) -> str:
    """Commands that quote an itinerary and book it."""
    base = f"{settings.gateway_url}/v1"
    wanted = json.dumps({"itinerary_id": itinerary["itinerary_id"], "passengers": 1})
    field = "python3 -c 'import json,sys; print(json.load(sys.stdin)[\"quote_id\"])'"
    quote = f"curl -s {base}/quotes -H 'Content-Type: application/json' -d {shlex.quote(wanted)}"
    traveller = '"passengers": [{"given_name": "Ann", "family_name": "Lee"}]'
    contact = '"contact": {"email": "ann@example.org"}'
    return (
        f"QUOTE=$({quote} | {field})\n"
        f"curl {base}/bookings -H 'Content-Type: application/json' "
        '-H "Authorization: Bearer $(make -s token)" -H "Idempotency-Key: $QUOTE" '
        f"-d '{{\"quote_id\": \"'$QUOTE'\", {traveller}, {contact}}}'"
    )
