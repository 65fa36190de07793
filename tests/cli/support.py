"""Runs ``jupyter session-store`` as an operator does, and fills databases for it."""

from __future__ import annotations

import os
import pty
import subprocess
import sysconfig
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from datetime import datetime, timezone
from itertools import islice
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, Final
from urllib.parse import unquote, urlsplit

import pytest
from sqlalchemy import insert

from jupyter_session_store.authorities import SERVER_AUTHORITY
from jupyter_session_store.paths import claim_of
from jupyter_session_store.records import READY, Scope, SessionRecord
from jupyter_session_store.sql.engine import factory as engines
from jupyter_session_store.sql.engine.transactions import transaction
from jupyter_session_store.sql.models import Server, Session
from jupyter_session_store.sql.queries.rows import to_row
from jupyter_session_store.sql.schema import migrating

from ..databases import Database
from ..forking import USABLE, Process, forker
from ..migrations.support import release, surroundings

#: The command, as it is installed beside this Python.
COMMAND: Final = str(Path(sysconfig.get_path("scripts")) / "jupyter-session-store")
#: Seconds. Far above what anything here takes: who reaches them hangs.
PATIENCE: Final = 100.0


def environment(home: Path, url: str | None = None, **variables: str) -> dict[str, str]:
    """Return the environment of a run: no configuration but that of `home`.

    Parameters
    ----------
    home : Path
        Its folder ``config`` may hold a ``jupyter_server_config.py``.
    url : str, optional
        The configured database: ``JUPYTER_SESSION_STORE_URL``.
    **variables : str
        More of them.
    """
    configured = {} if url is None else {"JUPYTER_SESSION_STORE_URL": url}
    return {**surroundings(home, **variables), **configured}


