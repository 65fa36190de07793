"""The subcommands' part of the reference: the help of each, and what it shows.

Run as a program it writes both into the page, between two marks; a test compares them with
what the code says now. The database is a small one, made for it, under a made-up name.
"""

from __future__ import annotations

import io
import os
import re
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from datetime import datetime, timezone
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final
from unittest.mock import patch

from sqlalchemy import insert

from jupyter_session_store.authorities import GATEWAY_AUTHORITY, SERVER_AUTHORITY
from jupyter_session_store.cli import removal
from jupyter_session_store.cli.app import SessionStoreApp
from jupyter_session_store.cli.command import StoreCommand
from jupyter_session_store.cli.serve import Serve
from jupyter_session_store.records import READY, Liveness, ServerRecord
from jupyter_session_store.sql import doctor
from jupyter_session_store.sql.doctor import Finding, Verdict
from jupyter_session_store.sql.engine import factory
from jupyter_session_store.sql.engine.sqlite import SQLite
from jupyter_session_store.sql.models import Server, Session
from jupyter_session_store.sql.schema import migrating, wall

PAGE: Final = Path(__file__).parents[1] / "reference" / "commands.md"
_BEGIN: Final = "<!-- written by `make reference` -->\n"
_END: Final = "<!-- end -->\n"

#: What is the same in each help, and once on the page.
_COMMON: Final = re.compile(r"Options of every subcommand:\n((?:  .*\n)+)\n")
_DATABASE: Final = "postgresql jupyter@db:5432/jupyter"
_OTHER: Final = "sqlite /srv/jupyter/other.db"
_SESSIONS: Final = (
    "0c9b7b0e-5d0a-4e6e-8c54-0d8e6c2f3a55",
    "7c1d2f3a-90b4-4a39-9a8e-7be9c1a0d3f2",
    "b4e7a2c8-1f6d-4f0b-8d6a-5a9c0e3b7d14",
)
_SERVERS: Final = ("5f0e8d7c-6b5a-4938-a716-05f4e3d2c1b0", "9a8b7c6d-5e4f-4a3b-8c2d-1e0f9a8b7c6d")
#: What is typed after the names of the subcommands.
_WORDS: Final[Mapping[str, str]] = {
    "upgrade": "--dry-run",
    "downgrade": "0001 --dry-run",
    "show": _SESSIONS[0],
    "prune": "--dead-servers --dry-run",
    "purge": "--user ada --dry-run",
    "rename": "--user ada --new-user ada.l --dry-run",
    "copy": "--to other.db --dry-run",
    "remove": f"{_SESSIONS[0]} --dry-run",
    "import": "stock.db --namespace hub:ada/ --gateway https://gateway --dry-run",
}
_WALL: Final = wall.Wall(wall.Facts("public", "jupyter", grants_admin=False), exists=False)
_FINDINGS: Final = (
    Finding("database", Verdict.OK, f"{_DATABASE}."),
    Finding(
        "connection",
        Verdict.OK,
        "Connected to db:5432 (192.0.2.10) in 3.2 ms; a statement takes 0.4 ms.",
    ),
    Finding("TLS", Verdict.OK, "TLSv1.3, and the server's identity is checked."),
    Finding(
        "rights",
        Verdict.FAILED,
        "This role may not: DELETE on jupyter_sessions.",
        ("GRANT DELETE ON jupyter_sessions TO jupyter;",),
    ),
)


def written(page: str) -> str:
    """Return the page with what the code says now between its marks."""
    before, _, rest = page.partition(_BEGIN)
    _, _, after = rest.partition(_END)
    return f"{before}{_BEGIN}\n{_subcommands()}\n{_END}{after}"


def _subcommands() -> str:
    parts = []
    with _database():
        common = _COMMON.search(_run("list", "--help"))
        assert common is not None
        parts += ["## Options of every subcommand\n", _block(common[1])]
        for name in SessionStoreApp.subcommands:
            words = f"{name} {_WORDS.get(name, '')}".strip()
            shown = _COMMON.sub("", _run(name, "--help"))
            parts += [f"## {name}\n", _block(shown, f"{name} --help")]
            parts += ["On a terminal:\n", _block(_run(*words.split()), words)]
    return "\n".join(parts)


def _block(shown: str, words: str = "") -> str:
    typed = f"$ jupyter session-store {words}\n" if words else ""
    return f"```text\n{typed}{shown.rstrip()}\n```\n"


class _Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


def _run(*words: str) -> str:
    """Run the command in this process, and return what a terminal of 80 columns shows."""
    app = SessionStoreApp()
    shown = _Terminal()
    # Progress, and the line that counts down, are for who waits.
    told = io.StringIO()
    try:
        with redirect_stdout(shown), redirect_stderr(told):
            app.initialize([*words])
            app.start()
    except SystemExit:
        # What it ends with is in a table of the page.
        pass
    finally:
        if app.subapp is not None:
            type(app.subapp).clear_instance()
    return told.getvalue() + shown.getvalue()


async def _serve(command: Serve, _reader: object) -> None:
    command.say_where("http://127.0.0.1:8890/?token=TOKEN")


@contextmanager
def _database() -> Iterator[None]:
    """Make the database, and let all that is run find it, and nothing else."""

    def name(_command: StoreCommand, given: str | None = None) -> str:
        return _OTHER if given == "other.db" else _DATABASE

    surroundings = {
        "COLUMNS": "80",
        "JUPYTER_NO_CONFIG": "1",
        "JUPYTER_SESSION_STORE_URL": "sessions.db",
        "NO_COLOR": "1",
        "TERM": "xterm",
    }
    with ExitStack() as stack:
        folder = stack.enter_context(TemporaryDirectory())
        stack.callback(os.chdir, Path.cwd())
        os.chdir(folder)
        stack.enter_context(patch.dict(os.environ, {**surroundings, "JUPYTER_RUNTIME_DIR": folder}))
        stack.enter_context(patch.object(StoreCommand, "describe_database", name))
        stack.enter_context(patch.object(doctor, "examine", lambda _engine: iter(_FINDINGS)))
        stack.enter_context(patch.object(removal, "observe", _observe))
        # The file passes for a PostgreSQL, for the one command that shows the SQL of that alone.
        stack.enter_context(patch.object(SQLite, "no_wall", None))
        stack.enter_context(patch.object(wall, "look", lambda *_: _WALL))
        stack.enter_context(patch.object(wall, "exists", lambda *_: False))
        # It would go on until somebody ends it.
        stack.enter_context(patch.object(Serve, "_serve", _serve))
        _fill()
        yield


def _observe(_connection: Any, servers: Iterable[ServerRecord], *_: Any, **__: Any) -> Any:
    """Say, without waiting for their leases, that all servers are dead."""
    return {server.key: Liveness.GONE.value for server in servers}


def _fill() -> None:
    connection = sqlite3.connect("stock.db")
    connection.execute("CREATE TABLE session (session_id, path, name, type, kernel_id)")
    connection.execute("INSERT INTO session VALUES ('1', 'a.ipynb', '', 'notebook', 'k')")
    connection.commit()
    connection.close()
    engine = factory.create("sessions.db")
    try:
        migrating.upgrade(engine)
        with engine.connect() as connected:
            connected.execute(insert(Session), [*_sessions()])
            connected.execute(insert(Server), [*_servers()])
    finally:
        engine.dispose()


def _sessions() -> Iterator[dict[str, Any]]:
    owners = (
        ("hub:ada/", f"{SERVER_AUTHORITY}{_SERVERS[0]}", "analysis/results.ipynb"),
        ("hub:ada/", f"{SERVER_AUTHORITY}{_SERVERS[0]}", "notes.ipynb"),
        ("hub:bob/gpu", f"{GATEWAY_AUTHORITY}https://gateway", "Untitled.ipynb"),
    )
    for session_id, (namespace, authority, path) in zip(_SESSIONS, owners, strict=True):
        yield {
            "namespace": namespace,
            "session_id": session_id,
            "path": path,
            "name": path.rpartition("/")[2],
            "type": "notebook",
            "kernel_id": session_id[::-1].replace("-", "")[:32],
            "kernel_name": "python3",
            "authority": authority,
            "server_id": _SERVERS[0] if namespace == "hub:ada/" else _SERVERS[1],
            "state": READY,
            "created_at": _at(9),
            "updated_at": _at(10),
        }


def _servers() -> Iterator[dict[str, Any]]:
    for server_id, namespace in zip(_SERVERS, ("hub:ada/", "hub:bob/gpu"), strict=True):
        yield {
            "namespace": namespace,
            "server_id": server_id,
            "hostname": "node-3",
            "pid": 4711,
            "version": "1.0.0",
            "started_at": _at(8),
            "renewals": 120,
            "lease_seconds": 90,
        }


def _at(hour: int) -> datetime:
    return datetime(2026, 1, 2, hour, 30, tzinfo=timezone.utc)


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
