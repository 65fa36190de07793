"""A database that is brought back from a backup while servers work with it."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from subprocess import PIPE
from typing import Any, Final
from urllib.parse import urlsplit

import pytest

from ..databases import Database, parameters
from ..databases.local import LocalInstance, find_program
from ..databases.mysql import LocalMySQL
from ..databases.postgresql import LocalPostgreSQL
from .cluster import KERNEL_MANAGER, LEASE
from .gateway import Gateway
from .losing import LosingDatabase
from .parity import LIGHT_KERNEL, add_light_kernel, light_config, light_gateway
from .rows import rows_of
from .server import JupyterServer
from .waiting import until
from .working import Worker, is_back, settle, working

pytestmark = [
    pytest.mark.system,
    pytest.mark.extended("databases that are restored under their servers"),
    pytest.mark.timeout(600),
]

NewServer = Callable[..., JupyterServer]


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    with light_gateway() as gateway:
        yield gateway


def local_config(url: str) -> str:
    return light_config(
        f"c.SessionManager.database_filepath = {url!r}\n"
        f"c.PersistentSessionManager.lease_seconds = {4 * LEASE}\n"
    )


def shared_config(url: str, gateway: Gateway) -> str:
    return (
        f"{local_config(url)}{gateway.client_config}{KERNEL_MANAGER}"
        f"c.MultiKernelManager.default_kernel_name = {LIGHT_KERNEL!r}\n"
    )


class Backup(ABC):
    """A backup of the database that servers go on to use while it is restored.

    Parameters
    ----------
    database : Database
    folder : Path
        For the backup.
    """

    def __init__(self, database: Database, folder: Path) -> None:
        self.database = database
        self.folder = folder

    @abstractmethod
    def take(self) -> None:
        """Make it."""

    @abstractmethod
    def restore(self) -> None:
        """Bring back what the database was when the backup was made."""

    def run(self, *command: str | Path, **how: Any) -> None:
        how.setdefault("stdout", subprocess.PIPE)
        words = [str(word) for word in command]
        while True:
            done = subprocess.run(words, stderr=subprocess.PIPE, check=False, **how)
            # As the page says: servers renew meanwhile.
            if b"deadlock detected" not in done.stderr:
                break
        assert done.returncode == 0, done.stderr.decode()


class PostgreSQLDump(Backup):
    """As docs/how-to/backup.md has it."""

    def take(self) -> None:
        self.run(
            find_program("pg_dump"),
            "--format=custom",
            "--table=jupyter_se*",
            "--exclude-table-data=jupyter_servers",
            f"--file={self.folder / 'dump'}",
            self.database.url,
        )

    def restore(self) -> None:
        self.run(
            find_program("pg_restore"),
            *("--clean", "--if-exists", "--single-transaction"),
            f"--dbname={self.database.url}",
            self.folder / "dump",
        )


class MySQLDump(Backup):
    """As docs/how-to/backup.md has it."""

    def take(self) -> None:
        tables = [
            f"jupyter_{name}"
            for name in ("sessions", "session_store_meta", "session_store_version")
        ]
        program = find_program("mariadb-dump", "mysqldump")
        common = [*self._login(), "--no-tablespaces"]
        with open(self.folder / "dump", "wb") as dump:
            for more in (
                ["--single-transaction", "--insert-ignore", self._name, *tables],
                ["--no-data", self._name, "jupyter_servers"],
            ):
                self.run(program, *common, *more, stdout=dump)

    def restore(self) -> None:
        program = find_program("mariadb", "mysql")
        command = [str(program), *self._login(), "--unbuffered", self._name]
        tables, rows = self._halves()
        with subprocess.Popen(command, stdin=PIPE, stdout=PIPE, stderr=PIPE) as client:
            assert client.stdin is not None
            assert client.stdout is not None
            client.stdin.write(tables + b"SELECT 'made';\n")
            client.stdin.flush()
            client.stdout.readline()
            # The sessions' table is new, and a server writes to it before the dump does.
            until(lambda: rows_of(self.database), why="a server puts its sessions back")
            _, said = client.communicate(rows)
        assert client.returncode == 0, said.decode()

    def _halves(self) -> tuple[bytes, bytes]:
        """Return the dump until the sessions' table is there, and the rest of it."""
        dump = (self.folder / "dump").read_bytes()
        before, lock, after = dump.partition(b"LOCK TABLES `jupyter_sessions` WRITE;")
        assert lock
        return before, lock + after

    @property
    def _name(self) -> str:
        return str(parameters(self.database.url)["database"])

    def _login(self) -> list[str]:
        file = self.folder / "login.cnf"
        named = parameters(self.database.url)
        words = {name: named[name] for name in ("host", "port", "user", "password")}
        lines = [f'{name}="{value}"' for name, value in words.items()]
        file.touch(mode=0o600)
        file.write_text("\n".join(["[client]", "protocol=tcp", *lines]))
        return [f"--defaults-extra-file={file}"]


class SQLiteDump(Backup):
    """SQLite's own backup, which takes and gives everything at one moment."""

    def take(self) -> None:
        self._copy(self._file, self.folder / "dump")

    def restore(self) -> None:
        self._copy(self.folder / "dump", self._file)

    @property
    def _file(self) -> Path:
        return Path(urlsplit(self.database.url).path[1:])

    @staticmethod
    def _copy(source: Path, target: Path) -> None:
        with closing(sqlite3.connect(source)) as one, closing(sqlite3.connect(target)) as other:
            one.backup(other)


