"""The secrets of a system in the secure profile: files that only its user may read.

A token of Consul for every service and for every kind of tool, the key of Consul's gossip, and
certificates for Consul's own APIs by an authority that signs these once and forgets its key.
"""

import base64
import ipaddress
import os
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from consulmesh import operators
from consulmesh.private import private_bytes, write_private

MANAGEMENT: Final = "management"
"""The token that may do anything: `make up` has Consul made so."""
RELEASES: Final = "releases"
"""The token that writes config entries of services: `make release`."""
AGENT: Final = "agent"
"""The token of Consul's client agents, where there are any: they say which nodes there are."""
CONSUL: Final = "consul"
GOSSIP: Final = "gossip"
LEAF_TTL: Final = "24h"
"""How long a certificate of a service, or of an operator, is good for."""

_TOKEN_FILE: Final = "CONSUL_HTTP_TOKEN_FILE"  # noqa: S105 - the name of a variable
_LOOPBACK: Final = ("localhost", "127.0.0.1", "::1")
_SERVER: Final = "server.dc1.consul"  # by this Consul's agents tell its servers from each other
_LIFE: Final = timedelta(days=365)
_RENEWED_BEFORE: Final = timedelta(days=30)
_DAY: Final = timedelta(days=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """The secrets below a system's folder.

    `servers` are names and addresses at which Consul's servers are reached, beside loopback;
    `agents` those of its client agents, where there are any.
    """

    run: Path
    servers: Sequence[str] = ()
    agents: Sequence[str] = ()

    @property
    def tls(self) -> Path:
        """The folder of Consul's own certificates and their keys."""
        return self.run / "tls"

    @property
    def roots(self) -> Path:
        """What Consul's own certificates are verified by."""
        return self.tls / "roots.pem"

    def token_file(self, name: str) -> Path:
        """The file of a token."""
        return self.run / "tokens" / name

    def token(self, name: str) -> str:
        """A token, made if there is none yet."""
        return self._secret(name, str(uuid.uuid4()))

    def prepare(self, names: Iterable[str]) -> None:
        """Make what is missing: the tokens of these names, and Consul's certificates."""
        for name in (MANAGEMENT, RELEASES, *([AGENT] if self.agents else []), *names):
            self.token(name)
        self._secret(GOSSIP, base64.b64encode(os.urandom(32)).decode())
        now = datetime.now(UTC)
        if not self._good_at(now + _RENEWED_BEFORE):
            self._certify(now)

    def server(self, folder: Path | None = None) -> dict[str, Any]:
        """What the configuration of a server has of them; to be kept as secret as they are.

        `folder` is where it finds its certificate, if that is not where it was made.
        """
        management = self.token(MANAGEMENT)
        return {
            **self._agent(
                folder or self.tls,
                CONSUL,
                {"initial_management": management, "agent": management},
            ),
            "connect": {"ca_config": {"leaf_cert_ttl": LEAF_TTL}},
        }

    def client(self, folder: Path) -> dict[str, Any]:
        """The same of a client agent."""
        return self._agent(folder, AGENT, {"agent": self.token(AGENT)})

    def _agent(self, folder: Path, name: str, tokens: Mapping[str, str]) -> dict[str, Any]:
        return {
            "acl": {"enabled": True, "default_policy": "deny", "tokens": tokens},
            "encrypt": self.token(GOSSIP),
            "tls": {
                "defaults": {
                    "ca_file": str(folder / self.roots.name),
                    "cert_file": str(folder / f"{name}.pem"),
                    "key_file": str(folder / f"{name}-key.pem"),
                    "verify_outgoing": True,
                },
                "internal_rpc": {"verify_incoming": True, "verify_server_hostname": True},
            },
        }

    def _secret(self, name: str, otherwise: str) -> str:
        file = self.token_file(name)
        if not file.exists():
            write_private(file, otherwise.encode())
        return file.read_text(encoding="utf-8").strip()

    def _names(self) -> dict[str, tuple[str, ...]]:
        """Which certificates there are, and what they are for."""
        of_agents = {AGENT: (*_LOOPBACK, *self.agents)} if self.agents else {}
        return {CONSUL: (*_LOOPBACK, _SERVER, *self.servers), **of_agents}

    def _good_at(self, instant: datetime) -> bool:
        for name, names in self._names().items():
            file = self.tls / f"{name}.pem"
            if not file.exists():
                return False
            found = x509.load_pem_x509_certificate(file.read_bytes())
            if found.not_valid_after_utc <= instant or _names_of(found) != {*names}:
                return False
        return True

    def _certify(self, now: datetime) -> None:
        """Make an authority and what it signs, for as long as each other."""
        authority = ec.generate_private_key(ec.SECP256R1())
        issuer = _name("flightmesh, Consul's own TLS")
        root = (
            _draft(issuer, issuer, authority.public_key(), now)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(signs_certificates=True), critical=True)
            .add_extension(
                x509.SubjectKeyIdentifier.from_public_key(authority.public_key()), critical=False
            )
            .sign(authority, hashes.SHA256())
        )
        write_private(self.roots, root.public_bytes(Encoding.PEM))
        for name, names in self._names().items():
            key = ec.generate_private_key(ec.SECP256R1())
            leaf = _leaf(_draft(_name(name), issuer, key.public_key(), now), names, authority)
            write_private(self.tls / f"{name}-key.pem", private_bytes(key))
            write_private(self.tls / f"{name}.pem", leaf.public_bytes(Encoding.PEM))


def environment(name: str) -> dict[str, str]:
    """Return a tool's environment (`consulmesh.operators`), with this token in place of theirs."""
    found = operators.environment()
    file = Path(found.get(_TOKEN_FILE, ""))
    if file.name == operators.OPERATOR:
        found[_TOKEN_FILE] = str(file.with_name(name))
    return found


def _leaf(
    draft: x509.CertificateBuilder, names: Sequence[str], authority: ec.EllipticCurvePrivateKey
) -> x509.Certificate:
    """Sign the certificate of one of Consul's agents."""
    usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    return (
        draft.add_extension(
            x509.SubjectAlternativeName([_general_name(each) for each in names]), critical=False
        )
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.public_key()),
            critical=False,
        )
        .sign(authority, hashes.SHA256())
    )


def _general_name(name: str) -> x509.GeneralName:
    """An address is one, everything else a DNS name."""
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _names_of(certificate: x509.Certificate) -> set[str]:
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return {str(each.value) for each in names}


def _draft(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _DAY)  # clocks differ
        .not_valid_after(now + _LIFE)
    )


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )
