"""See to it that the tests find their database servers, and the other programs they need.

The tests take an explicit URL of PostgreSQL and of MySQL or MariaDB, else the
server's binaries, else Docker. Where a database has none of the three, and this
is root on a Debian-like system, its package is installed here, without starting
its service; so are, where they are not there, libfaketime, which moves the
clocks of servers, HAProxy, which stands before replicas, PgBouncer, which
stands before PostgreSQL, Patroni with etcd, which have a standby of PostgreSQL
take over, Galera with rsync, which make one cluster of several MariaDBs,
Chromium, in which JupyterLab runs, and Node with npm, which run and install
JupyterHub's proxy. Elsewhere nothing is done: the tests themselves say what is
missing.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

POLICY = Path("/usr/sbin/policy-rc.d")


@dataclass(frozen=True)
class Server:
    """A database server: how the tests find one, and Debian's package of it."""

    variable: str
    binaries: tuple[str, ...]
    folders: tuple[str, ...]
    package: str

    def found(self) -> bool:
        """Whether a URL or the binaries are there."""
        folders = [str(match) for pattern in self.folders for match in Path("/").glob(pattern)]
        path = os.pathsep.join([os.environ.get("PATH", os.defpath), *folders])
        return self.variable in os.environ or any(shutil.which(b, path=path) for b in self.binaries)


SERVERS = (
    Server("JSS_TEST_POSTGRESQL_URL", ("initdb",), ("usr/lib/postgresql/*/bin",), "postgresql"),
    Server("JSS_TEST_MYSQL_URL", ("mariadbd", "mysqld"), ("usr/sbin",), "mariadb-server"),
)

#: Debian's package of the library, and where tests/system/test_clocks.py looks for it.
FAKETIME = "faketime"
FAKETIME_FOLDERS = ("usr/lib/*", "usr/lib64", "usr/lib", "usr/local/lib", "usr/local/lib/*")


def faketime_found() -> bool:
    """Whether the library that moves the clock of a process is there."""
    return any(
        any(Path("/").glob(f"{folder}/faketime/libfaketimeMT.so.1")) for folder in FAKETIME_FOLDERS
    )


#: Debian's package of the library, and where tests/databases/galera.py looks for it.
GALERA = "galera-4"
GALERA_FOLDERS = ("usr/lib/galera", "usr/lib64/galera*", "usr/lib/*/galera", "usr/local/lib/*")


def galera_found() -> bool:
    """Whether the library that makes a node of a MariaDB is there."""
    return any(any(Path("/").glob(f"{one}/libgalera_smm.so")) for one in GALERA_FOLDERS)


#: Programs, where they may be, and Debian's packages of them.
PROGRAMS = {
    "haproxy": "haproxy",
    "pgbouncer": "pgbouncer",
    "patroni": "patroni",
    "etcd": "etcd-server",
    "rsync": "rsync",
    "chromium": "chromium",
    "node": "nodejs",
    "npm": "npm",
}
SBIN = ("/usr/sbin", "/usr/local/sbin")


def missing_programs() -> list[str]:
    """Return the packages of the programs that are not there."""
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), *SBIN])
    return [package for name, package in PROGRAMS.items() if shutil.which(name, path=path) is None]


def docker_answers() -> bool:
    """Whether a Docker engine, not only its client, is there."""
    if shutil.which("docker") is None:
        return False
    try:
        asked = subprocess.run(["docker", "info"], capture_output=True, timeout=20, check=False)
        return asked.returncode == 0
    except subprocess.TimeoutExpired:
        return False


def install(packages: Sequence[str]) -> None:
    """Install Debian packages without starting the services that they bring."""
    print(f"Installing with apt-get, as root: {', '.join(packages)}.", flush=True)
    # Debian's own switch: invoke-rc.d asks this file, and 101 forbids the start.
    forbid = not POLICY.exists()
    if forbid:
        POLICY.write_text("#!/bin/sh\nexit 101\n")
        POLICY.chmod(0o755)
    environ = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    try:
        for command in (
            ["apt-get", "update", "-qq"],
            ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *packages],
        ):
            subprocess.run(command, env=environ, stdin=subprocess.DEVNULL, check=True)
    finally:
        if forbid:
            POLICY.unlink()


def main() -> None:
    """Install what is missing, where that is possible."""
    missing = [server.package for server in SERVERS if not server.found()]
    if missing and docker_answers():
        missing = []
    if not faketime_found():
        missing.append(FAKETIME)
    if not galera_found():
        missing.append(GALERA)
    missing += missing_programs()
    if missing and os.geteuid() == 0 and shutil.which("apt-get"):
        install(missing)


if __name__ == "__main__":
    main()
