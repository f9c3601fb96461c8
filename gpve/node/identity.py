"""Who a node is: its key, which never leaves it, its certificate, and whom it believes."""

import http.client
import json
import os
import ssl
import urllib.parse
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from gpve.model.errors import InputError

RENEW_SHARE = 1 / 3
"""A certificate is renewed when less of its life is left."""
FILE = "node.json"
LONGEST = 16_384
"""Bytes that an identity takes at most."""


@dataclass(frozen=True)
class Identity:
    """PEM all, and where sessions are served."""

    name: str
    key: bytes
    certificate: bytes
    ca: bytes
    servers: tuple[str, ...]

    @property
    def due(self) -> bool:
        """Whether the certificate should be renewed."""
        certificate = x509.load_pem_x509_certificate(self.certificate)
        life = certificate.not_valid_after_utc - certificate.not_valid_before_utc
        return certificate.not_valid_after_utc - datetime.now(UTC) < life * RENEW_SHARE


def to_json(identity: Identity) -> dict[str, Any]:
    """For a file that nobody else may read."""
    pems = {"key": identity.key, "certificate": identity.certificate, "ca": identity.ca}
    told = {name: pem.decode() for name, pem in pems.items()}
    return {"name": identity.name, "servers": list(identity.servers), **told}


def from_json(told: dict[str, Any]) -> Identity:
    """What `to_json` made. Raises `KeyError`."""
    key, certificate, ca = (told[name].encode() for name in ("key", "certificate", "ca"))
    return Identity(told["name"], key, certificate, ca, tuple(told["servers"]))


def load(directory: Path) -> Identity | None:
    """The identity kept in a directory; None: it has not joined yet. Raises `InputError`."""
    path = directory / FILE
    try:
        return from_json(json.loads(path.read_text()))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path} cannot be read ({error!r}); remove it, and join anew with a token") from error


def keep(directory: Path, identity: Identity) -> None:
    """Keep it. One file: a key without its certificate would be of no use to anybody. Raises `OSError`."""
    replace(directory / FILE, json.dumps(to_json(identity)).encode())


def try_to_keep(directory: Path) -> None:
    """Raise `OSError` if an identity could not be kept here: a full disk must not cost a token, which works once."""
    trial = directory / f"{FILE}.trial"
    try:
        replace(trial, bytes(LONGEST))
    finally:
        trial.unlink(missing_ok=True)


def replace(path: Path, data: bytes) -> None:
    """Replace a file that nobody else may read."""
    new = path.with_name(path.name + ".new")
    try:
        with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
    except OSError:
        new.unlink(missing_ok=True)
        raise


def request_of(name: str, key: ec.EllipticCurvePrivateKey) -> bytes:
    """A certificate request, PEM."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:64])])
    request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    return request.public_bytes(serialization.Encoding.PEM)


def new_key() -> tuple[ec.EllipticCurvePrivateKey, bytes]:
    """A key, and its PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    none = serialization.NoEncryption()
    return key, key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, none)


def join(server: str, token: str, name: str) -> Identity:
    """Join the cluster of a server (the URL of its API) with a one-time token. Raises `InputError`.

    The token says the fingerprint of the cluster's authority: who answers must show a certificate of that authority.
    """
    url = urllib.parse.urlsplit(server)
    _, _, fingerprint = token.partition(".")
    if url.scheme not in ("https", "http") or not url.hostname:
        raise InputError("the URL of a server's API is wanted, as https://10.0.0.1:7460", column="server")
    if len(fingerprint) != 64:
        raise InputError("a token made by gpve node token is wanted, whole", column="token")
    key, pem = new_key()
    ca = str(_ask(url, None, None)["ca"])
    try:
        found = x509.load_pem_x509_certificate(ca.encode()).fingerprint(hashes.SHA256()).hex()
    except ValueError:
        found = ""
    if found != fingerprint:
        raise InputError(f"{server} is not of the cluster that the token is for", column="server")
    # Only who is of that cluster gets to see the token.
    told = _ask(url, ca, {"token": token, "name": name, "csr": request_of(name, key).decode()})
    servers = tuple(str(address) for address in told["servers"])
    return Identity(name, pem, str(told["certificate"]).encode(), ca.encode(), servers)


def _ask(url: urllib.parse.SplitResult, ca: str | None, wish: dict[str, str] | None) -> dict[str, Any]:
    """Ask a server: for its authority, before anybody is believed; or, of one who shows its certificate, to join."""
    port = url.port or 7460
    connection: http.client.HTTPConnection
    if url.scheme == "https":
        context = ssl.create_default_context(cadata=ca)
        if ca is None:
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        connection = http.client.HTTPSConnection(url.hostname or "", port, timeout=30.0, context=context)
    else:
        connection = http.client.HTTPConnection(url.hostname or "", port, timeout=30.0)
    try:
        if wish is None:
            connection.request("GET", "/api/v1/ca")
        else:
            connection.request("POST", "/api/v1/join", json.dumps(wish), {"Content-Type": "application/json"})
        reply = connection.getresponse()
        told: dict[str, Any] = json.loads(reply.read(1 << 20))
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise InputError(f"{url.geturl()} does not answer as a server of GPVE: {error}", column="server") from error
    finally:
        connection.close()
    if reply.status != 200:
        raise InputError(f"the server says: {told.get('detail', reply.status)}")
    return told


def renewed(identity: Identity, key: bytes, certificate: bytes, servers: Sequence[str] = ()) -> Identity:
    """The identity with another certificate."""
    return Identity(identity.name, key, certificate, identity.ca, tuple(servers) or identity.servers)
