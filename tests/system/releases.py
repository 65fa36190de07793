"""Other releases of the package, each a folder that wins over the one that is installed."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from zipfile import ZipFile

from jupyter_session_store.sql.schema.versions import HEAD

from ..databases import Database
from ..migrations.support import AFTER, LATER, ROOT, run_python

#: The revisions of the releases to come.
EXPANDING, CONTRACTING = LATER, AFTER
FIRST_WHEEL: Final = "jupyter_session_store-0.1.0.dev0-py3-none-any.whl"

_EXPANDING: Final = '''"""Make room for the last model of a kernel under another name."""
import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

revision = "{revision}"
down_revision = "{previous}"

KIND = "expanding"
OLDEST_COMPATIBLE_CODE = "1"
DOWNGRADE_LOSES = "the last known models of kernels"


def upgrade():
    long_text = mysql.MEDIUMTEXT(charset="utf8mb4")
    model = sa.Text().with_variant(long_text, "mysql", "mariadb")
    op.add_column("jupyter_sessions", sa.Column("last_model", model))
'''
_CONTRACTING: Final = '''"""Take away the column that was renamed."""
from alembic import op

revision = "{revision}"
down_revision = "{previous}"

KIND = "contracting"
OLDEST_COMPATIBLE_CODE = "2"
DOWNGRADE_LOSES = None


def upgrade():
    op.execute(
        "UPDATE jupyter_session_store_meta SET value = '2' WHERE name = 'oldest_compatible_code'"
    )
    with op.batch_alter_table("jupyter_sessions") as batch:
        batch.drop_column("kernel_model")
'''
_REVISIONS: Final = {
    EXPANDING: _EXPANDING.format(revision=EXPANDING, previous=HEAD),
    CONTRACTING: _CONTRACTING.format(revision=CONTRACTING, previous=EXPANDING),
}
#: What the next generation of the code has under another name.
_COLUMN: Final = 'Column(\n        "kernel_model",'
_RENAMED: Final = 'Column(\n        "last_model", key="kernel_model", type_='


@dataclass(frozen=True)
class Release:
    """A release, whichever is installed.

    Parameters
    ----------
    folder : Path
        Where its package is.
    """

    folder: Path

    @property
    def environment(self) -> dict[str, str]:
        """What makes a process run it."""
        return {"PYTHONPATH": str(self.folder)}

    def upgrade(self, database: Database, home: Path) -> None:
        """Upgrade a database to its newest revision, as an operator does."""
        done = run_python(
            "-c",
            "from jupyter_session_store.cli.app import main; main()",
            "upgrade",
            home=home,
            cwd=home,
            JUPYTER_SESSION_STORE_URL=database.url,
            **self.environment,
        )
        assert done.returncode == 0, done.stdout

    def check(self, home: Path) -> None:
        """Check that it is its own package that a process runs."""
        code = "import jupyter_session_store as package; print(package.__file__)"
        done = run_python("-c", code, home=home, cwd=home, **self.environment)
        assert done.stdout.strip() == str(self.folder / "jupyter_session_store" / "__init__.py")


def first(folder: Path) -> Release:
    """Unpack the first wheel, which is kept as its users ran it."""
    with ZipFile(ROOT / "tests" / "data" / "wheels" / FIRST_WHEEL) as wheel:
        wheel.extractall(folder)
    return _made(folder)


def current() -> Release:
    """Return the release of this checkout, for a process that would find another installed."""
    return Release(ROOT)


def later(folder: Path, head: str) -> Release:
    """Make a release to come, of the next generation, from the code of this checkout.

    Parameters
    ----------
    folder : Path
        Made here.
    head : str
        Its newest revision: :data:`EXPANDING`, which expands the schema, or :data:`CONTRACTING`,
        which takes away what this checkout's code needs, and that one no longer.
    """
    no_bytecode = shutil.ignore_patterns("__pycache__")
    for name in ("jupyter_session_store", "migrations"):
        shutil.copytree(ROOT / name, folder / name, ignore=no_bytecode)
    shutil.copy(ROOT / "alembic.ini", folder)
    for revision, text in _REVISIONS.items():
        if revision <= head:
            (folder / "migrations" / "versions" / f"{revision}_later.py").write_text(text)
    sql = folder / "jupyter_session_store" / "sql"
    _edit(sql / "schema" / "versions.py", rf'^HEAD: Final = "{HEAD}"$', f'HEAD: Final = "{head}"')
    _edit(sql / "schema" / "versions.py", r"^CODE: Final = 1$", "CODE: Final = 2")
    _edit(sql / "tables.py", re.escape(_COLUMN), _RENAMED)
    return _made(folder)


def _edit(file: Path, old: str, new: str) -> None:
    text, count = re.subn(old, new, file.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert count == 1, f"{file} no longer has {old}"
    file.write_text(text, encoding="utf-8")


def _made(folder: Path) -> Release:
    # As tests.system.process does for the installed one: it makes a server's start long.
    (folder / "rfc3987_syntax.py").write_text("raise ImportError(__name__)\n")
    return Release(folder)
