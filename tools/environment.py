"""Make a virtual environment that holds what is asked, once.

    python tools/environment.py .venv ".[test]" jupyterlab

A second run with the same requests installs nothing. uv is used, since it is several times as
fast: the one that is installed, or one in .venvs. Of pip's configuration it is given what it has
a setting for. Where there is more, where it fails, or where there is none for this system,
``python -m venv`` and pip do the same.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from ast import literal_eval
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

ROOT = Path(__file__).resolve().parent.parent
OLDEST_PYTHON = (3, 10)
#: What uv calls a setting of pip's, and what it puts between two values.
UV_SETTINGS = {
    "index-url": ("UV_DEFAULT_INDEX", " "),
    "extra-index-url": ("UV_INDEX", " "),
    "find-links": ("UV_FIND_LINKS", ","),
    "constraint": ("UV_CONSTRAINT", " "),
    "trusted-host": ("UV_INSECURE_HOST", " "),
    "no-index": ("UV_NO_INDEX", " "),
    "cert": ("SSL_CERT_FILE", " "),
}
#: Settings of pip's that do not decide what is installed.
INDIFFERENT = {
    *("break-system-packages", "cache-dir", "compile", "config-file", "default-timeout"),
    *("no-cache-dir", "no-warn-script-location", "user", "verbose"),
    *("disable-pip-version-check", "no-color", "no-input", "no-python-version-warning"),
    *("progress-bar", "quiet", "require-virtualenv", "retries", "root-user-action", "timeout"),
}


def bin_python(venv: Path) -> Path:
    """Return the interpreter of a virtual environment."""
    return venv / "bin" / "python"


def project_metadata() -> str:
    """Return the part of pyproject.toml that decides what is installed."""
    return (ROOT / "pyproject.toml").read_text(encoding="utf-8").split("\n[tool.", 1)[0]


def oldest_requirements() -> list[str]:
    """Return the declared dependencies, each pinned to the oldest declared release.

    Read from pyproject.toml, so that the two cannot drift apart. The standard
    library of Python 3.10 has no TOML parser, hence the regular expressions.
    """
    metadata = project_metadata()
    blocks = [
        re.search(rf"^{name} = \[(.*?)\]$", metadata, re.MULTILINE | re.DOTALL)
        for name in ("dependencies", "postgresql", "mysql")
    ]
    pins = [
        f"{name}=={version}"
        for block in blocks
        if block is not None
        for name, version in re.findall(r'"([\w.\[\]-]+)>=([\d.]+)', block.group(1))
    ]
    if None in blocks or not pins:
        raise SystemExit("pyproject.toml: no dependencies of the form 'name>=version' were found.")
    return pins


def find_python(version: str) -> Path:
    """Return an interpreter of a version (``"3.10"``) from pyenv or the PATH.

    A shim of pyenv is on the PATH whether or not its version is selected, so
    each candidate is run rather than looked at.
    """
    pyenv = Path(os.environ.get("PYENV_ROOT", "~/.pyenv")).expanduser()
    candidates = sorted(pyenv.glob(f"versions/{version}.*/bin/python"), reverse=True)
    on_path = shutil.which(f"python{version}")
    if on_path:
        candidates.insert(0, Path(on_path))
    for candidate in candidates:
        code = "import sys; print('%d.%d' % sys.version_info[:2])"
        answer = subprocess.run(
            [candidate, "-c", code], capture_output=True, text=True, check=False
        )
        if answer.stdout.strip() == version:
            return candidate
    raise SystemExit(
        f"Python {version} was found neither on the PATH nor under {pyenv}/versions. "
        f"Install it, for instance with `pyenv install {version}`."
    )


def _run(command: Sequence[str | Path], environ: Mapping[str, str] | None = None) -> bool:
    print("+", *command, flush=True)
    # Bytecode that is not written at the install is compiled at each start.
    environ = {**os.environ, **(environ or {})}
    environ.pop("PYTHONDONTWRITEBYTECODE", None)
    try:
        return subprocess.run(command, cwd=ROOT, env=environ, check=False).returncode == 0
    except OSError as error:
        # Such as a program for another system, of a checkout that both share.
        print(f"{command[0]}: {error.strerror}", file=sys.stderr)
        return False


def _works(venv: Path) -> bool:
    python = bin_python(venv)
    return python.exists() and subprocess.run([python, "-c", ""], check=False).returncode == 0


def _requests(requests: Sequence[str]) -> list[str]:
    # A folder of the project is installed as a link, so that an edit is seen at once.
    return [part for r in requests for part in (["-e", r] if r.startswith(".") else [r])]


def _lay(venv: Path, on: Path | None) -> None:
    """Let an environment find what another has, and it has not."""
    if on is None:
        return
    for ours in venv.glob("lib/python*/site-packages"):
        theirs = on.absolute() / ours.relative_to(venv)
        # Not the folder alone: what is installed as a link is in a file of the same kind there.
        line = f"import site; site.addsitedir({str(theirs)!r})\n"
        (ours / "on_another.pth").write_text(line, encoding="utf-8")


def _contents(on: Path | None) -> list[str]:
    """Return what tells an environment that another lies on from what it was before."""
    return [] if on is None else [str(on), *sorted(p.name for p in on.glob(".installed/*"))]


def pip_configuration(python: Path) -> dict[str, str] | None:
    """Return pip's settings, by their names without the part that they stand in.

    ``None`` if they cannot be told: without pip, or where it refuses its file.
    """
    # Aloud, since a setting can make it quiet.
    command = [str(python), "-m", "pip", "-vvvvvvvvv", "config", "list"]
    asked = subprocess.run(command, capture_output=True, text=True, check=False)
    if asked.returncode != 0:
        return None
    found: dict[str, tuple[int, str]] = {}
    # The environment wins over what is for one command, and that over what is for all.
    ranks = {":env:": 2, "install": 1, "global": 0}
    for line in asked.stdout.splitlines():
        name, equals, value = line.partition("=")
        part, _, key = name.partition(".")
        if equals and part in ranks and ranks[part] >= found.get(key, (-1, ""))[0]:
            found[key] = (ranks[part], str(literal_eval(value)))
    return {key: value for key, (_, value) in found.items()}


def _is_url(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return "://" in url and parts.port != 0 and bool(parts.hostname or parts.scheme == "file")
    except ValueError:
        return False


def uv_environment(settings: Mapping[str, str]) -> dict[str, str] | None:
    """Return pip's settings as uv takes them; ``None`` if it has no such setting.

    It asks all indexes alike, as pip does. What the user has set for uv itself wins.
    """
    given = {key: value.split() for key, value in settings.items() if value.strip()}
    if given.keys() - UV_SETTINGS.keys() - INDIFFERENT:
        return None
    urls = [url for key in ("index-url", "extra-index-url") for url in given.get(key, ())]
    urls += [place for place in given.get("find-links", ()) if "://" in place]
    if not all(map(_is_url, urls)):
        # uv shows a malformed one whole, with its password.
        return None
    environ = {"UV_INDEX_STRATEGY": "unsafe-best-match"}
    for key, (name, separator) in UV_SETTINGS.items():
        if key in given:
            environ[name] = separator.join(given[key])
    return {name: value for name, value in environ.items() if name not in os.environ}


def _uv() -> str | None:
    """Return a uv: the one that is installed, or one of the project's own, made here."""
    if (installed := shutil.which("uv")) is not None:
        return installed
    own = ROOT / ".venvs" / "uv"
    if not own.exists():
        own.parent.mkdir(exist_ok=True)
        options = ["-qq", "--disable-pip-version-check", "--no-deps", "--only-binary=:all:"]
        with tempfile.TemporaryDirectory(dir=own.parent) as folder:
            made = Path(folder) / "uv"
            pip = [sys.executable, "-m", "pip", "install", *options, "--target", str(made)]
            if not _run([*pip, "uv"]):
                return None
            # Another process may have made one meanwhile.
            with suppress(OSError):
                made.rename(own)
    return str(own / "bin" / "uv")