class SQLiteFile(SQLiteDump):
    """A file that takes the place of the one that the servers have open."""

    def restore(self) -> None:
        for end in ("-wal", "-shm"):
            self._file.with_name(f"{self._file.name}{end}").unlink(missing_ok=True)
        copy = self._file.with_name("copy")
        shutil.copy(self.folder / "dump", copy)
        copy.replace(self._file)


class Snapshot(Backup):
    """The data directory of a database server, registrations and all."""

    def __init__(self, database: Database, folder: Path, instance: LocalInstance) -> None:
        super().__init__(database, folder)
        self._instance = instance

    def take(self) -> None:
        self._instance.stop()
        self.run("cp", "-Rp", self._instance.data, self.folder / "snapshot")
        self._instance.start()

    def restore(self) -> None:
        self._instance.stop()
        shutil.rmtree(self._instance.data)
        self.run("cp", "-Rp", self.folder / "snapshot", self._instance.data)
        self._instance.start()


_DUMPS: Final[dict[str, Callable[[Database, Path], Backup]]] = {
    "sqlite": SQLiteDump,
    "postgresql": PostgreSQLDump,
    "mysql": MySQLDump,
}
_INSTANCES: Final = {"postgresql": LocalPostgreSQL, "mysql": LocalMySQL}


@pytest.fixture(params=["dump", "snapshot"])
def backup(request: pytest.FixtureRequest, kind: str, tmp_path: Path) -> Iterator[Backup]:
    folder = tmp_path / "backup"
    folder.mkdir()
    if kind == "sqlite":
        database = Database(kind, f"sqlite:///{tmp_path}/sessions.db")
        yield (SQLiteDump if request.param == "dump" else SQLiteFile)(database, folder)
        return
    instance = _INSTANCES[kind]()
    database = instance.create_database()
    if request.param == "dump":
        yield _DUMPS[kind](database, folder)
    else:
        yield Snapshot(database, folder, instance)
    instance.close()


def test_a_backup_is_restored_under_load(
    backup: Backup, gateway: Gateway, new_server: NewServer, tmp_path: Path
) -> None:
    root = tmp_path / "root"
    root.mkdir()
    url, workers = backup.database.url, dict[str, list[Worker]]()
    for authority, config in {
        "server": local_config(url),
        "gateway": shared_config(url, gateway),
    }.items():
        workers[authority] = []
        for place in range(2):
            server = new_server(config, root=root)
            add_light_kernel(server, LIGHT_KERNEL)
            server.start()
            name = f"{authority}-{place}"
            server.create(f"first-{name}.ipynb")
            refused = authority == "gateway"
            workers[authority].append(Worker(server, name, place, refused))
    everybody = [one for some in workers.values() for one in some]
    with working(everybody):
        time.sleep(2)
        backup.take()
        for worker in everybody:
            until(lambda worker=worker: is_back(worker.server), why="it is there")  # type: ignore[misc]
        time.sleep(2)
        backup.restore()
        for worker in everybody:
            until(lambda worker=worker: is_back(worker.server), why="it is back")  # type: ignore[misc]
        time.sleep(1)
    settle(workers, gateway, backup.database)
    for worker in everybody:
        print(
            f"{sum(worker.answers.values())} requests, {worker.name}: {worker.acknowledged} changes"
            f" acknowledged, 0 missing, 0 doubled, {worker.refused} answers 503, longest gap "
            f"{worker.gap():.1f} s"
        )
        assert "Evicted" not in worker.server.log
        assert worker.server.own_frames() == []
        assert worker.server.uncaught() == []


def test_what_comes_back_of_sessions_on_a_gateway(
    losing: LosingDatabase, gateway: Gateway, new_server: NewServer, tmp_path: Path
) -> None:
    config = shared_config(losing.url, gateway)
    seer, maker, gone = (new_server(config, root=tmp_path) for _ in range(3))
    for server in (seer, maker, gone):
        server.start()
    names = ("kept", "renamed", "moved", "closed")
    made = {name: maker.create(f"{name}.ipynb")["id"] for name in names}
    assert {one["id"] for one in seer.sessions()} == set(made.values())
    with losing.restored():
        seer.model(seer.patch(made["renamed"], path="a new name.ipynb"), 200)
        moved = maker.model(maker.patch(made["moved"], kernel={"name": LIGHT_KERNEL}), 200)
        assert maker.delete(made["closed"]).status_code == 204
        later = maker.create("later.ipynb")
        unseen = gone.create("unseen.ipynb")
        gone.stop()
    expected = {
        made["kept"]: "kept.ipynb",
        made["renamed"]: "a new name.ipynb",
        made["moved"]: "moved.ipynb",
        later["id"]: "later.ipynb",
    }

    def listed(server: JupyterServer) -> dict[str, str]:
        return {one["id"]: one["path"] for one in server.sessions()}

    # Each knows what it has done itself, and has seen; what one has put back the other sees.
    for server in (seer, maker, seer):
        found = listed(server)
    assert found == listed(maker) == expected
    kernels = {one["id"]: one["kernel"]["id"] for one in maker.sessions()}
    assert kernels[made["moved"]] == moved["kernel"]["id"]
    assert {row.session_id: row.path for row in rows_of(losing.database)} == expected
    # What no server that still runs had seen: its kernel runs on, and a client that opens the
    # notebook again gets another.
    assert sorted(gateway.kernels()) == sorted([*kernels.values(), unseen["kernel"]["id"]])
    assert maker.create("unseen.ipynb")["id"] != unseen["id"]
