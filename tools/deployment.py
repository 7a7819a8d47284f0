"""What containers need to be in the secure profile: `python -m tools.deployment …`.

`hand-out` makes the secrets of a system in one folder and gives each process, in a folder of its
own, what it needs of them. `kubernetes` keeps them in a folder of yours and prints them as
Kubernetes has them. `setup` tells Consul the tokens, what each may do, and the config entries.
"""

import argparse
import json
import os
import secrets
import sys
import time
from base64 import b64encode
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

from consul.exceptions import ConsulException
from consul.std import Consul
from requests import RequestException

from consulmesh.administration import Administration
from consulmesh.config import ConfigError, MeshConfig
from consulmesh.local_issuer import LocalIssuer
from consulmesh.operators import OPERATOR
from consulmesh.private import write_private
from tools.binaries import ROOT
from tools.config_entries import bring
from tools.credentials import AGENT, CONSUL, MANAGEMENT, RELEASES, Credentials
from tools.programs import DURABLE, GATEWAY, IDENTITIES
from tools.rights import grant

ALL: Final = "all"
"""Who has every secret: what makes them, and `setup`."""
ISSUER: Final = "issuer"
"""The folder of the key pair that signs users' tokens; services are given its public half."""
KNOW_USERS: Final = ("booking", "pricing", GATEWAY)
SERVER: Final = "consul-server"
CLIENT: Final = "consul-agent"
SECRETS: Final = Path("/secrets")
"""Where a container finds its own."""
NAMESPACE: Final = "flightmesh"
DATABASE: Final = "postgres"
PATIENCE: Final = timedelta(minutes=5)
"""How long a new Consul is waited for."""
PAUSE: Final = 0.5  # seconds

_TIMEOUT: Final = timedelta(seconds=10)

Files = dict[str, bytes]


def parts(credentials: Credentials, issuer: Path, consul: Path = SECRETS) -> dict[str, Files]:
    """What each holder is given: by its name, contents by path; `consul` is where Consul has its.

    A service has its own token, the roots, and the keys that verify users' tokens if it lets users
    in. An operator has the token of releases beside it.
    """
    LocalIssuer(issuer)
    users = {"users/jwks.json": (issuer / "jwks.json").read_bytes()}
    roots = credentials.roots.read_bytes()
    tokens = {name: _token(credentials, name) for name in IDENTITIES}
    tokens[OPERATOR] |= _token(credentials, RELEASES)
    found = {name: {"tls/roots.pem": roots, **own} for name, own in tokens.items()}
    for name in KNOW_USERS:
        found[name] |= users
    tls = consul / "tls"
    found[CONSUL] = _of_consul(credentials, CONSUL, credentials.server(tls))
    found[CONSUL] |= _token(credentials, MANAGEMENT)  # for its own health check
    if credentials.agents:
        found[CLIENT] = _of_consul(credentials, AGENT, credentials.client(tls))
    return found


def _of_consul(credentials: Credentials, name: str, settings: Mapping[str, Any]) -> Files:
    own = (credentials.roots.name, f"{name}.pem", f"{name}-key.pem")
    return {
        "consul.json": json.dumps(settings, indent=2).encode(),
        **{f"tls/{each}": (credentials.tls / each).read_bytes() for each in own},
    }


def _token(credentials: Credentials, name: str) -> Files:
    return {f"tokens/{name}": credentials.token(name).encode()}


def everything(credentials: Credentials) -> Files:
    """What `setup` needs: every token, and the roots."""
    names = [*IDENTITIES, MANAGEMENT, RELEASES, *([AGENT] if credentials.agents else [])]
    found = {"tls/roots.pem": credentials.roots.read_bytes()}
    for name in names:
        found |= _token(credentials, name)
    return found


def hand_out(folder: Path, names: Sequence[str]) -> None:
    """Make the secrets, or find them, and give each holder a folder with its own.

    `names` are those at which Consul is reached.
    """
    credentials = Credentials(run=folder / ALL, servers=names)
    credentials.prepare(IDENTITIES)
    for holder, files in parts(credentials, folder / ISSUER, folder / CONSUL).items():
        for path, content in files.items():
            write_private(folder / holder / path, content)
    print(f"secrets of {', '.join(IDENTITIES)} and of Consul are in {folder}")