def _with_uv(venv: Path, python: Path, requests: Sequence[str], on: Path | None) -> bool:
    if on is not None:
        # uv does not see what is in the other one.
        return False
    settings = pip_configuration(python)
    environ = None if settings is None else uv_environment(settings)
    uv = None if environ is None else _uv()
    if settings is None or uv is None:
        return False
    make = [uv, "venv", "--quiet", "--seed", "--python", str(python), str(venv)]
    if not _works(venv) and not _run(make, environ):
        return False
    options = ["--quiet", "--python", str(bin_python(venv))]
    if settings.get("compile", "1").lower() not in ("0", "false", "no", "off"):
        options.append("--compile-bytecode")
    return _run([uv, "pip", "install", *options, *_requests(requests)], environ)


def _with_pip(venv: Path, python: Path, requests: Sequence[str], on: Path | None) -> bool:
    pip = [str(bin_python(venv)), "-m", "pip"]
    if not _works(venv) or not _run([*pip, "--version"]):
        shutil.rmtree(venv, ignore_errors=True)
        if not _run([python, "-m", "venv", venv]):
            print(
                "No virtual environment could be made. On Debian and Ubuntu: "
                "apt install python3-venv.",
                file=sys.stderr,
            )
            return False
    _lay(venv, on)
    return _run([*pip, "install", "-qq", "--disable-pip-version-check", *_requests(requests)])


