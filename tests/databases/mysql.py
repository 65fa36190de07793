"""A temporary MariaDB or MySQL."""

from __future__ import annotations

import os
import pwd
import subprocess
from pathlib import Path

from .local import LocalInstance, find_program


class LocalMySQL(LocalInstance):
    """MariaDB or MySQL, whichever the programs are, whose one user has a password."""

    _server: Path
    _install: Path | None

    def __init__(self) -> None:
        #: More of its command line, from the next :meth:`start` on.
        self.options: list[str] = []
        super().__init__("mysql")

    def find_programs(self) -> None:
        self._server = find_program("mariadbd", "mysqld")
        version = subprocess.run(
            [self._server, "--no-defaults", "--version"], capture_output=True, check=False
        )
        # MySQL makes its data directory itself.
        self._install = (
            find_program("mariadb-install-db", "mysql_install_db")
            if b"MariaDB" in version.stdout
            else None
        )

    def initialise(self) -> None:
        data = f"--datadir={self.data}"
        if self._install is None:
            self.run(self._server, "--no-defaults", "--initialize-insecure", data)
        else:
            self.run(
                self._install,
                "--no-defaults",
                data,
                "--skip-test-db",
                "--skip-name-resolve",
                "--auth-root-authentication-method=socket",
                f"--auth-root-socket-user={self._account()}",
                *self._lightly(),
            )

    def prepare(self) -> None:
        # The server runs this before it listens. Each start repeats it, to the same end.
        self.write(
            "users.sql",
            f"CREATE USER IF NOT EXISTS 'jss'@'%' IDENTIFIED BY '{self.password}';\n"
            "GRANT ALL ON *.* TO 'jss'@'%' WITH GRANT OPTION;\n"
            f"DROP USER IF EXISTS 'root'@'localhost', '{self._account()}'@'localhost',"
            " ''@'localhost';\n",
        )

    def command(self) -> list[str]:
        return [
            str(self._server),
            "--no-defaults",
            f"--datadir={self.data}",
            f"--tmpdir={self.directory}",
            f"--socket={self.directory / 'socket'}",
            f"--pid-file={self.directory / 'pid'}",
            "--bind-address=127.0.0.1",
            f"--port={self.port}",
            f"--init-file={self.directory / 'users.sql'}",
            "--skip-name-resolve",
            "--skip-log-bin",
            *(["--mysqlx=OFF"] if self._install is None else self._lightly()),
            *self.options,
        ]

    def _lightly(self) -> list[str]:
        # Written at each commit but not synced: what is committed outlives kill -9.
        return [
            "--innodb-flush-method=nosync",
            "--innodb-flush-log-at-trx-commit=2",
            "--innodb-log-file-size=8M",
            "--innodb-buffer-pool-size=32M",
        ]

    @staticmethod
    def _account() -> str:
        return "nobody" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name
