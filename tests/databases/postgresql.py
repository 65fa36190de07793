"""A temporary PostgreSQL."""

from __future__ import annotations

import signal
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
        password = self.write("password", self.password)
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
