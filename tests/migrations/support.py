"""What the tests of the schema share."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, Final

from sqlalchemy import Engine

from jupyter_session_store.paths import claim_of
from jupyter_session_store.records import READY, Scope, SessionRecord
from jupyter_session_store.sql.engine import factory as engines
from jupyter_session_store.sql.repository import SQLAlchemySessionRepository
from jupyter_session_store.sql.schema import migrating, versions
from jupyter_session_store.sql.schema.versions import HEAD
from jupyter_session_store.sql.tables import METADATA
from jupyter_session_store.testing import server

from ..forking import USABLE, forker
from ..programs import run_to_end

ROOT: Final = Path(__file__).resolve().parents[2]
SCOPE: Final = Scope("dir:/home/alice", "server:1")
#: The tables of the model and Alembic's own.
TABLES: Final = frozenset({*METADATA.tables, versions.VERSION_TABLE})
#: The revision that a release to come adds first, and the one after it.
LATER: Final = f"{int(HEAD) + 1:04}"
AFTER: Final = f"{int(HEAD) + 2:04}"

_LATER = '''"""Add {column} to sessions."""
import sqlalchemy as sa
from alembic import op

revision = "{revision}"
down_revision = "{previous}"

KIND = "{kind}"
OLDEST_COMPATIBLE_CODE = "{floor}"
DOWNGRADE_LOSES = "every {column}"


def upgrade():
    set_floor("{floor}")
    op.add_column("jupyter_sessions", sa.Column("{column}", sa.String(20)))


def downgrade():
    with op.batch_alter_table("jupyter_sessions") as batch:
        batch.drop_column("{column}")
    set_floor("{previous_floor}")


def set_floor(value):
    op.execute(
        f"UPDATE jupyter_session_store_meta SET value = '{{value}}'"
        " WHERE name = 'oldest_compatible_code'"
    )
'''


@contextmanager
def engine_of(url: str) -> Iterator[Engine]:
    """Yield the engine that the store would use, and dispose of it."""
    engine = engines.create(url)
    try:
        yield engine
    finally:
        engine.dispose()


def status(engine: Engine) -> versions.Status:
    """Return what the store says of a database."""
    with engine.connect() as connection:
        return versions.status(connection)


def alembic(command: Callable[..., object], engine: Engine, *arguments: str) -> None:
    """Run a command of Alembic on an engine, in this process, as a server does."""
    config = migrating.alembic_config()
    with migrating.migration_connection(engine) as connection:
        config.attributes["connection"] = connection
        command(config, *arguments)


def release(folder: Path, *floors: int) -> Path:
    """Make the migrations of a later release, with some revisions more.

    Parameters
    ----------
    folder : Path
        Made here.
    *floors : int
        The oldest generation of the code that each of the revisions leaves room for.

    Returns
    -------
    Path
        For ``migrating.migrations_folder`` to return.
    """
    migrations = folder / "migrations"
    # Not copytree of the whole: bytecode of this Python's would come along.
    shutil.copytree(
        migrating.migrations_folder(), migrations, ignore=shutil.ignore_patterns("__pycache__")
    )
    shutil.copy(migrating.migrations_folder().parent / "alembic.ini", folder)
    previous, previous_floor = HEAD, 1
    for number, floor in enumerate(floors, start=int(LATER)):
        revision = f"{number:04}"
        column = "note" if revision == LATER else "second_note"
        text = _LATER.format(
            revision=revision,
            previous=previous,
            column=column,
            kind="expanding" if floor == previous_floor else "contracting",
            floor=floor,
            previous_floor=previous_floor,
        )
        (migrations / "versions" / f"{revision}_{column}.py").write_text(text)
        previous, previous_floor = revision, floor
    return migrations


def record(session_id: str, path: str | None = None, **changes: object) -> SessionRecord:
    """Return a session; by default its path is its own and claimed."""
    path = f"{session_id}.ipynb" if path is None else path
    now = datetime.now(timezone.utc)
    whole = SessionRecord(
        namespace=SCOPE.namespace,
        authority=SCOPE.authority,
        session_id=session_id,
        path=path,
        name="",
        type="notebook",
        kernel_id=f"kernel-of-{session_id}",
        kernel_name="python3",
        kernel_model=None,
        server_id="server",
        state=READY,
        claim=claim_of(SCOPE, path),
        created_at=now,
        updated_at=now,
    )
    return whole.replace(**changes)


@contextmanager
def opened(
    url: str,
    scope: Scope = SCOPE,
    *,
    server_id: str = "server",
    auto_upgrade: str = "safe",
    **options: Any,
) -> Iterator[SQLAlchemySessionRepository]:
    """Yield a repository that has been opened."""
    repository = SQLAlchemySessionRepository(
        url, options=options, auto_upgrade=auto_upgrade, log=logging.getLogger(__name__)
    )
    try:
        repository.open(scope, server(server_id, scope.namespace), timeout=30)
        yield repository
    finally:
        repository.close()


def surroundings(home: Path, **variables: str) -> dict[str, str]:
    """Return an environment in which no configuration but that of `home` is found."""
    modules = home / "modules"
    if not modules.exists():
        modules.mkdir()
        # An optional module that builds a parser of IRIs when it is imported, which takes
        # longer than everything else here.
        (modules / "rfc3987_syntax.py").write_text("raise ImportError(__name__)\n")
    return {
        "HOME": str(home),
        "JUPYTER_CONFIG_DIR": str(home / "config"),
        "JUPYTER_DATA_DIR": str(home / "data"),
        "JUPYTER_RUNTIME_DIR": str(home / "runtime"),
        "PATH": os.environ.get("PATH", os.defpath),
        "PYTHONPATH": str(modules),
        **variables,
    }


def run_python(
    *arguments: str, home: Path, cwd: Path = ROOT, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run this Python as a process of its own; standard output and errors come as one.

    It may be one that was forked, and has imported the package already.
    """
    if USABLE and not any(one.startswith("PYTHON") for one in variables):
        return _forked(arguments, cwd, surroundings(home, **variables))
    return run_new_python(*arguments, home=home, cwd=cwd, **variables)


def run_new_python(
    *arguments: str, home: Path, cwd: Path = ROOT, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Do as :func:`run_python` with a process that has imported nothing."""
    surrounding = surroundings(home, **variables)
    return run_to_end([sys.executable, *arguments], cwd=cwd, env=surrounding, timeout=100)


def _forked(
    arguments: tuple[str, ...], cwd: Path, surrounding: Mapping[str, str]
) -> subprocess.CompletedProcess[str]:
    """Run a module or code to its end in a process that need not import it."""
    with TemporaryFile("w+") as output:
        process = forker().fork(arguments, cwd=cwd, env=surrounding, stdout=output, stderr=output)
        try:
            code = process.wait(100)
        finally:
            process.kill()
        output.seek(0)
        return subprocess.CompletedProcess(arguments, code, output.read())


def without_privileges() -> list[str]:
    """Return what takes root's right to write anywhere away; others do not have it."""
    if os.geteuid() != 0:
        return []
    setpriv = shutil.which("setpriv")
    assert setpriv is not None, "as root this test needs setpriv (util-linux)"
    return [setpriv, "--bounding-set=-dac_override,-dac_read_search", "--"]