def ensure(
    venv: Path,
    requests: Sequence[str],
    python: Path = Path(sys.executable),
    on: Path | None = None,
) -> Path:
    """Return the interpreter of a virtual environment that holds what is asked.

    Parameters
    ----------
    venv : Path
        Made where it is missing or broken, or where it has another Python.
    requests : sequence of str
        Requirements as for pip; one that starts with ``.`` is the project.
    python : Path
        The interpreter to make it with.
    on : Path, optional
        An environment of the same Python, what is in which is not installed again.
    """
    version = subprocess.run(
        [python, "-c", "import sys; print(sys.version_info[:2] >= (3, 10), sys.version)"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    if not version.startswith("True"):
        raise SystemExit(
            f"{python} is too old: Python {OLDEST_PYTHON[0]}.{OLDEST_PYTHON[1]} or newer is "
            "needed. Name one: make PYTHON=/path/to/python ..."
        )
    made_with = venv / ".made-with"
    if not made_with.exists() or made_with.read_text() != version or not _works(venv):
        shutil.rmtree(venv, ignore_errors=True)
    wanted = "\n".join([version, project_metadata(), *requests, *_contents(on)])
    done = venv / ".installed" / hashlib.sha256(wanted.encode()).hexdigest()
    if done.exists():
        return bin_python(venv)
    if on is not None:
        # What it has of the other's as that was before would win over what that has now.
        shutil.rmtree(venv, ignore_errors=True)
    print(f"Filling {venv} with what is needed: this can take a minute or two.", flush=True)
    if not any(fill(venv, python, requests, on) for fill in (_with_uv, _with_pip)):
        raise SystemExit(f"The virtual environment {venv} could not be filled; see above.")
    made_with.write_text(version)
    done.parent.mkdir(exist_ok=True)
    done.touch()
    return bin_python(venv)


def main() -> None:
    """Read the command line and make the environment."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("venv", type=Path)
    parser.add_argument("requests", nargs="+", metavar="REQUIREMENT")
    parser.add_argument("--python-version", help="take this Python, from pyenv or the PATH")
    parser.add_argument(
        "--oldest", action="store_true", help="pin each dependency to its oldest declared release"
    )
    arguments = parser.parse_args()
    requests = [*arguments.requests, *(oldest_requirements() if arguments.oldest else [])]
    version = arguments.python_version
    python = find_python(version) if version else Path(sys.executable)
    ensure(arguments.venv, requests, python)


if __name__ == "__main__":
    main()
