"""The processes of a running system, and supervisor's configuration for them."""

import json
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

from consulmesh.operators import OPERATOR
from consulmesh.private import write_private
from tools.binaries import ROOT
from tools.credentials import Credentials

SEARCH = "flight-search"
SERVICES = {
    # Consul name: Python package
    "schedule": "schedule",
    "pricing": "pricing",
    SEARCH: "flight_search",
    "booking": "booking",
}
DURABLE = {"schedule", "pricing", "booking"}  # those with a database of their own at DATABASE_URL
GATEWAY = "gateway-bff"
# On one machine every client has the same address, and load is what it is for.
UNLIMITED = {"MESH_RATE_LIMITS": "off", "MESH_REQUESTS_AT_ONCE": "0", "MESH_CONNECTIONS": "0"}
ADS = "mesh-ads"
CONSUL = "consul"
POSTGRES = "postgres"
IDENTITIES = (*SERVICES, GATEWAY, ADS, OPERATOR)  # who has a certificate in the secure profile
LONGEST_SOCKET_PATH = 90  # a Unix socket's path may have 104 to 108 characters


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """Where the doors of the system are; everything else takes any free port."""

    gateway: int = 8080
    consul: int = 8500
    ads: int = 18000
    consul_server: int = 8300
    consul_serf: int = 8301
    consul_grpc: int = 8503  # in the secure profile


