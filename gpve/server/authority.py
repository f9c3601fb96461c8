"""The cluster's own certificate authority and its tokens. Both live in the store, which all servers share.

Whoever reads the store reads the authority's private key: the database is as secret as the cluster.
"""

import hashlib
import ipaddress
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from gpve.model.errors import InputError
from gpve.tasks.ledger import Tx

SERVER = "gpve-server"
"""The name that every server's certificate has, wherever it runs."""
CA_DAYS, SERVER_DAYS, NODE_DAYS = 3650, 397, 397
API, JOIN = "api", "join"
"""What a token is for."""


@dataclass(frozen=True)
class Authority:
    """Certificate and private key, PEM."""

    certificate: bytes
    key: bytes

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the certificate: by which a node that joins knows its cluster."""
        return fingerprint(self.certificate)


@dataclass(frozen=True)
class Identity:
    """A certificate and its key, PEM."""

    certificate: bytes
    key: bytes


def fingerprint(certificate: bytes) -> str:
    """SHA-256 of a certificate (PEM), in hexadecimal."""
    return x509.load_pem_x509_certificate(certificate).fingerprint(hashes.SHA256()).hex()


def authority(tx: Tx) -> Authority:
    """The cluster's authority, made when it is first asked for: servers that start at once agree on one."""
    row = tx.get("authority", "ca")
    if row is None:
        made = _make_authority()
        row = {"name": "ca", "certificate": made.certificate.decode(), "private_key": made.key.decode()}
        tx.put("authority", row)
    return Authority(row["certificate"].encode(), row["private_key"].encode())


def _make_authority() -> Authority:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "GPVE cluster")])
    usage = x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=True,
        crl_sign=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
    certificate = (
        _builder(name, name, key.public_key(), CA_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return Authority(_pem(certificate), _private(key))


def server_identity(ca: Authority, hosts: Sequence[str]) -> Identity:
    """A certificate for a server that is reached by these names and addresses."""
    key = ec.generate_private_key(ec.SECP256R1())
    names: list[x509.GeneralName] = [x509.DNSName(SERVER)]
    for host in dict.fromkeys((*hosts, "localhost", "127.0.0.1")):
        try:
            names.append(x509.IPAddress(ipaddress.ip_address(host)))
        except ValueError:
            names.append(x509.DNSName(host))
    uses = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    return Identity(_issue(ca, "server", key.public_key(), names, uses, SERVER_DAYS), _private(key))


def node_certificate(ca: Authority, node: str, csr: bytes) -> bytes:
    """A certificate for the key of a request; what else the request says is ignored. Raises `InputError`."""
    try:
        request = x509.load_pem_x509_csr(csr)
        valid, key = request.is_signature_valid, request.public_key()
    except ValueError as error:
        raise InputError("a certificate request in PEM is wanted", column="csr") from error
    if not valid or not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != "secp256r1":
        raise InputError("a request signed by a key on the curve P-256 is wanted", column="csr")
    return _issue(ca, f"node/{node}", key, [], [ExtendedKeyUsageOID.CLIENT_AUTH], NODE_DAYS)


def _issue(
    ca: Authority,
    name: str,
    key: ec.EllipticCurvePublicKey,
    names: list[x509.GeneralName],
    uses: list[x509.ObjectIdentifier],
    days: int,
) -> bytes:
    issuer = x509.load_pem_x509_certificate(ca.certificate)
    signer = serialization.load_pem_private_key(ca.key, None)
    assert isinstance(signer, ec.EllipticCurvePrivateKey)
    # A common name has at most 64 characters; a node's name may be longer. The alternative name says it whole.
    names = [*names, x509.UniformResourceIdentifier(f"gpve:{name}")]
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:64])])
    certificate = (
        _builder(subject, issuer.subject, key, days)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.ExtendedKeyUsage(uses), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
        .sign(signer, hashes.SHA256())
    )
    return _pem(certificate)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, days: int
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        # Clocks of nodes differ.
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=days))
    )


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _private(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def digest(token: str) -> str:
    """What the store keeps of a token."""
    return hashlib.sha256(token.encode()).hexdigest()


def make_token(tx: Tx, name: str, purpose: str, lives_s: float | None, ca: Authority) -> str:
    """A new token: 256 random bits, shown this once. One to join carries the fingerprint of the authority."""
    token = f"gpve_{secrets.token_urlsafe(32)}"
    if purpose == JOIN:
        token = f"{token}.{ca.fingerprint}"
    expires_at = None if lives_s is None else tx.now + lives_s
    row = {"digest": digest(token), "name": name, "purpose": purpose}
    tx.put("token", {**row, "created_at": tx.now, "expires_at": expires_at})
    return token
