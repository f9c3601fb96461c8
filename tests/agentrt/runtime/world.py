"""A small internet for the tests of the egress proxy, and a daemon in it: `world.py LOG DAEMON ARGUMENTS...`.

Runs in network and mount namespaces of its own (unshare -n -m). Names are told by a name server here; whatever reaches
a server is written to LOG, a line each, so that a test sees who was reached, and not only what the proxy says.
"""

import ctypes
import http.server
import itertools
import os
import socket
import struct
import subprocess
import sys
import threading
from pathlib import Path

PUBLIC = "93.184.216.34"
NAMES = {
    "ok.test": [PUBLIC],
    "sub.ok.test": [PUBLIC],
    "evil-ok.test": [PUBLIC],
    "other.test": [PUBLIC],
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
        log(f"{self.where} {self.command} {self.path} {self.headers['Host']}")
        if self.path == "/redirect":
            self.send_response(302)
            self.send_header("Location", "http://127.0.0.1/inside")
            self.end_headers()
            return
        length = int(self.headers.get("Content-Length") or 0)
        body = b"hello " + self.rfile.read(length)
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET  # noqa: N815

    def log_message(self, *_: object) -> None:
        pass


def site(address: str) -> None:
    handler = type("Here", (Site,), {"where": address})
    http.server.ThreadingHTTPServer((address, 80), handler).serve_forever()


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


def serve() -> None:
    ctypes.CDLL(None).prctl(1, 9)
    for work in (names, echo, lambda: site(PUBLIC)):
        threading.Thread(target=work, daemon=True).start()
    site("127.0.0.1")


def main() -> None:
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    subprocess.run(["ip", "addr", "add", f"{PUBLIC}/32", "dev", "lo"], check=True)
    for name, text in (("resolv.conf", "nameserver 127.0.0.1\n"), ("hosts", "127.0.0.1 localhost\n")):
        file = Path(sys.argv[1]).with_name(name)
        file.write_text(text)
        subprocess.run(["mount", "--bind", file, f"/etc/{name}"], check=True)
    if os.fork() == 0:
        serve()
    os.execv(sys.argv[2], sys.argv[2:])


main()
