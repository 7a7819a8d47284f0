"""Trust in a mesh's roots for the names that they may give, and no others (RFC 5280, 4.2.1.10).

Consul checks the SPIFFE id of what it signs and takes its DNS names as they come. gRPC core asks
whether any alternative name, of whatever kind, is the one that it looks for: a DNS name that spells
another service's SPIFFE id would be taken for it. So the roots are signed once more, by a key that
nobody keeps, with the condition that DNS names lie below `service.consul`.
"""

from datetime import UTC, datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

_DNS: Final = "service.consul"
_PEM: Final = serialization.Encoding.PEM
_NAME: Final = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "roots of the mesh")])
_KEPT: Final = (x509.SubjectKeyIdentifier, x509.BasicConstraints)
_BEFORE: Final = datetime(2020, 1, 1, tzinfo=UTC)
_LIFE: Final = timedelta(days=36525)


def constrained(roots: bytes) -> bytes:
    """Return what to trust in place of some roots, both PEM; raises ValueError."""
    key = ec.generate_private_key(ec.SECP256R1())
    anchor = (
        x509.CertificateBuilder()
        .subject_name(_NAME)
        .issuer_name(_NAME)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(_BEFORE)
        .not_valid_after(_BEFORE + _LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    crossed = [_crossed(root, key) for root in x509.load_pem_x509_certificates(roots)]
    return b"".join(each.public_bytes(_PEM) for each in (*crossed, anchor))


def _crossed(root: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    builder = (
        x509.CertificateBuilder()
        .subject_name(root.subject)
        .issuer_name(_NAME)
        .public_key(root.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(root.not_valid_before_utc)
        .not_valid_after(root.not_valid_after_utc)
    )
    for extension in root.extensions:
        if isinstance(extension.value, _KEPT):
            builder = builder.add_extension(extension.value, critical=extension.critical)
    condition = x509.NameConstraints([x509.DNSName(_DNS)], None)
    return builder.add_extension(condition, critical=True).sign(key, hashes.SHA256())
