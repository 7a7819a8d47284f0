"""The configuration of one process in the mesh, read and validated once, at the edge.

Names are those the ecosystem already uses (`CONSUL_HTTP_ADDR`, `CONSUL_HTTP_SSL`,
`CONSUL_HTTP_TOKEN`); the library's own start with `MESH_`.
"""

import ipaddress
import re
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Self, TypeVar
from urllib.parse import urlsplit

from consulmesh.admission import QueueTerms
from consulmesh.instances import Locality

T = TypeVar("T")
D = TypeVar("D")

LOG_LEVELS = ("debug", "info", "warning", "error", "critical")
UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0}
DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m)?")
INSTANCE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_NUMBER = "(0|[1-9][0-9]*)"
_LABEL = f"({_NUMBER}|[0-9]*[A-Za-z-][0-9A-Za-z-]*)"
_BUILD = "[0-9A-Za-z-]+"
VERSION = re.compile(
    rf"{_NUMBER}\.{_NUMBER}\.{_NUMBER}(-{_LABEL}(\.{_LABEL})*)?(\+{_BUILD}(\.{_BUILD})*)?"
)


class ConfigError(Exception):
    """A variable of the environment has a value that cannot be used; the message names it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MeshConfig:
    """What a process must know to take its place in the mesh.

    `instance_id` is None where the next free slot decides. `advertise_host` is an IP literal
    (gRPC core's endpoints are addresses, not names) and None where `host` itself is reachable.
    With `secure` all calls are mTLS, certificates come from Consul's gRPC API at `consul_grpc`, and
    intentions decide who may call; `consul_roots` (PEM) are those of Consul's own certificate.
    `metrics_port` 0 takes any free port, None serves no metrics; `admin_port` likewise, of a
    process that serves something other than gRPC. `health_port` is where health alone is served in
    plain text: 0 takes any free port with `secure`, and is none without. With `address_signed` the
    certificate names the advertised address too, for clients that verify by it. `queue` says when a
    server sheds calls; with None it never does. With a `locality` instances near it are called
    first.
    """

    version: str
    consul_url: str = "http://127.0.0.1:8500"
    consul_token: str | None = field(default=None, repr=False)
    consul_roots: Path | None = None
    consul_grpc: str = "127.0.0.1:8502"
    secure: bool = False
    instance_id: str | None = None
    state_dir: Path = Path(".run")
    host: str = "127.0.0.1"
    port: int = 0
    advertise_host: str | None = None
    metrics_port: int | None = 0
    admin_port: int | None = 0
    health_port: int = 0
    check_interval: timedelta = timedelta(seconds=1)
    drain_grace: timedelta = timedelta(seconds=10)
    weight: int = 1
    locality: Locality | None = None
    queue: QueueTerms | None = field(default_factory=QueueTerms)
    log_level: str = "info"
    isolated: bool = False
    address_signed: bool = False

    @property
    def advertised(self) -> str:
        """The address at which others reach this process."""
        return self.advertise_host or self.host

    @classmethod
    def from_env(cls, environ: Mapping[str, str], *, version: str) -> Self:
        """Read the environment; an empty variable counts as absent. Raises ConfigError."""
        env = Environment(environ)
        host = env.read("MESH_HOST", _address, "127.0.0.1")
        return cls(
            version=env.read("MESH_VERSION", semantic_version, version),
            consul_url=_consul_url(env),
            consul_token=_token(env),
            consul_roots=env.read("CONSUL_CACERT", _file, None),
            consul_grpc=env.read("CONSUL_GRPC_ADDR", _host_and_port, "127.0.0.1:8502"),
            secure=env.read("MESH_SECURE", _boolean, default=False),
            instance_id=env.read("MESH_INSTANCE_ID", _instance_id, None),
            state_dir=env.read("MESH_STATE_DIR", Path, Path(".run")),
            host=host,
            port=env.read("MESH_PORT", _port, 0),
            advertise_host=_advertise_host(env, host),
            metrics_port=env.read("MESH_METRICS_PORT", _optional_port, 0),
            admin_port=env.read("MESH_ADMIN_PORT", _optional_port, 0),
            health_port=env.read("MESH_HEALTH_PORT", _port, 0),
            check_interval=env.read("MESH_CHECK_INTERVAL", duration, timedelta(seconds=1)),
            drain_grace=env.read("MESH_DRAIN_GRACE", duration, timedelta(seconds=10)),
            weight=env.read("MESH_WEIGHT", _weight, 1),
            locality=env.read("MESH_LOCALITY", locality, None),
            queue=env.read("MESH_QUEUE_TARGET", queue_terms, QueueTerms()),
            log_level=env.read("MESH_LOG_LEVEL", _log_level, "info"),
        )


class Environment:
    """Reads variables one by one; what a parser refuses becomes a ConfigError with the name."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ

    def read(self, name: str, parse: Callable[[str], T], default: D) -> T | D:
        """Return the parsed variable, or the default where it is absent or empty."""
        if not (text := self._environ.get(name, "").strip()):
            return default
        try:
            return parse(text)
        except (ValueError, OSError) as error:
            raise ConfigError(f"{name}: {error}") from error


def semantic_version(text: str) -> str:
    """The text, if it is a version by https://semver.org; raises ValueError."""
    if not VERSION.fullmatch(text):
        raise ValueError(f"{text!r} is not a semantic version such as 1.4.0 or 2.0.0-rc.1")
    return text


def _consul_url(env: Environment) -> str:
    scheme = "https" if env.read("CONSUL_HTTP_SSL", _boolean, default=False) else "http"
    return env.read(
        "CONSUL_HTTP_ADDR", lambda text: _url(text, scheme), f"{scheme}://127.0.0.1:8500"
    )


def _url(text: str, scheme: str) -> str:
    parts = urlsplit(text if "://" in text else f"{scheme}://{text}")
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.path.strip("/"):
        raise ValueError(f"{text!r} is neither host:port nor an http(s) URL without a path")
    default_port = 443 if parts.scheme == "https" else 8500
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{parts.scheme}://{host}:{parts.port or default_port}"


def _token(env: Environment) -> str | None:
    """The token itself, or what is in a file, so that it need not be in the environment."""
    file = env.read("CONSUL_HTTP_TOKEN_FILE", _file, None)
    in_file = None if file is None else file.read_text(encoding="utf-8").strip()
    return env.read("CONSUL_HTTP_TOKEN", str, in_file or None)


def _file(text: str) -> Path:
    path = Path(text)
    if not path.is_file():
        raise ValueError(f"there is no file {text}")
    return path


def _host_and_port(text: str) -> str:
    host, colon, port = text.rpartition(":")
    if not (host and colon and port.isdecimal() and int(port) < 1 << 16):
        raise ValueError(f"{text!r} is not host:port")
    return text


def _advertise_host(env: Environment, host: str) -> str | None:
    given = env.read("MESH_ADVERTISE_HOST", _address, None)
    if given is None and ipaddress.ip_address(host).is_unspecified:
        raise ConfigError(f"MESH_ADVERTISE_HOST: must be set where MESH_HOST is {host}")
    return given


def _address(text: str) -> str:
    """Return the IP literal of a host; names are looked up."""
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        return str(socket.getaddrinfo(text, None, type=socket.SOCK_STREAM)[0][4][0])


def _instance_id(text: str) -> str:
    if not INSTANCE_ID.fullmatch(text):
        raise ValueError(f"{text!r} has characters other than letters, digits, '.', '_' and '-'")
    return text


def _port(text: str) -> int:
    if not (text.isdecimal() and int(text) < 1 << 16):
        raise ValueError(f"{text!r} is not a port")
    return int(text)


def _optional_port(text: str) -> int | None:
    return None if text == "off" else _port(text)


def _weight(text: str) -> int:
    if not (text.isdecimal() and 0 < int(text) < 1 << 16):
        raise ValueError(f"{text!r} is not a weight from 1 to 65535")
    return int(text)


def duration(text: str) -> timedelta:
    """The time span of `500ms`, `1s`, `2m` or seconds; raises ValueError."""
    if not (match := DURATION.fullmatch(text)):
        raise ValueError(f"{text!r} is not a duration such as 500ms, 1s, 2m or seconds")
    if not (seconds := float(match[1]) * UNITS[match[2] or "s"]):
        raise ValueError(f"{text!r} is no time at all")
    return timedelta(seconds=seconds)


def locality(text: str) -> Locality:
    """The place of `region/zone`, or of `region` alone; raises ValueError."""
    region, slash, zone = text.partition("/")
    if not region or (slash and not zone) or "/" in zone:
        raise ValueError(f"{text!r} is neither region nor region/zone")
    return Locality(region=region, zone=zone)


def queue_terms(text: str) -> QueueTerms | None:
    """The terms with the target of `20ms`, or None for `off`; raises ValueError."""
    return None if text == "off" else QueueTerms(target=duration(text))


def _log_level(text: str) -> str:
    if (level := text.lower()) not in LOG_LEVELS:
        raise ValueError(f"{text!r} is none of {', '.join(LOG_LEVELS)}")
    return level


def _boolean(text: str) -> bool:
    if text.lower() not in {"true", "false", "1", "0"}:
        raise ValueError(f"{text!r} is neither true nor false")
    return text.lower() in {"true", "1"}
