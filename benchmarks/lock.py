"""Hold the lock of a database for some seconds, from a process of its own.

Reads one line from its input, ``<database> <table> <seconds> <URL>``: the URL
may hold a password, which argv would show. Says "locked", then "released".
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final

from sqlalchemy import create_engine
from sqlalchemy.pool import NullPool

if TYPE_CHECKING:
    from .databases import Place

_LOCK: Final = {
    "sqlite": ("BEGIN EXCLUSIVE", "ROLLBACK"),
    "postgresql": ("BEGIN; LOCK TABLE {} IN ACCESS EXCLUSIVE MODE", "ROLLBACK"),
    "mysql": ("LOCK TABLES {} WRITE", "UNLOCK TABLES"),
}


def hold(database: str, table: str, seconds: float, url: str) -> None:
    """Hold the lock."""
    take, release = _LOCK[database]
    engine = create_engine(url, poolclass=NullPool, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.exec_driver_sql(take.format(table))
        print("locked", flush=True)
        time.sleep(seconds)
        connection.exec_driver_sql(release)
        print("released", flush=True)


def lock(place: Place, table: str, seconds: float) -> subprocess.Popen[str]:
    """Start a process that holds the lock, and return once it does."""
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.lock"],
        cwd=Path(__file__).resolve().parent.parent,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    into, out = _pipes(process)
    into.write(f"{place.database} {table} {seconds} {place.url}\n")
    into.close()
    if out.readline().strip() != "locked":
        process.wait()
        raise RuntimeError(f"The lock of {table} was not to be had.")
    return process


def _pipes(process: subprocess.Popen[str]) -> tuple[IO[str], IO[str]]:
    assert process.stdin is not None
    assert process.stdout is not None
    return process.stdin, process.stdout


if __name__ == "__main__":
    name, locked_table, duration, where = sys.stdin.readline().split(None, 3)
    hold(name, locked_table, float(duration), where.strip())
