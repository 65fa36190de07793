"""On what the figures were measured."""

from __future__ import annotations

import os
import platform
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

import psutil

_PACKAGES: Final = (
    "jupyter_session_store",
    "jupyter_server",
    "sqlalchemy",
    "alembic",
    "psycopg",
    "pymysql",
    "tornado",
)


def describe(directory: Path, products: dict[str, str]) -> dict[str, Any]:
    """Return the date, the kind of machine, and the versions of everything."""
    return {
        "date": datetime.now(timezone.utc).date().isoformat(),
        "processor": f"{os.cpu_count()} cores, {_processor()}",
        "memory": f"{psutil.virtual_memory().total / 2**30:.0f} GiB",
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "file system of the SQLite files": file_system(directory),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "databases": ", ".join(products.values()),
        "packages": ", ".join(f"{name} {_version(name)}" for name in _PACKAGES),
    }


def file_system(directory: Path) -> str:
    """Return the kind of the file system that `directory` is on."""
    path = os.path.realpath(directory)
    best = max(
        (
            partition
            for partition in psutil.disk_partitions(all=True)
            if os.path.commonpath([path, partition.mountpoint]) == partition.mountpoint
        ),
        key=lambda partition: len(partition.mountpoint),
        default=None,
    )
    return best.fstype if best else "unknown"


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "(checkout)"
