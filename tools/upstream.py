"""Run jupyter_server's own tests of sessions and gateways with this package's classes.

    python tools/upstream.py --releases oldest newest --databases sqlite postgresql mysql

The tests are those of jupyter_server's source distribution: of sessions
(``tests/services/sessions``) on each database, of gateways
(``tests/test_gateway.py``) on SQLite. tools/upstream_plugin.py puts
``PersistentSessionManager`` in the place of the stock class, gives each test a
database of its own, and fails the run unless the sessions really went there.
For gateways tools/upstream_gateway.py does the same with
``PersistentGatewayKernelManager``.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import environment

ROOT = environment.ROOT
WORK = ROOT / ".venvs"
DATABASES = ("sqlite", "postgresql", "mysql")
#: Warnings that come with newer releases of a dependency than the tests were written for.
IGNORED = (
    "ignore:The `version` property of an event schema must be a string",
    "ignore:The method, uri, and version arguments to HTTPServerRequest are deprecated",
    "ignore:The start_line argument to HTTPServerRequest will be required",
)
#: A server with a kernel for each test, most of which is waiting: one run takes half a core.
AT_ONCE = 3


def declared() -> tuple[str, str]:
    """Return the declared requirement of jupyter_server, and its oldest release."""
    found = re.search(r'"(jupyter_server>=([\d.]+)[^"]*)"', environment.project_metadata())
    if found is None:
        raise SystemExit("pyproject.toml: no requirement of jupyter_server was found.")
    return found.group(1), found.group(2)


def fetch(requirement: str) -> tuple[str, Path]:
    """Unpack the tests of a release; return its version and the folder that holds them."""
    pip = environment.ensure(WORK / "pip", ["pip"])
    with tempfile.TemporaryDirectory() as folder:
        command = [str(pip), "-m", "pip", "download", "-qq", "--no-deps"]
        options = ["--no-binary", "jupyter_server", "--dest", folder, requirement]
        subprocess.run([*command, *options], check=True)
        (archive,) = Path(folder).glob("*.tar.gz")
        name = archive.name.removesuffix(".tar.gz")
        target = WORK / "upstream"
        # Not the package itself: the installed one is what is tested.
        wanted = (f"{name}/tests/", f"{name}/pyproject.toml")
        with tarfile.open(archive) as tar:
            for member in tar.getmembers():
                if member.isfile() and member.name.startswith(wanted):
                    # `extract` with a filter needs a newer Python than the oldest supported.
                    source = tar.extractfile(member)
                    path = (target / member.name).resolve()
                    if source is not None and path.is_relative_to(target.resolve()):
                        path.parent.mkdir(parents=True, exist_ok=True)
                        path.write_bytes(source.read())
    return name.removeprefix("jupyter_server-"), target / name


def fits(venv: Path | None, python: Path, release: str) -> bool:
    """Return whether an environment has this release of jupyter_server, for this Python."""
    if venv is None or not environment.bin_python(venv).exists():
        return False
    has = "from importlib.metadata import version; print(version('jupyter_server'))"
    found = says(environment.bin_python(venv), f"import sys; print(sys.version); {has}")
    return found == f"{says(python, 'import sys; print(sys.version)')}{release}\n"


def says(python: Path, code: str) -> str:
    """Return what a program prints."""
    return subprocess.run([python, "-c", code], capture_output=True, text=True, check=False).stdout


@dataclass(frozen=True)
class Suite:
    """Some of the tests, and what they need."""

    tests: str
    databases: tuple[str, ...]
    plugins: tuple[str, ...]


SUITES = {
    "sessions": Suite("tests/services/sessions", DATABASES, ("upstream_plugin",)),
    # One database: nearly all of its tests are about kernels.
    "gateway": Suite("tests/test_gateway.py", ("sqlite",), ("upstream_plugin", "upstream_gateway")),
}


@dataclass(frozen=True)
class Run:
    """A suite of one release on one database."""

    version: str
    suite: str
    database: str
    python: Path
    folder: Path
    arguments: tuple[str, ...]

    def __call__(self) -> tuple[int, str]:
        """Return pytest's exit status and a line that sums the run up; print its output.

        What failed is run once more, as jupyter_server's own CI does (``pytest || pytest
        --lf`` in its python-tests.yml): with the stock class too, test_restart_kernel ends in
        one of ten runs with tornado's "fd added twice". The line names what needed it, and
        what fails twice has failed.
        """
        start = time.monotonic()
        status, lines, failed = self._pytest()
        outcome = "passed"
        if status == 1:
            status, lines, _ = self._pytest("--last-failed", "--last-failed-no-failures=none")
            outcome = f"passed, at the second attempt {', '.join(failed)}"
        if status:
            outcome = f"FAILED ({status})"
        counts = next((x for x in reversed(lines) if re.search(r"= \d+ .* in [\d.]+s", x)), "")
        seconds = time.monotonic() - start
        return status, f"{self.title}: {outcome}: {counts.strip('= ')} ({seconds:.0f} s)"

    @property
    def title(self) -> str:
        """What was run on what."""
        return f"jupyter_server {self.version}, {SUITES[self.suite].tests} on {self.database}"

    def _pytest(self, *more: str) -> tuple[int, list[str], list[str]]:
        """Run pytest; print and return its output, and return the tests that failed."""
        environ = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
        environ |= {
            # The tests set this before they import Jupyter; the plugin is imported earlier.
            "JUPYTER_PLATFORM_DIRS": "1",
            "PYTHONPATH": str(ROOT / "tools"),
        }
        suite = SUITES[self.suite]
        command = [str(self.python), "-m", "pytest", suite.tests]
        options = [f"-p{plugin}" for plugin in suite.plugins]
        options += [f"--session-store={self.database}", "--color=no", "--no-showlocals"]
        # Runs that go on at once remember their failures apart.
        cache = f".pytest_cache/{self.suite}-{self.database}"
        options += ["-rfE", f"--override-ini=cache_dir={cache}"]
        options += [f"-W{ignored}" for ignored in IGNORED]
        done = subprocess.run(
            [*command, *options, *self.arguments, *more],
            cwd=self.folder,
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        lines = done.stdout.splitlines() or ["(no output)"]
        # All of a run that failed; of one that passed, what the plugin found.
        marker = next((i for i, line in enumerate(lines) if "session store:" in line), 0)
        shown = lines[0 if done.returncode else marker :]
        print(f"\n--- {self.title}", *shown, sep="\n", flush=True)
        failed = [m[1] for line in lines if (m := re.match(r"(?:FAILED|ERROR) \S*?::(\S+)", line))]
        return done.returncode, lines, failed


def main() -> None:
    """Run what the command line asks for."""
    requirement, oldest = declared()
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--releases",
        nargs="+",
        default=["oldest", "newest"],
        help=f"oldest ({oldest}), newest ({requirement}), or a version",
    )
    parser.add_argument("--databases", nargs="+", default=list(DATABASES), choices=DATABASES)
    parser.add_argument("--suites", nargs="+", default=list(SUITES), choices=SUITES)
    parser.add_argument(
        "--on",
        type=Path,
        help="an environment with all that the tests of this package need: what fits is taken",
    )
    parser.add_argument("--python-version", help="take this Python, from pyenv or the PATH")
    arguments, rest = parser.parse_known_args()
    version = arguments.python_version
    base = environment.find_python(version) if version else Path(sys.executable)
    runs = []
    for release in arguments.releases:
        pinned = f"jupyter_server=={oldest if release == 'oldest' else release}"
        found, folder = fetch(requirement if release == "newest" else pinned)
        venv = WORK / f"upstream-{found}{f'-{version}' if version else ''}"
        wanted = [f"jupyter_server[test]=={found}"]
        on = arguments.on if fits(arguments.on, base, found) else None
        if on is None:
            wanted.append(".[test]")
        python = environment.ensure(venv, wanted, base, on)
        runs += [
            Run(found, suite, database, python, folder, tuple(rest))
            for suite in arguments.suites
            for database in arguments.databases
            if database in SUITES[suite].databases
        ]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        results = list(pool.map(lambda run: run(), runs))
    print("\n--- jupyter_server's own tests of sessions and gateways")
    for _status, line in results:
        print(line)
    if any(status for status, _line in results):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
