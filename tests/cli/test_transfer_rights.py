"""copy, by the role that the documentation gives a server."""

from __future__ import annotations

from pathlib import Path

import pytest

from ..databases import Instance
from ..migrations.test_rights import (
    GRANTS,
    PASSWORD,
    administered,
    as_role,
    documented,
    execute,
    upgrade,
)
from .conftest import Run
from .support import fill, server, session
from .test_transfer import copied
from .transfer_support import adoption, contents, file_database


@pytest.mark.system
@pytest.mark.only("postgresql", "mysql", reason="SQLite has no roles")
def test_a_servers_role_may_copy(run: Run, own_server: Instance, tmp_path: Path) -> None:
    """Also from a file that has taken over what the stock manager left there."""
    execute(own_server.admin, documented(own_server.kind, "CREATE DATABASE jupyter"))
    upgrade(as_role(own_server, "jupyter"))
    execute(administered(own_server), documented(own_server.kind, GRANTS))
    role = as_role(own_server, "jupyter_server")
    source = file_database(tmp_path / "source.db")
    fill(source.url, [session("n", number) for number in range(3)], [server("n")])
    source.execute(
        "INSERT INTO jupyter_session_store_meta VALUES ('stock_sessions_adopted_at', 'once')"
    )
    found = copied(run, source, role)
    assert (found["copied"], found["servers_copied"], found["verified"]) == (3, 1, 4)
    assert contents(role) == contents(source)
    assert adoption(role) == []
    assert PASSWORD not in str(found)
    again = copied(run, source, role)
    assert (again["copied"], again["there_already"]) == (0, 3)
