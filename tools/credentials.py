"""The secrets of a system in the secure profile: files that only its user may read.

A token of Consul for every service and for every kind of tool, the key of Consul's gossip, and a
certificate for Consul's own APIs by an authority that signs this once and forgets its key.
"""

import base64
import ipaddress
import os
import uuid
from collections.abc import Iterable
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
from consulmesh.identity import private_bytes, write_private

MANAGEMENT: Final = "management"
"""The token that may do anything: `make up` has Consul made so."""
RELEASES: Final = "releases"
"""The token that writes config entries of services: `make release`."""
GOSSIP: Final = "gossip"
LEAF_TTL: Final = "24h"
"""How long a certificate of a service, or of an operator, is good for."""

_TOKEN_FILE: Final = "CONSUL_HTTP_TOKEN_FILE"  # noqa: S105 - the name of a variable
_NAMES: Final = ("localhost", "server.dc1.consul")  # the second: of Consul's servers to each other
_LIFE: Final = timedelta(days=365)
_RENEWED_BEFORE: Final = timedelta(days=30)
_DAY: Final = timedelta(days=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """The secrets below a system's folder."""

    run: Path

    @property
    def roots(self) -> Path:
        """What Consul's own certificate is verified by."""
        return self.run / "tls" / "roots.pem"

    def token_file(self, name: str) -> Path:
        """The file of a token."""
        return self.run / "tokens" / name

    def token(self, name: str) -> str:
        """A token, made if there is none yet."""
        return self._secret(name, str(uuid.uuid4()))

    def prepare(self, names: Iterable[str]) -> None:
        """Make what is missing: the tokens of these names, and Consul's certificate."""
        for name in (MANAGEMENT, RELEASES, *names):
            self.token(name)
        self._secret(GOSSIP, base64.b64encode(os.urandom(32)).decode())
        now = datetime.now(UTC)
        if not self._good_at(now + _RENEWED_BEFORE):
            self._certify(now)

    def agent(self) -> dict[str, Any]:
        """What Consul's configuration has of them; to be kept as secret as they are."""
        folder = self.roots.parent
        management = self.token(MANAGEMENT)
        return {
            "acl": {
                "enabled": True,
                "default_policy": "deny",
                "tokens": {"initial_management": management, "agent": management},
            },
            "encrypt": self.token(GOSSIP),
            "tls": {
                "defaults": {
                    "ca_file": str(self.roots),
                    "cert_file": str(folder / "consul.pem"),
                    "key_file": str(folder / "consul-key.pem"),
                    "verify_outgoing": True,
                },
                "internal_rpc": {"verify_incoming": True, "verify_server_hostname": True},
            },
            "connect": {"ca_config": {"leaf_cert_ttl": LEAF_TTL}},
        }

    def _secret(self, name: str, otherwise: str) -> str:
        file = self.token_file(name)
        if not file.exists():
            write_private(file, otherwise.encode())
        return file.read_text(encoding="utf-8").strip()

    def _good_at(self, instant: datetime) -> bool:
        file = self.roots.parent / "consul.pem"
        if not file.exists():
            return False
        return x509.load_pem_x509_certificate(file.read_bytes()).not_valid_after_utc > instant

    def _certify(self, now: datetime) -> None:
        """Make an authority and what it signs, for as long as each other."""
        authority, own = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
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
        addresses = [x509.IPAddress(ipaddress.ip_address(each)) for each in ("127.0.0.1", "::1")]
        names = [*(x509.DNSName(each) for each in _NAMES), *addresses]
        leaf = (
            _draft(_name("consul"), issuer, own.public_key(), now)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs_certificates=False), critical=True)
            .add_extension(
                x509.ExtendedKeyUsage(
                    [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
                ),
                critical=False,
            )
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.public_key()),
                critical=False,
            )
            .sign(authority, hashes.SHA256())
        )
        folder = self.roots.parent
        write_private(self.roots, root.public_bytes(Encoding.PEM))
        write_private(folder / "consul-key.pem", private_bytes(own))
        write_private(folder / "consul.pem", leaf.public_bytes(Encoding.PEM))


def environment(name: str) -> dict[str, str]:
    """Return a tool's environment (`consulmesh.operators`), with this token in place of theirs."""
    found = operators.environment()
    file = Path(found.get(_TOKEN_FILE, ""))
    if file.name == operators.OPERATOR:
        found[_TOKEN_FILE] = str(file.with_name(name))
    return found


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
