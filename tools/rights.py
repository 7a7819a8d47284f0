"""What each token of the secure profile may do, brought to Consul's ACLs."""

from collections.abc import Mapping
from typing import Any, Final

from consul.exceptions import ConsulException
from consul.std import Consul

from consulmesh import operators
from consulmesh.flags import FOLDER
from tools.credentials import AGENT, RELEASES, Credentials
from tools.programs import IDENTITIES

DESCRIPTION: Final = "flightmesh: {}"
_RULES: Final[Mapping[str, Mapping[str, Any]]] = {
    **{
        name: {"key_prefix": {f"{FOLDER}/{name}/": {"policy": "read"}}}
        for name in IDENTITIES
        if name != operators.OPERATOR
    },
    operators.OPERATOR: {"key_prefix": {f"{FOLDER}/": {"policy": "write"}}},
    RELEASES: {
        "service_prefix": {"": {"policy": "write", "intentions": "read"}},
        "node_prefix": {"": {"policy": "read"}},
    },
    AGENT: {
        "node_prefix": {"": {"policy": "write"}},
        "service_prefix": {"": {"policy": "read"}},
    },
}
"""What a token may do beyond what its service identity says."""


def grant(client: Consul, credentials: Credentials) -> None:
    """Bring the tokens and their rights to Consul; they are exactly ours afterwards."""
    has_agents = credentials.token_file(AGENT).exists()
    granted = {name: rules for name, rules in _RULES.items() if has_agents or name != AGENT}
    policies = {each["Name"]: each["ID"] for each in client.acl.policy.list()}
    for name, rules in granted.items():
        policy = _policy_name(name)
        if policy in policies:
            client.acl.policy.update(policies[policy], name=policy, rules=rules)
        else:
            client.acl.policy.create(name=policy, rules=rules)
    for name in granted:
        _grant(client, name, credentials.token(name))


def _grant(client: Consul, name: str, secret: str) -> None:
    """Make a token with its rights, or give it those."""
    rights: dict[str, Any] = {
        "description": DESCRIPTION.format(name),
        "policies_name": [_policy_name(name)],
        "service_identities": [] if name in {RELEASES, AGENT} else [{"ServiceName": name}],
    }
    try:
        there = client.acl.token.read_self(token=secret)
    except ConsulException:  # Consul knows no such token
        for former in client.acl.token.list():
            if former.get("Description") == rights["description"]:
                client.acl.token.delete(former["AccessorID"])
        client.acl.token.create(secret_id=secret, **rights)
    else:
        client.acl.token.update(there["AccessorID"], **rights)


def _policy_name(name: str) -> str:
    return f"flightmesh-{name}"
