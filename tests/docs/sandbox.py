"""Where the commands of a page are run: a home, a port and databases of its own."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

import psutil

from ..databases import Database
from ..databases.local import find_program
from ..system.outliving import processes_with

#: Seconds. Far above what any page takes.
PATIENCE: Final = 300

#: What the pages call their database.
_URL: Final = re.compile(
    r"\b(?P<scheme>postgres(?:ql)?(?:\+psycopg)?|mysql|mariadb)://\w+(?::[^@\s']*)?"
    r"@db\.example\.org(?::\d+)?/jupyter\b"
)
_PORT: Final = re.compile(r"\b8888\b")
#: What is an administrator's.
_FOLDERS: Final = re.compile(r"(?<![\w./-])/(?:etc|home|run|scratch|srv|var)/(?=[\w.-]+)")
_SERVER_PROGRAMS: Final = {"postgresql": ("initdb",), "mysql": ("mariadbd", "mysqld")}

_ADMINISTRATOR: Final = {
    # In the page's database, as soon as there is one.
    "postgresql": """#!/bin/sh
sql="SELECT datname FROM pg_database WHERE datname IN ('jupyter', 'postgres') ORDER BY 1 LIMIT 1"
exec psql -X --quiet --set=ON_ERROR_STOP=1 "$(psql -XAtc "$sql" postgres)"
""",
    "mysql": "#!/bin/sh\nexec mysql\n",
}


class Sandbox:
    """A place in which nothing of this machine's configuration counts.

    Parameters
    ----------
    folder : Path
        Empty; its home.
    port : int
        Where its servers listen, in place of 8888.
    databases : mapping of str to Database
        The databases that the page may use, by their kinds.
    default : str
        The kind of the one that is configured; ``sqlite`` is Jupyter's own default.
    """

    def __init__(
        self, folder: Path, port: int, databases: Mapping[str, Database], default: str
    ) -> None:
        self.folder = folder
        self._databases = databases
        self._port = port
        self._bin = folder / "bin"
        self._bin.mkdir()
        self._environment = self._clean_environment()
        self._write_files()
        for kind, database in databases.items():
            self._log_in(kind, database)
        if default != "sqlite":
            url = self._url(default)
            self._environment |= {"JUPYTER_SESSION_STORE_URL": url, "DATABASE_URL": url}
            self._write_program("administrator", _ADMINISTRATOR[default])
            self._write_urls(url)

    def localised(self, text: str) -> str:
        """Return a text of a page with what is here in place of what a reader has."""
        if self._databases:
            text = _URL.sub(lambda found: self._url(found["scheme"]), text)
            text = text.replace("db.example.org", "127.0.0.1")
        text = _FOLDERS.sub(lambda found: f"{self.folder}{found[0]}", text)
        return _PORT.sub(str(self._port), text)

    def run(self, script: str) -> tuple[int, str]:
        """Run a script of bash, end all that it leaves running, and return how it ended."""
        path = self.folder / "page.sh"
        path.write_text(self.localised(script))
        with open(self.folder / "printed", "w+") as printed:
            process = subprocess.Popen(
                ["bash", str(path)],
                cwd=self.folder,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=printed,
                stderr=printed,
                start_new_session=True,
            )
            try:
                code = process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                code = -signal.SIGALRM
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                # Kernels that outlive their server, by their connection files.
                for kernel in processes_with(f"{self.folder}/"):
                    with suppress(psutil.NoSuchProcess):
                        kernel.kill()
            printed.seek(0)
            return code, printed.read()

    def write(self, name: str, text: str) -> None:
        """Write an administrator's file."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def _write_program(self, name: str, text: str) -> None:
        path = self._bin / name
        path.write_text(text)
        path.chmod(0o755)

    def _clean_environment(self) -> dict[str, str]:
        path = [str(self._bin), str(Path(sys.executable).parent)]
        for kind, programs in _SERVER_PROGRAMS.items():
            if kind in self._databases:
                # The clients are beside them, where they are not in PATH.
                path.append(str(find_program(*programs).parent))
        return {
            "PATH": os.pathsep.join([*path, os.environ.get("PATH", os.defpath)]),
            "HOME": str(self.folder),
            "LC_ALL": "C.UTF-8",
            "JUPYTER_CONFIG_DIR": str(self.folder / ".jupyter"),
            "JUPYTER_PORT": str(self._port),
            "JUPYTER_TOKEN": "secret",
            "TOKEN": "secret",
            # What is installed satisfies a page's `pip install`; anything else fails.
            "PIP_NO_INDEX": "1",
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            "PYTHONUNBUFFERED": "1",
        }

    def _write_files(self) -> None:
        self.write(
            ".jupyter/jupyter_server_config.py",
            "c.ServerApp.open_browser = False\n"
            "c.ServerApp.port_retries = 0\n"
            f"c.ServerApp.allow_root = {os.geteuid() == 0}\n",
        )
        self._write_urls("postgresql://jupyter@db.example.org/jupyter")
        for name in ("home/ada", "scratch/ada", "var/lib/jupyter"):
            (self.folder / name).mkdir(parents=True)
        for name in ("cookie-secret", "db-password", "gateway-token", "jupyter-token"):
            self.write(f"run/secrets/{name}", "...\n")

    def _write_urls(self, url: str) -> None:
        # Two, for the servers' role and for the owner of the tables.
        for name in ("session-store-url", "session-store-owner-url"):
            self.write(f"etc/jupyterhub/{name}", f"{url}\n")

    def _log_in(self, kind: str, database: Database) -> None:
        """Have the clients of a database know their password."""
        parts = urlsplit(database.url)
        user, password = unquote(parts.username or ""), unquote(parts.password or "")
        if kind == "postgresql":
            known = (part.replace("\\", "\\\\").replace(":", "\\:") for part in (user, password))
            self.write(".pgpass", f"*:*:*:{':'.join(known)}\n*:*:*:*:...\n")
            (self.folder / ".pgpass").chmod(0o600)
            self._environment |= {
                "PGHOST": str(parts.hostname),
                "PGPORT": str(parts.port),
                "PGUSER": user,
                "PGPASSFILE": str(self.folder / ".pgpass"),
            }
        elif kind == "mysql":
            self.write(
                ".my.cnf",
                f"[client]\nhost={parts.hostname}\nport={parts.port}\nprotocol=tcp\nuser={user}\n"
                f'password="{password}"\n',
            )
            dump = shutil.which("mariadb-dump", path=self._environment["PATH"])
            if dump is not None and not shutil.which("mysqldump", path=self._environment["PATH"]):
                (self._bin / "mysqldump").symlink_to(dump)

    def _url(self, scheme: str) -> str:
        kind = "postgresql" if scheme.startswith("postgres") else "mysql"
        url = self._databases[kind].url
        if kind == "mysql":
            return url
        # Its password is in a file, as an operator's may be.
        parts = urlsplit(url)
        return parts._replace(netloc=f"{parts.username}@{parts.hostname}:{parts.port}").geturl()


def kinds_of(text: str) -> set[str]:
    """Return the kinds of the databases that a page names."""
    found = {match["scheme"] for match in _URL.finditer(text)}
    return {"postgresql" if scheme.startswith("postgres") else "mysql" for scheme in found}
