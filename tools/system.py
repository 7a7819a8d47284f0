"""Run the whole system on this machine: `python -m tools.system up|ps|restart|logs|down|…`.

Everything that a run leaves behind is in `.run/`: data, logs, keys, and the files of supervisor
and Consul.
"""

import argparse
import os
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil
from consul.exceptions import ConsulException
from requests import RequestException

from consulmesh.administration import Administration
from consulmesh.local_issuer import LocalIssuer
from consulmesh.operators import OPERATOR
from tools import announce, databases, postgres, secure, shards
from tools.binaries import ROOT, get
from tools.config_entries import bring
from tools.credentials import MANAGEMENT
from tools.instances import PAUSE, READY_WITHIN, in_turn, owns, passing
from tools.programs import (
    ADS,
    CONSUL,
    GATEWAY,
    IDENTITIES,
    POSTGRES,
    SERVICES,
    Ports,
    Program,
    Settings,
    consul_program,
    mesh_programs,
)
from tools.supervision import Supervisor, fail_if_given_up, until


def up(settings: Settings, database: str | None, profile: bool | None) -> None:  # noqa: FBT001 - see arguments
    """Bring up what does not run yet, wait until all of it is ready, and say what there is."""
    began = time.monotonic()
    supervisor = Supervisor(settings)
    running = supervisor.pid() is not None
    wanted_secure = secure.choose(settings, os.environ, asked=profile)
    if running:
        secure.refuse_another(settings, wanted=wanted_secure)
    chosen = databases.choose(settings, database, os.environ, running=running)
    settings = replace(settings, databases=chosen, shards=shards.choose(settings))
    replicas = settings.replicas or replicas_running(supervisor) or 1
    prepare(settings)
    if not running:
        secure.remember(settings, secure=wanted_secure)
        refuse_busy_ports(settings)
    base = foundation(settings)
    if not running:
        wait_for_database(settings, supervisor, base)
    if settings.secure:
        let_in(settings, supervisor, [] if running else base)
    wanted = [*base, *mesh_programs(settings, replicas)]
    change = supervisor.update(wanted)
    databases.remember(settings)
    shards.remember(settings)
    announce.changes(change)
    with administration(settings, MANAGEMENT) as client:
        wait_for_consul(settings, supervisor, client)
        bring(client)
        shards.apply(client, settings.shards)
        wait_until_ready(settings, supervisor, client, wanted)
    announce.ready(settings, time.monotonic() - began)


def let_in(settings: Settings, supervisor: Supervisor, base: list[Program]) -> None:
    """Have Consul know the tokens before a process shows one; `base` is started for it."""
    from tools.rights import grant  # noqa: PLC0415 - 0.2 s, and other profiles need none of it

    if base:
        announce.changes(supervisor.update(base))
    with administration(settings, MANAGEMENT) as client:
        wait_for_consul(settings, supervisor, client)
        grant(client, settings.credentials)


def administration(settings: Settings, by: str = OPERATOR) -> Administration:
    """py-consul's client for this system's Consul; in the secure profile with a token of its."""
    if settings.secure:
        token: str | None = settings.credentials.token(by)
        roots: Path | None = settings.credentials.roots
    else:
        token, roots = os.environ.get("CONSUL_HTTP_TOKEN") or None, None
    return Administration(settings.consul_url, token, timedelta(seconds=10), roots)


def prepare(settings: Settings) -> None:
    """Make the folders and the development keys that the processes expect."""
    for folder in (settings.run, settings.logs, settings.run / "data", settings.run / "consul"):
        folder.mkdir(parents=True, exist_ok=True)
    LocalIssuer(settings.run / "issuer")


def foundation(settings: Settings) -> list[Program]:
    """What the mesh stands on: a Consul and a PostgreSQL, unless the user brings them."""
    consul = get("consul") if settings.runs_consul else None
    own = settings.databases.own
    return [*consul_program(settings, consul), *([postgres.program(settings)] if own else [])]