def session_store(
    *words: str,
    home: Path,
    url: str | None = None,
    answer: str = "",
    prefix: Iterable[str] = (),
    **variables: str,
) -> subprocess.CompletedProcess[str]:
    """Run the command to its end.

    Parameters
    ----------
    *words : str
        The subcommand and its arguments.
    home : Path
        As :func:`environment` has it; also the working directory.
    url : str, optional
        The configured database.
    answer : str, optional
        What stands in standard input, which is never a terminal here.
    prefix : iterable of str
        What runs the command.
    **variables : str
        Of the environment.

    Returns
    -------
    CompletedProcess
        With standard output and standard error as texts, apart.
    """
    surrounding = environment(home, url, **variables)
    if not prefix and _can_fork(variables):
        return _forked([COMMAND, *words], home, surrounding, answer)
    return subprocess.run(
        [*prefix, COMMAND, *words],
        cwd=home,
        env=surrounding,
        input=answer,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


def _can_fork(variables: Iterable[str]) -> bool:
    # What the interpreter reads when it starts; of the path, it can be told later.
    read = (name for name in variables if name.startswith("PYTHON") and name != "PYTHONPATH")
    return USABLE and not any(read)


def _forked(
    command: list[str], home: Path, surrounding: Mapping[str, str], answer: str
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end in a process that need not import it."""
    with TemporaryFile("w+") as stdin, TemporaryFile("w+") as stdout, TemporaryFile("w+") as stderr:
        stdin.write(answer)
        stdin.seek(0)
        process = forker().fork(
            command, cwd=home, env=surrounding, stdin=stdin, stdout=stdout, stderr=stderr
        )
        try:
            code = process.wait(PATIENCE)
        finally:
            process.kill()
        for stream in (stdout, stderr):
            stream.seek(0)
        return subprocess.CompletedProcess(command, code, stdout.read(), stderr.read())


@contextmanager
def started(
    words: Sequence[str],
    *,
    home: Path,
    surrounding: Mapping[str, str],
    stdin: int = subprocess.PIPE,
    stdout: int = subprocess.PIPE,
    stderr: int = subprocess.PIPE,
) -> Iterator[Process]:
    """Yield the command while it runs, and end it; its streams are as those of Popen."""
    command = [COMMAND, *words]
    process: Process
    if _can_fork(surrounding):
        process = forker().fork(
            command, cwd=home, env=surrounding, stdin=stdin, stdout=stdout, stderr=stderr
        )
    else:
        process = subprocess.Popen(
            command,
            cwd=home,
            env=surrounding,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            text=True,
        )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def running(
    *words: str, home: Path, url: str | None = None, **variables: str
) -> AbstractContextManager[Process]:
    """Yield the command while it runs, its three streams being pipes; end it."""
    return started(words, home=home, surrounding=environment(home, url, **variables))


def on_terminal(
    *words: str, home: Path, url: str, columns: int = 80, **variables: str
) -> tuple[int, str]:
    """Run the command on a terminal, to its end.

    Parameters
    ----------
    *words, home, url, **variables
        As :func:`session_store` has them.
    columns : int
        The terminal's width.

    Returns
    -------
    tuple of int and str
        The exit code, and what is shown.
    """
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        [COMMAND, *words],
        cwd=home,
        env=environment(home, url, COLUMNS=str(columns), TERM="xterm", **variables),
        stdin=follower,
        stdout=follower,
        stderr=follower,
    )
    os.close(follower)
    shown = b""
    try:
        # Linux says by an error that nobody else has the terminal open any more, others by an end.
        with suppress(OSError):
            while block := os.read(leader, 65536):
                shown += block
        code = process.wait(PATIENCE)
    finally:
        process.kill()
        process.wait()
        os.close(leader)
    return code, shown.decode().replace("\r\n", "\n")


#: Of a configuration. Who finds nobody else behind a pooler takes it for one of sessions, after
#: this long.
LOOK_LONG: Final = (
    "from jupyter_session_store.sql.engine import postgresql",
    "postgresql._LOOK_SECONDS = 60.0",
)


def configure(home: Path, *lines: str) -> None:
    """Write Jupyter Server's configuration file."""
    folder = home / "config"
    folder.mkdir(exist_ok=True)
    (folder / "jupyter_server_config.py").write_text("\n".join(("c = get_config()", *lines)))


def upgraded(url: str) -> None:
    """Bring a database to the newest revision."""
    engine = engines.create(url, statement_timeout=False)
    try:
        migrating.upgrade(engine)
    finally:
        engine.dispose()


def upgraded_by_later_release(url: str, folder: Path, floor: int) -> None:
    """Bring a database to a revision of a release to come; see :func:`.release`."""
    later = release(folder, floor)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(migrating, "migrations_folder", lambda: later)
        upgraded(url)


def session(namespace: str, number: int, **changes: object) -> SessionRecord:
    """Return a session; each number has an id, a path and a kernel of its own."""
    authority = f"{SERVER_AUTHORITY}server-1"
    path = f"folder/{number}.ipynb"
    now = datetime.now(timezone.utc)
    whole = SessionRecord(
        namespace=namespace,
        authority=authority,
        session_id=f"session-{number:06}",
        path=path,
        name="",
        type="notebook",
        kernel_id=f"kernel-{number}",
        kernel_name="python3",
        kernel_model=f'{{"id": "kernel-{number}"}}',
        server_id="server-1",
        state=READY,
        claim=claim_of(Scope(namespace, authority), path),
        created_at=now,
        updated_at=now,
    )
    return whole.replace(**changes)


def server(namespace: str, server_id: str = "server-1", **changes: object) -> dict[str, Any]:
    """Return the row of a server that nobody runs."""
    return {
        "namespace": namespace,
        "server_id": server_id,
        "hostname": "host",
        "pid": 1,
        "version": "0",
        "started_at": datetime.now(timezone.utc),
        "renewals": 5,
        "lease_seconds": 90,
        **changes,
    }


def fill(
    url: str,
    sessions: Iterable[SessionRecord] = (),
    servers: Iterable[Mapping[str, Any]] = (),
) -> None:
    """Bring a database to the newest revision, and put rows into it as they are."""
    upgraded(url)
    engine = engines.create(url, statement_timeout=False)
    remaining = map(to_row, sessions)
    registered = list(servers)
    try:
        with engine.connect() as connection, transaction(connection):
            while batch := list(islice(remaining, 1000)):
                connection.execute(insert(Session), batch)
            if registered:
                connection.execute(insert(Server), registered)
    finally:
        engine.dispose()


def secret(database: Database) -> str | None:
    """Return the password of a database as it stands in its URL; SQLite has none."""
    return urlsplit(database.url).password


def shows_password(database: Database, *outputs: str) -> bool:
    """Return whether a text shows the password, encoded or not."""
    password = secret(database)
    return password is not None and any(
        word in output for word in (password, unquote(password)) for output in outputs
    )