@dataclass(frozen=True, slots=True, kw_only=True)
class Databases:
    """Where the durable services keep their data."""

    url: str = ""  # of a PostgreSQL server; empty: SQLite files
    own: bool = False  # whether the server is one of the system's processes


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What `make up` was asked for."""

    run: Path = ROOT / ".run"
    ports: Ports = field(default_factory=Ports)
    replicas: int = 0  # 0: as many as run now, or one
    shards: int = 0  # of search, each with so many replicas; 0: as many as before, or one
    consul: str | None = None  # CONSUL_HTTP_ADDR of the user's own Consul
    databases: Databases = field(default_factory=Databases)

    @property
    def consul_url(self) -> str:
        """Address of Consul's HTTP API."""
        if self.consul is None or self.secure:
            return self.own_consul_url(secure=self.secure)
        if "://" in self.consul:
            return self.consul
        secure = os.environ.get("CONSUL_HTTP_SSL", "").lower() in {"1", "true"}
        return f"http{'s' * secure}://{self.consul}"

    @property
    def runs_consul(self) -> bool:
        """Whether Consul is one of the system's processes; a secure one uses nobody else's."""
        return self.consul is None or self.secure

    def own_consul_url(self, *, secure: bool) -> str:
        """Where the system's own Consul listens, if it runs so."""
        return f"http{'s' * secure}://127.0.0.1:{self.ports.consul}"

    @property
    def profile_file(self) -> Path:
        """There where the system has the secure profile."""
        return self.run / "profile"

    @property
    def secure(self) -> bool:
        """Whether the system has the secure profile."""
        return self.profile_file.exists()

    @property
    def credentials(self) -> Credentials:
        """The secrets of the secure profile."""
        return Credentials(run=self.run)

    def mesh_environment(self, service: str) -> dict[str, str]:
        """What a process needs to be one of a service here; nothing in it is a secret."""
        common = {"CONSUL_HTTP_ADDR": self.consul_url, "MESH_STATE_DIR": str(self.run)}
        if not self.secure:
            return common
        return common | {
            "CONSUL_CACERT": str(self.credentials.roots),
            "CONSUL_GRPC_ADDR": f"127.0.0.1:{self.ports.consul_grpc}",
            "CONSUL_HTTP_TOKEN": "",  # that of a shell would win over the file
            "CONSUL_HTTP_TOKEN_FILE": str(self.credentials.token_file(service)),
            "MESH_SECURE": "true",
        }

    @property
    def gateway_url(self) -> str:
        """Address of the public API."""
        return f"http://127.0.0.1:{self.ports.gateway}"

    @property
    def logs(self) -> Path:
        """Folder of a log file per process."""
        return self.run / "logs"

    @property
    def supervisor_config(self) -> Path:
        """The file that says what supervisor runs."""
        return self.run / "supervisord.conf"

    @property
    def supervisor_socket(self) -> Path:
        """Where supervisor listens."""
        return self._socket(self.run / "supervisor.sock", "supervisor.sock")

    @property
    def postgres_data(self) -> Path:
        """Folder of the system's own PostgreSQL."""
        return self.run / "postgres"

    @property
    def postgres_socket_folder(self) -> Path:
        """Where that PostgreSQL listens."""
        return self._socket(self.postgres_data / ".s.PGSQL.5432", "postgres/.s.PGSQL.5432").parent

    def _socket(self, path: Path, name: str) -> Path:
        """The path of a socket; in the temporary folder when it is too long for one."""
        if len(str(path)) <= LONGEST_SOCKET_PATH:
            return path
        system = sha256(str(self.run).encode()).hexdigest()[:12]
        return Path(tempfile.gettempdir()) / f"flightmesh-{system}-{name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """One process that supervisor keeps running."""

    name: str
    command: str
    environment: Mapping[str, str]
    priority: int  # lower ones start first
    user: str | None = None  # None: the one who runs the system
    stop_signal: str = "TERM"


def consul_program(settings: Settings, binary: Path | None) -> Iterator[Program]:
    """Consul, with the project's configuration and this system's ports and data."""
    if binary is None:
        return
    files = f"-config-file={ROOT / 'consul' / 'agent.hcl'} -config-file={local_agent(settings)}"
    yield Program(name=CONSUL, command=f"{binary} agent {files}", environment={}, priority=1)


def local_agent(settings: Settings) -> Path:
    """Write what differs between two systems on one machine, for Consul."""
    ports = settings.ports
    doors = {"http": ports.consul}
    if settings.secure:
        doors = {"http": -1, "https": ports.consul, "grpc_tls": ports.consul_grpc}
    own = {
        "data_dir": str(settings.run / "consul"),
        "ports": {**doors, "server": ports.consul_server, "serf_lan": ports.consul_serf},
        **(settings.credentials.server() if settings.secure else {}),
    }
    file = settings.run / "consul.json"
    write_private(file, json.dumps(own, indent=2).encode())
    return file


def mesh_programs(settings: Settings, replicas: int) -> Iterator[Program]:
    """The shared ADS, the services and the gateway."""
    yield python_program(settings, ADS, ADS, "consulmesh.xds", 5, MESH_XDS_PORT=settings.ports.ads)
    for name, package in SERVICES.items():
        shards = settings.shards if name == SEARCH else 1
        for slot in range(1, replicas * shards + 1):
            instance = f"{name}-{slot}"
            own = {"DATABASE_URL": settings.databases.url} if name in DURABLE else {}
            if shards > 1:
                own["SEARCH_SHARD"] = f"{(slot - 1) % shards}/{shards}"
            own["MESH_INSTANCE_ID"] = instance
            yield python_program(settings, instance, name, package, 10, **own)
    yield python_program(
        settings,
        GATEWAY,
        GATEWAY,
        "gateway_bff",
        20,
        MESH_INSTANCE_ID=f"{GATEWAY}-1",
        MESH_PORT=settings.ports.gateway,
        **{name: os.environ.get(name, value) for name, value in UNLIMITED.items()},
        **({"SEARCH_SHARDS": settings.shards} if settings.shards > 1 else {}),
    )


def python_program(
    settings: Settings, name: str, service: str, module: str, priority: int, **extra: str | int
) -> Program:
    """A process of this project, and which service it is."""
    environment = settings.mesh_environment(service) | {k: str(v) for k, v in extra.items()}
    return Program(
        name=name,
        command=f"{sys.executable} -m {module}",
        environment=environment,
        priority=priority,
    )


def supervisor_config(settings: Settings, wanted: list[Program]) -> str:
    """Supervisor's configuration: a section per process, so that a change touches only its own."""
    user = "user=root\n" if os.geteuid() == 0 else ""
    socket = settings.supervisor_socket
    head = f"""\
[unix_http_server]
file={socket}
chmod=0700

[supervisord]
directory={ROOT}
logfile={settings.logs / "supervisord.log"}
pidfile={settings.run / "supervisord.pid"}
{user}
[rpcinterface:supervisor]
supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface

[supervisorctl]
serverurl=unix://{socket}
"""
    return "\n".join([head, *(section(settings, program) for program in wanted)])


def quoted(value: str) -> str:
    """The value as supervisor reads it again; it knows no escapes."""
    return f"'{value}'" if '"' in value else f'"{value}"'


def section(settings: Settings, program: Program) -> str:
    """Supervisor's section for one process; supervisor expands what follows a %."""
    pairs = ",".join(f"{key}={quoted(value)}" for key, value in program.environment.items())
    environment = f"environment={pairs}\n".replace("%", "%%") if pairs else ""
    user = f"user={program.user}\n" if program.user else ""
    return f"""\
[program:{program.name}]
command={program.command.replace("%", "%%")}
{environment}{user}priority={program.priority}
stopsignal={program.stop_signal}
autorestart=true
startsecs=3
startretries=5
stopwaitsecs=20
redirect_stderr=true
stdout_logfile={settings.logs / program.name}.log
stdout_logfile_maxbytes=10MB
stdout_logfile_backups=3
"""