def wait_for_database(settings: Settings, supervisor: Supervisor, base: list[Program]) -> None:
    """See that a PostgreSQL is there before a service asks for it; the system's own is started."""
    if settings.databases.own:
        announce.changes(supervisor.update(base))
        postgres.wait(settings, supervisor)
    elif reason := settings.databases.url and postgres.refusal(settings.databases.url):
        sys.exit(f"{databases.described(settings.databases)} can't be used: {reason}")


def replicas_running(supervisor: Supervisor) -> int:
    """How many instances of each service the running system has; 0 when none runs."""
    if supervisor.pid() is None:
        return 0
    return sum(process.name.startswith("booking-") for process in supervisor.states())


def refuse_busy_ports(settings: Settings) -> None:
    """Exit with the owner's name when somebody else has a port that we need."""
    needed = {"the gateway": settings.ports.gateway, "the shared ADS": settings.ports.ads}
    ports = settings.ports
    if settings.runs_consul:
        needed |= {"Consul": ports.consul, "Consul's servers": ports.consul_server}
        needed |= {"Consul's gossip": ports.consul_serf}
    if settings.secure:
        needed |= {"Consul's gRPC": ports.consul_grpc}
    owners = listening()
    busy = [
        f"port {port}, which {who} needs, is taken by {owners[port]}"
        for who, port in needed.items()
        if port in owners
    ]
    if busy:
        sys.exit("\n".join(busy))


def listening() -> dict[int, str]:
    """Who listens on which TCP port of this machine."""
    return {
        connection.laddr.port: owner(connection.pid)
        for connection in psutil.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN and connection.laddr
    }


def owner(pid: int | None) -> str:
    """A process as a person would name it."""
    if pid is None:
        return "another user's process"
    try:
        process = psutil.Process(pid)
        return f"process {pid} ({' '.join(process.cmdline())[:100] or process.name()})"
    except psutil.Error:
        return f"process {pid}"


def wait_for_consul(settings: Settings, supervisor: Supervisor, client: Any) -> None:
    """Wait for an agent that has a leader; a new one knows tokens a moment later."""
    announce.waiting("Consul to elect a leader")

    def led() -> bool:
        fail_if_given_up(settings, supervisor)
        try:
            if settings.secure:
                client.acl.token.read_self()
            return bool(client.status.leader())
        except (RequestException, ConsulException):  # nobody listens, or there is no leader yet
            return False

    until(led, f"Consul at {settings.consul_url}")


def wait_until_ready(
    settings: Settings, supervisor: Supervisor, client: Any, wanted: list[Program]
) -> None:
    """Wait until every instance passes its checks in Consul, naming each as it does."""
    began = time.monotonic()
    missing = {program.name for program in wanted} - {CONSUL, POSTGRES, ADS, GATEWAY}
    missing |= {f"{GATEWAY}-1", f"{ADS}-1"}
    announce.waiting(f"{len(missing)} instances; the first start loads a year of flights")

    def all_passing() -> bool:
        fail_if_given_up(settings, supervisor)
        known = passing(client)
        for instance in sorted(missing & known.keys()):
            if owns(supervisor, instance, known[instance]):
                announce.passing(instance, time.monotonic() - began)
                missing.discard(instance)
        return not missing and announce.is_ready(settings)

    until(all_passing, "instances to pass their checks", READY_WITHIN, PAUSE)


def ps(settings: Settings) -> None:
    """Print a table of the instances that Consul knows."""
    try:
        with administration(settings) as client:
            rows = [
                announce.row(entry)
                for service in (GATEWAY, *SERVICES, ADS)
                for entry in client.health.service(service)[1]
            ]
    except (RequestException, ConsulException) as error:
        sys.exit(f"Consul at {settings.consul_url} does not answer: {error}")
    announce.table(rows)
    if chosen := databases.remembered(settings):
        announce.say(f"\nThe durable services use {databases.described(chosen)}.")


