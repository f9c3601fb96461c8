"""A small internet for the tests of the egress proxy, and a daemon in it: `world.py LOG DAEMON ARGUMENTS...`.

Runs in network and mount namespaces of its own (unshare -n -m). Names are told by a name server here; whatever reaches
a server is written to LOG, a line each, so that a test sees who was reached, and not only what the proxy says. The
certificate of the authority behind the TLS server lies beside LOG, in authorities.pem.
"""

import ctypes
import datetime
import http.server
import itertools
import os
import socket
import ssl
import struct
import subprocess
import sys
import threading
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

PUBLIC = "93.184.216.34"
NAMES = {
    "ok.test": [PUBLIC],
    "sub.ok.test": [PUBLIC],
    "evil-ok.test": [PUBLIC],
    "other.test": [PUBLIC],
    "secure.test": [PUBLIC],
    "wrong.test": [PUBLIC],
    "private.test": ["10.1.2.3"],
    "loop.test": ["127.0.0.1"],
    "meta.test": ["169.254.169.254"],
    "mixed.test": ["127.0.0.1", PUBLIC],
}
flips = itertools.cycle([[PUBLIC], ["127.0.0.1"]])


def log(words: str) -> None:
    with Path(sys.argv[1]).open("a") as file:
        file.write(words + "\n")


def answer(question: bytes) -> bytes:
    """A name server's answer: A records alone, none of them to be kept."""
    labels, at = [], 12
    while question[at]:
        labels.append(question[at + 1 : at + 1 + question[at]].decode(errors="replace"))
        at += 1 + question[at]
    name, kind = ".".join(labels).lower(), struct.unpack(">H", question[at + 1 : at + 3])[0]
    addresses = next(flips) if name == "rebind.test" and kind == 1 else NAMES.get(name, [])
    records = b"".join(
        b"\xc0\x0c" + struct.pack(">HHIH", 1, 1, 0, 4) + socket.inet_aton(a) for a in addresses if kind == 1
    )
    known = name in NAMES or name == "rebind.test"
    count = len(addresses) if kind == 1 else 0
    return (
        question[:2]
        + struct.pack(">HHHHH", 0x8180 if known else 0x8183, 1, count, 0, 0)
        + question[12 : at + 5]
        + records
    )


def names() -> None:
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind(("127.0.0.1", 53))
    while True:
        question, client = server.recvfrom(512)
        server.sendto(answer(question), client)


class Site(http.server.BaseHTTPRequestHandler):
    where = ""

    def do_GET(self) -> None:
        told = self.headers.get("Authorization", "-")
        log(f"{self.where} {self.command} {self.path} {self.headers['Host']} {told}")
        if self.path == "/redirect":
            self.send_response(302)
            self.send_header("Location", "http://127.0.0.1/inside")
            self.end_headers()
            return
        length = int(self.headers.get("Content-Length") or 0)
        body = b"hello " + self.rfile.read(length)
        self.send_response(200)
        if self.path == "/echo":
            body += told.encode()
            self.send_header("X-Echo", told)
        if self.path == "/big":
            body = bytes(200_000)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET  # noqa: N815

    def log_message(self, *_: object) -> None:
        pass


def site(address: str) -> None:
    handler = type("Here", (Site,), {"where": address})
    http.server.ThreadingHTTPServer((address, 80), handler).serve_forever()


def certificate(name: str, key: ec.EllipticCurvePrivateKey, issuer: str, by: ec.EllipticCurvePrivateKey) -> bytes:
    """In PEM: for a host, or for an authority where it is its own issuer."""
    now = datetime.datetime.now(datetime.UTC)
    made = x509.CertificateBuilder(
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]),
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]),
        key.public_key(),
        x509.random_serial_number(),
        now - datetime.timedelta(days=1),
        now + datetime.timedelta(days=1),
    )
    made = made.add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
    made = made.add_extension(x509.BasicConstraints(ca=name == issuer, path_length=None), critical=True)
    return made.sign(by, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def identity(folder: Path) -> Path:
    """Makes an authority, whose certificate is authorities.pem, and a key with its certificate for secure.test."""
    authority, own = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    (folder / "authorities.pem").write_bytes(certificate("authority.test", authority, "authority.test", authority))
    how = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    both = folder / "secure.pem"
    both.write_bytes(own.private_bytes(*how) + certificate("secure.test", own, "authority.test", authority))
    return both


def secure(both: Path) -> None:
    """The site once more, by TLS, under one name."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(both)
    handler = type("Here", (Site,), {"where": "secure"})
    server = http.server.ThreadingHTTPServer((PUBLIC, 8443), handler)
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    server.serve_forever()


def echo() -> None:
    """Answers with what it gets, and writes down how it began."""
    server = socket.create_server((PUBLIC, 443), backlog=64)
    while True:
        client, _ = server.accept()
        threading.Thread(target=one, args=(client,), daemon=True).start()
        del client


def one(client: socket.socket) -> None:
    with client:
        while data := client.recv(65536):
            log(f"echo {data[:16].hex()}")
            client.sendall(data)


def serve(both: Path) -> None:
    ctypes.CDLL(None).prctl(1, 9)
    for work in (names, echo, lambda: site(PUBLIC), lambda: secure(both)):
        threading.Thread(target=work, daemon=True).start()
    site("127.0.0.1")


def main() -> None:
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    subprocess.run(["ip", "addr", "add", f"{PUBLIC}/32", "dev", "lo"], check=True)
    for name, text in (("resolv.conf", "nameserver 127.0.0.1\n"), ("hosts", "127.0.0.1 localhost\n")):
        file = Path(sys.argv[1]).with_name(name)
        file.write_text(text)
        subprocess.run(["mount", "--bind", file, f"/etc/{name}"], check=True)
    both = identity(Path(sys.argv[1]).parent)
    if os.fork() == 0:
        serve(both)
    os.execv(sys.argv[2], sys.argv[2:])


main()
