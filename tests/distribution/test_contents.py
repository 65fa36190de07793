"""What is in the distribution."""

from __future__ import annotations

import json
import re
import tarfile
from email.parser import Parser
from pathlib import Path
from zipfile import ZipFile

import pytest

from jupyter_session_store import __version__

from .building import ROOT, Distribution
from .keep_wheel import WHEELS

# Whichever test is first installs what builds, and builds three times.
pytestmark = [pytest.mark.timeout(900), pytest.mark.extended("installed wheels")]


def contents(wheel: Path) -> dict[str, bytes]:
    with ZipFile(wheel) as archive:
        assert archive.testzip() is None
        return {name: archive.read(name) for name in archive.namelist()}


def sources(folder: Path) -> set[str]:
    """Return the files that git would keep of a folder of the checkout."""
    return {
        str(path.relative_to(ROOT))
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def test_the_wheel_of_the_sdist_is_the_wheel(distribution: Distribution) -> None:
    assert distribution.rebuilt.name == distribution.wheel.name
    assert contents(distribution.rebuilt) == contents(distribution.wheel)


def test_the_wheel_holds_the_package_and_the_migrations(distribution: Distribution) -> None:
    information = f"jupyter_session_store-{__version__}.dist-info"
    expected = sources(ROOT / "jupyter_session_store")
    migrations = sources(ROOT / "migrations") | {"alembic.ini"}
    expected |= {f"jupyter_session_store/{name}" for name in migrations}
    expected.add(configuration())
    found = contents(distribution.wheel)
    assert {name for name in found if not name.startswith(information)} == expected
    assert "jupyter_session_store/py.typed" in expected
    assert "jupyter_session_store/migrations/env.py" in expected
    assert "jupyter_session_store/migrations/script.py.mako" in expected
    for name in (
        "alembic.ini",
        "migrations/env.py",
        "migrations/versions/0001_create_the_tables.py",
        "migrations/versions/0002_count_changes_and_index_lists.py",
    ):
        assert found[f"jupyter_session_store/{name}"] == (ROOT / name).read_bytes()


def configuration() -> str:
    """Return the file that enables the extension, as an installer puts it where Jupyter looks."""
    folder = "etc/jupyter/jupyter_server_config.d"
    return f"jupyter_session_store-{__version__}.data/data/{folder}/jupyter_session_store.json"


def test_revisions_of_the_newest_kept_wheel_are_unchanged() -> None:
    """Whoever has run one has its outcome in a database."""
    newest = max(
        WHEELS.glob("*.whl"), key=lambda wheel: [int(one) for one in re.findall(r"\d+", wheel.name)]
    )
    folder = "jupyter_session_store/migrations/versions/"
    kept = {name: text for name, text in contents(newest).items() if name.startswith(folder)}
    assert kept
    here = ROOT / "migrations" / "versions"
    changed = [name for name, text in kept.items() if text != (here / Path(name).name).read_bytes()]
    assert changed == [], f"{newest.name} has other ones"


def test_the_wheel_enables_the_extension(distribution: Distribution) -> None:
    found = json.loads(contents(distribution.wheel)[configuration()])
    assert found == {"ServerApp": {"jpserver_extensions": {"jupyter_session_store": True}}}


def test_the_wheel_says_what_it_is(distribution: Distribution) -> None:
    found = contents(distribution.wheel)
    information = f"jupyter_session_store-{__version__}.dist-info"
    assert f"{information}/licenses/LICENSE" in found
    metadata = Parser().parsestr(found[f"{information}/METADATA"].decode())
    assert metadata["Name"] == "jupyter_session_store"
    assert metadata["Version"] == __version__
    assert metadata["License-Expression"] == "BSD-3-Clause"
    assert {"postgresql", "mysql"} <= set(metadata.get_all("Provides-Extra", []))
    assert metadata["Requires-Python"] == ">=3.10"
    entry_points = found[f"{information}/entry_points.txt"].decode()
    assert "[jupyter_session_store.repositories]" in entry_points
    assert "memory = jupyter_session_store.memory:MemorySessionRepository" in entry_points


def test_what_an_index_shows_has_addresses(distribution: Distribution) -> None:
    """A package index has the README, and nothing that lies beside it."""
    found = contents(distribution.wheel)
    text = found[f"jupyter_session_store-{__version__}.dist-info/METADATA"].decode()
    metadata = Parser().parsestr(text)
    assert metadata["Description-Content-Type"] == "text/markdown"
    urls = dict(line.split(", ", 1) for line in metadata.get_all("Project-URL", []))
    assert {"Changelog", "Documentation", "Repository"} <= set(urls)
    repository = urls["Repository"]
    raw = repository.replace("github.com", "raw.githubusercontent.com")

    links = re.findall(r"(!?)\[[^\]]*\]\(([^)]+)\)", str(metadata.get_payload()))
    originals = re.findall(r"(!?)\[[^\]]*\]\(([^)]+)\)", (ROOT / "README.md").read_text())
    assert [picture for picture, _ in links] == [picture for picture, _ in originals]
    assert "!" in dict(links), "the moving picture"
    for (picture, target), (_, original) in zip(links, originals, strict=True):
        prefix = f"{raw}/main/" if picture else f"{repository}/blob/main/"
        assert target in (original, prefix + original)
        assert re.match(r"https://|#", target)


def test_the_sdist_holds_the_project(distribution: Distribution) -> None:
    with tarfile.open(distribution.sdist) as archive:
        top = f"jupyter_session_store-{__version__}"
        found = {member.name.removeprefix(f"{top}/") for member in archive if member.isfile()}
    expected = {"LICENSE", "Makefile", "README.md", "alembic.ini", "pyproject.toml"}
    for folder in ("jupyter_session_store", "migrations", "tests"):
        expected |= sources(ROOT / folder)
    assert expected - found == set()
    assert {name for name in found if "__pycache__" in name or name.endswith(".pyc")} == set()


def test_the_sdist_holds_what_its_makefile_calls(distribution: Distribution) -> None:
    with tarfile.open(distribution.sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    makefile = (ROOT / "Makefile").read_text()
    called = {str(path.relative_to(ROOT)) for path in (ROOT / "tools").glob("*.py")}
    called = {name for name in called if name in makefile}
    assert called
    assert called <= names
