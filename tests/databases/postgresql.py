"""A temporary PostgreSQL."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import signal
from base64 import b64encode
from pathlib import Path

from .local import LocalInstance, find_program


class LocalPostgreSQL(LocalInstance):
    """PostgreSQL that checks the password of every connection (SCRAM)."""

    STOP = signal.SIGINT  # SIGTERM would wait for the clients to leave
    END = signal.SIGQUIT  # SIGKILL would leave its shared memory behind
    _initdb: Path

    def __init__(self) -> None:
        super().__init__("postgresql")

    def find_programs(self) -> None:
        self._initdb = find_program("initdb")

    def initialise(self) -> None:
        password = self.write("password", _scram_secret(self.password))
        self.run(
            self._initdb,
            f"--pgdata={self.data}",
            "--username=jss",
            f"--pwfile={password}",
            "--auth=scram-sha-256",
            "--encoding=UTF8",
            "--locale=C",
            "--no-sync",
        )
        password.unlink()

    def command(self) -> list[str]:
        settings = {
            "port": self.port,
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": self.directory,
            # Written at each commit but not synced: what is committed outlives kill -9.
            "fsync": "off",
            "full_page_writes": "off",
        }
        # Beside initdb, so that both are of one version.
        words = [str(self._initdb.with_name("postgres")), "-D", str(self.data)]
        for name, value in settings.items():
            words += ["-c", f"{name}={value}"]
        return words


def _scram_secret(password: str) -> str:
    """Return what PostgreSQL keeps of a password of ASCII characters (RFC 5802).

    With one iteration: each login of a client would take milliseconds for the usual 4096.
    """
    salt = secrets.token_bytes(16)
    salted = hashlib.pbkdf2_hmac("sha256", password.encode("ascii"), salt, 1)
    client_key, server_key = (
        hmac.digest(salted, name, "sha256") for name in (b"Client Key", b"Server Key")
    )
    stored_key = hashlib.sha256(client_key).digest()
    salt64, stored64, server64 = (b64encode(one).decode() for one in (salt, stored_key, server_key))
    return f"SCRAM-SHA-256$1:{salt64}${stored64}:{server64}"