def kubernetes(folder: Path, namespace: str, names: Sequence[str]) -> dict[str, Any]:
    """Make the secrets, or find them in the folder; return them as a list of Kubernetes objects."""
    servers, agents = (
        [host, f"{host}.{namespace}", f"{host}.{namespace}.svc", *names]
        for host in (CONSUL, CLIENT)
    )
    credentials = Credentials(run=folder, servers=servers, agents=agents)
    credentials.prepare(IDENTITIES)
    given = parts(credentials, folder / ISSUER)
    given[SERVER] = given.pop(CONSUL)
    given["consul-setup"] = everything(credentials)
    password = _password(folder / "postgres")
    url = f"postgresql://flightmesh:{password}@{DATABASE}/postgres"
    given[DATABASE] = {"password": password.encode()}
    for name in DURABLE:
        given[f"{name}-database"] = {"url": url.encode()}
    return {
        "apiVersion": "v1",
        "kind": "List",
        "items": [_secret(name, namespace, files) for name, files in sorted(given.items())],
    }


def _secret(name: str, namespace: str, files: Files) -> dict[str, Any]:
    """A Secret; its keys cannot have folders, so a volume maps `tokens.booking` to its path."""
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "namespace": namespace},
        "type": "Opaque",
        "data": {
            path.replace("/", "."): b64encode(content).decode() for path, content in files.items()
        },
    }


def _password(file: Path) -> str:
    if not file.exists():
        write_private(file, secrets.token_hex(16).encode())
    return file.read_text(encoding="utf-8")


def setup(folder: Path) -> list[str]:
    """Bring tokens, rights and config entries to the Consul of the environment.

    Waits for a Consul that is new. Returns the entries that were written.
    """
    config = MeshConfig.from_env(os.environ, version="")
    credentials = Credentials(run=folder)
    management = credentials.token(MANAGEMENT)
    with Administration(config.consul_url, management, _TIMEOUT, config.consul_roots) as client:
        _wait(client)
        grant(client, credentials)
        return bring(client)


def _wait(client: Consul) -> None:
    """Wait for a leader that knows the management token; raises what Consul says in the end."""
    until = time.monotonic() + PATIENCE.total_seconds()
    while True:
        try:
            client.acl.token.read_self()
        except (RequestException, ConsulException):
            if time.monotonic() > until:
                raise
            time.sleep(PAUSE)  # Consul has nothing to wait for that says when
        else:
            return


def arguments() -> argparse.Namespace:
    """What was asked for."""
    parser = argparse.ArgumentParser(prog="python -m tools.deployment", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    hands = commands.add_parser("hand-out")
    hands.add_argument("--folder", type=Path, default=SECRETS)
    cluster = commands.add_parser("kubernetes")
    cluster.add_argument("--folder", type=Path, default=ROOT / ".run" / "kubernetes")
    cluster.add_argument("--namespace", default=NAMESPACE)
    for each in (hands, cluster):
        each.add_argument(
            "--name",
            action="append",
            default=[],
            help="another name or address at which Consul is reached",
        )
    tells = commands.add_parser("setup")
    tells.add_argument("--folder", type=Path, default=SECRETS / ALL)
    return parser.parse_args()


def main() -> None:
    """Entry point."""
    given = arguments()
    match given.command:
        case "hand-out":
            hand_out(given.folder, given.name)
        case "kubernetes":
            json.dump(kubernetes(given.folder.resolve(), given.namespace, given.name), sys.stdout)
        case "setup":
            try:
                written = setup(given.folder)
            except (ConfigError, ConsulException, RequestException) as error:
                sys.exit(f"Consul is not set up: {error}")
            print(f"Consul has tokens and rights; written: {', '.join(written) or 'nothing new'}")


if __name__ == "__main__":
    main()
