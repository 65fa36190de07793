"""Other programs take the configurations that the pages have for them."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from jupyter_session_store.sql.admin import admin_connection

from ..databases import Database, parameters
from ..databases.certificates import Certificate
from ..databases.database import DRIVER_ERRORS
from ..databases.local import LocalInstance, find_program
from .blocks import blocks

PGBOUNCER = "docs/how-to/pgbouncer.md"


def shown(page: str, language: str, beginning: str) -> str:
    """Return the one block of a page that is a whole file."""
    (text,) = (
        block.text
        for block in blocks(page)
        if block.language == language and block.text.startswith(beginning)
    )
    return text


def test_haproxy_before_galera(tmp_path: Path) -> None:
    text = shown("docs/how-to/galera.md", "text", "global\n")
    nodes = re.findall(r"node\d\.example\.org", text)
    assert len(nodes) == 3
    for node in nodes:
        text = text.replace(node, "127.0.0.1")
    check_haproxy(tmp_path, text)


@pytest.mark.parametrize("page", ["replicas", "failover"])
def test_haproxy(page: str, tmp_path: Path) -> None:
    certificate = Certificate.of("jupyter.example.org")
    (tmp_path / "jupyter.pem").write_text(certificate.text + certificate.key)
    text = shown(f"docs/how-to/{page}.md", "text", "global\n")
    assert ("/etc/haproxy/jupyter.pem" in text) == (page == "replicas")
    check_haproxy(tmp_path, text.replace("/etc/haproxy", str(tmp_path)))


def check_haproxy(folder: Path, text: str) -> None:
    config = folder / "haproxy.cfg"
    config.write_text(text)
    haproxy = find_program("haproxy")
    checked = subprocess.run(
        [haproxy, "-c", "-f", config], capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stderr


class PgBouncer(LocalInstance):
    """PgBouncer as the page configures it, for the user of a temporary PostgreSQL.

    Parameters
    ----------
    target : Database
    asks : bool, optional
        Whether it asks the database for the secrets of others.
    """

    def __init__(self, target: Database, *, asks: bool = False) -> None:
        self._target = target
        self._asks = asks
        super().__init__("postgresql")

    def find_programs(self) -> None:
        self._program = find_program("pgbouncer")

    def initialise(self) -> None:
        # As the page says: the secret that PostgreSQL has, and not the password.
        sql = "SELECT rolname, rolpassword FROM pg_authid WHERE rolname = current_user"
        ((user, secret),) = self._target.rows(sql)
        self.password = parameters(self._target.url)["password"]
        # What the page's statement gives the role that asks.
        asking = '"pgbouncer" "..."\n' if self._asks else ""
        self.write("userlist.txt", f'"{user}" "{secret}"\n{asking}')

    def start(self) -> None:
        text = shown(PGBOUNCER, "ini", "[databases]")
        if self._asks:
            text += shown(PGBOUNCER, "ini", "[pgbouncer]").removeprefix("[pgbouncer]")
        target = parameters(self._target.url)
        for documented, here in {
            "db.example.org port=5432": f"{target['host']} port={target['port']}",
            "/etc/pgbouncer": str(self.directory),
            "0.0.0.0": "127.0.0.1",
            "6432": str(self.port),
        }.items():
            assert documented in text
            text = text.replace(documented, here)
        self.write("pgbouncer.ini", f"{text}\nunix_socket_dir =\n")
        self.admin = Database("postgresql", self.admin.url.replace("/postgres", "/jupyter"))
        super().start()

    def command(self) -> list[str]:
        return [str(self._program), str(self.directory / "pgbouncer.ini")]


def test_pgbouncer(named_database: Callable[[str], Database]) -> None:
    pooler = PgBouncer(named_database("postgresql"))
    try:
        with (
            admin_connection.engine(pooler.admin.url) as engine,
            admin_connection.connected(engine) as found,
        ):
            assert admin_connection.require_usable(found).usable
    finally:
        pooler.close()


def test_pgbouncer_asks_for_the_secret_of_a_user(
    named_database: Callable[[str], Database],
) -> None:
    database = named_database("postgresql")
    database.execute(shown(PGBOUNCER, "sql", "CREATE ROLE pgbouncer "))
    database.execute("CREATE ROLE ada LOGIN PASSWORD 'hers'")
    pooler = PgBouncer(database, asks=True)
    try:
        named = urlsplit(pooler.admin.url)
        through = named._replace(netloc=f"ada:hers@{named.hostname}:{named.port}").geturl()
        assert Database("postgresql", through).rows("SELECT current_user") == [("ada",)]
        with pytest.raises(DRIVER_ERRORS, match="authentication failed"):
            Database("postgresql", through.replace("hers", "another")).rows("SELECT 1")
    finally:
        pooler.close()
