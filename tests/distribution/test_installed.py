"""The installed package, outside its checkout: it serves sessions, and upgrades a database."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from jupyter_session_store import __version__
from jupyter_session_store.sql.schema import versions

from ..databases import Database
from ..system.server import JupyterServer
from .building import ROOT, Environment

pytestmark = [pytest.mark.timeout(900), pytest.mark.extended("installed wheels")]

MIGRATIONS: Final = (
    "__import__('jupyter_session_store.sql.schema.migrating').sql.schema.migrating"
    ".migrations_folder()"
)


def is_from_wheel(installed: Environment) -> bool:
    return installed.folder.parent.name == "wheel"


def test_the_environment_is_one_of_its_own(installed: Environment, tmp_path: Path) -> None:
    settings = (installed.folder / "pyvenv.cfg").read_text().lower()
    assert "include-system-site-packages = false" in settings
    home = Path(installed.answer("package.__file__", cwd=tmp_path)).parent
    if is_from_wheel(installed):
        assert installed.folder in home.parents
        assert ROOT not in home.parents
    else:
        assert home == ROOT / "jupyter_session_store"
    assert installed.answer("package.__version__", cwd=tmp_path) == __version__


def test_it_upgrades_a_database(installed: Environment, database: Database, tmp_path: Path) -> None:
    ini = Path(installed.answer(MIGRATIONS, cwd=tmp_path)).parent / "alembic.ini"
    if is_from_wheel(installed):
        # As the documentation names it.
        assert ini == Path(installed.answer("package.__path__[0]", cwd=tmp_path)) / "alembic.ini"

    def alembic(*words: str, code: int = 0) -> str:
        given = ["-m", "alembic", "-x", "url=env:DATABASE", *words]
        variables = {"DATABASE": database.url, "ALEMBIC_CONFIG": str(ini)}
        done = installed.run(*given, cwd=tmp_path, **variables)
        assert done.returncode == code, done.stdout
        return done.stdout

    assert "Running upgrade  -> 0001" in alembic("upgrade", "head")
    version = "SELECT version_num FROM jupyter_session_store_version"
    assert database.rows(version) == [(versions.HEAD,)]
    assert database.rows("SELECT COUNT(*) FROM jupyter_sessions") == [(0,)]
    assert f"{versions.HEAD} (head)" in alembic("current")
    if is_from_wheel(installed):
        refused = alembic("revision", "--autogenerate", "-m", "stray", code=255)
        assert "In a checkout" in refused
        assert "stray" not in alembic("history")


@pytest.mark.system
def test_it_serves_sessions(
    installed: Environment, serve: Callable[..., JupyterServer], tmp_path: Path
) -> None:
    file = tmp_path / "sessions.db"
    server = serve(installed, f"c.SessionManager.database_filepath = {str(file)!r}")
    server.start()
    session = server.create("a.ipynb")
    [kernel] = server.kernels()
    assert session["kernel"]["id"] == kernel
    assert [one["id"] for one in server.sessions()] == [session["id"]]
    assert server.execute(kernel, "import sys; print(sys.prefix)").strip() == str(installed.folder)
    stored = Database("sqlite", f"sqlite:///{file}")
    kept = "SELECT session_id, path, kernel_id FROM jupyter_sessions"
    assert stored.rows(kept) == [(session["id"], "a.ipynb", kernel)]
    # Enabled by nothing but the installed file.
    status = server.model(server.api.get("/api/session-store/status"), 200)
    assert status["backend"] == f"sqlite {file}"
    assert server.api.get("/api/session-store/health").json() == {"status": "well"}
    metrics = server.api.get("/metrics").text
    assert re.search(r'^jupyter_session_store_sessions\{scope="\w+"\} 1\.0$', metrics, re.MULTILINE)
    assert server.delete(session["id"]).status_code == 204
    assert stored.rows(kept) == []
    server.stop()
    assert server.own_frames() == []
