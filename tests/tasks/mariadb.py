"""A MariaDB server of the tests' own: a private directory, a loopback port, ended by its process id."""

import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import pymysql


class MariaDb:
    """``directory`` is created and filled; `start`, `kill` and `start` again as one likes."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self._process: subprocess.Popen[bytes] | None = None
        directory.mkdir(parents=True)
        self._options = [
            "--no-defaults",
            f"--datadir={directory}/data",
            f"--socket={directory}/mysqld.sock",
            f"--pid-file={directory}/mysqld.pid",
            f"--log-error={directory}/error.log",
            f"--port={self.port}",
            "--bind-address=127.0.0.1",
            "--user=root" if os.geteuid() == 0 else f"--user={os.environ.get('USER', 'nobody')}",
            "--innodb-buffer-pool-size=64M",
            "--innodb-log-file-size=64M",
            "--innodb-flush-log-at-trx-commit=1",
            "--skip-name-resolve",
        ]
        subprocess.run(
            ["mariadb-install-db", *self._options, "--auth-root-authentication-method=normal", "--skip-test-db"],
            check=True,
            capture_output=True,
        )

    def start(self) -> None:
        """Start the server and wait until it answers."""
        server = shutil.which("mariadbd") or "/usr/sbin/mariadbd"
        self._process = subprocess.Popen([server, *self._options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until = time.monotonic() + 60.0
        while True:
            try:
                self._connect().close()
                return
            except pymysql.err.OperationalError:
                if time.monotonic() > until or self._process.poll() is not None:
                    raise AssertionError((self.directory / "error.log").read_text()[-2000:]) from None
                time.sleep(0.05)

    def _connect(self) -> "pymysql.connections.Connection[pymysql.cursors.Cursor]":
        return pymysql.connect(host="127.0.0.1", port=self.port, user="root")

    def database(self, name: str) -> str:
        """The address of a new, empty database."""
        with self._connect() as connection:
            connection.cursor().execute(f"CREATE DATABASE `{name}` CHARACTER SET utf8mb4 COLLATE utf8mb4_bin")
        return f"mysql+pymysql://root@127.0.0.1:{self.port}/{name}"

    def kill(self) -> None:
        """kill -9."""
        assert self._process is not None
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    def stop(self) -> None:
        """End it as it likes to be ended."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            self._process.wait(30)