def restart(settings: Settings, service: str | None) -> None:
    """SIGTERM the instances of a service, or of all, in turn: each when the one before passes."""
    supervisor = Supervisor(settings)
    if supervisor.pid() is None:
        sys.exit("nothing is running: make up REPLICAS=2")
    try:
        with administration(settings) as client:
            in_turn(settings, supervisor, client, [service] if service else [*SERVICES])
    except (RequestException, ConsulException) as error:
        sys.exit(f"Consul at {settings.consul_url} does not answer: {error}")


def logs(settings: Settings, of: str) -> None:
    """Follow the logs of all processes, or of those whose name starts so."""
    files = sorted(map(str, settings.logs.glob(f"{of}*.log")))
    if not files:
        sys.exit(f"no log in {settings.logs} starts with {of!r}: is the system up?")
    subprocess.run(["tail", "-n", "20", "-F", *files], check=False)  # noqa: S607 - the user's tail


def down(settings: Settings) -> None:
    """Stop everything."""
    stopped = Supervisor(settings).shutdown()
    settings.supervisor_socket.unlink(missing_ok=True)
    print("stopped" if stopped else "nothing was running")


def clean(settings: Settings) -> None:
    """Stop everything and drop its data, logs and keys."""
    down(settings)
    shutil.rmtree(settings.run, ignore_errors=True)
    shutil.rmtree(settings.postgres_socket_folder, ignore_errors=True)


def token(settings: Settings, role: str, subject: str) -> None:
    """Print a bearer token of the local issuer."""
    print(LocalIssuer(settings.run / "issuer").token(subject, {role}))


def environment(settings: Settings, service: str) -> None:
    """Print what a process of a service needs that is started by hand, a variable a line."""
    for name, value in settings.mesh_environment(service).items():
        print(f"{name}={value}")


def arguments() -> argparse.Namespace:
    """What the user typed."""
    parser = argparse.ArgumentParser(prog="python -m tools.system", description=__doc__)
    parser.add_argument("--run", type=Path, default=ROOT / ".run", help="folder of the system")
    for name in ("gateway", "consul", "ads", "consul-server", "consul-serf", "consul-grpc"):
        default = getattr(Ports(), name.replace("-", "_"))
        parser.add_argument(f"--{name}-port", type=int, default=default)
    commands = parser.add_subparsers(dest="command", required=True)
    bring = commands.add_parser("up")
    bring.add_argument("--replicas", type=int, default=0)
    bring.add_argument("--shards", type=int, default=0)
    bring.add_argument("--database", choices=databases.ENGINES)
    bring.add_argument("--secure", action=argparse.BooleanOptionalAction)
    commands.add_parser("logs").add_argument("of", nargs="?", default="")
    commands.add_parser("restart").add_argument("service", nargs="?", choices=SERVICES)
    for name in ("ps", "down", "clean"):
        commands.add_parser(name)
    commands.add_parser("environment").add_argument("service", choices=IDENTITIES)
    bearer = commands.add_parser("token")
    bearer.add_argument("--role", choices=("customer", "operator"), default="customer")
    bearer.add_argument("--subject", default="ann")
    return parser.parse_args()


def main() -> None:
    """Entry point."""
    given = arguments()
    settings = Settings(
        run=given.run.resolve(),
        ports=Ports(
            gateway=given.gateway_port,
            consul=given.consul_port,
            ads=given.ads_port,
            consul_server=given.consul_server_port,
            consul_serf=given.consul_serf_port,
            consul_grpc=given.consul_grpc_port,
        ),
        replicas=getattr(given, "replicas", 0),
        shards=getattr(given, "shards", 0),
        consul=os.environ.get("CONSUL_HTTP_ADDR"),
    )
    match given.command:
        case "up":
            up(settings, given.database, given.secure)
        case "ps":
            ps(settings)
        case "restart":
            restart(settings, given.service)
        case "logs":
            logs(settings, given.of)
        case "down":
            down(settings)
        case "clean":
            clean(settings)
        case "environment":
            environment(settings, given.service)
        case "token":
            token(settings, given.role, given.subject)


if __name__ == "__main__":
    main()
