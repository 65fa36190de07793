"""Several hosts in one URL: each spelling of the reference, on a primary and its standby."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest
from traitlets import TraitError
from traitlets.config import Config

from jupyter_session_store.config.database import DatabaseSettings
from jupyter_session_store.errors import ConfigurationError
from jupyter_session_store.sql.doctor import Verdict
from jupyter_session_store.sql.engine.factory import check
from jupyter_session_store.testing import SCOPE, record

from ..databases import parameters
from ..docs.blocks import source
from .pair import URL, NextDoor, Pair, a_pair, look, open_on
from .server import PATIENT, JupyterServer

pytestmark = [pytest.mark.system, pytest.mark.timeout(600)]

NewServer = Callable[..., JupyterServer]


def rows_of_table(heading: str) -> list[list[str]]:
    """Return the rows of the table below a heading of the reference."""
    section = source("docs/reference/hosts.md").partition(f"\n## {heading}\n")[2]
    lines = section.partition("\n## ")[0].splitlines()
    return [line.strip("| ").split(" | ") for line in lines if line.startswith("| `")]


UNDERSTOOD: Final = [row[0] for row in rows_of_table("What is understood")]
REFUSED: Final = [[cell.strip("`") for cell in row] for row in rows_of_table("What is refused")]


@pytest.fixture(scope="session")
def pair() -> Iterator[Pair]:
    """The two, for all tests that leave them as they are."""
    with a_pair() as pair:
        with open_on(pair.database.url):
            pass
        pair.standby.catch_up()
        yield pair


def test_the_tables_are_read() -> None:
    assert len(UNDERSTOOD) > 15
    assert len(REFUSED) > 15
    assert {len(row) for row in REFUSED} == {3}


@pytest.mark.parametrize("standby_first", [False, True], ids=["primary first", "standby first"])
@pytest.mark.parametrize("spelling", UNDERSTOOD)
async def test_what_is_understood(
    pair: Pair,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    spelling: str,
    standby_first: bool,
) -> None:
    written, *variables = re.findall(r"`([^`]+)`", spelling)
    # Where no port is given, it is the usual.
    monkeypatch.setenv("PGPORT", str(pair.port))
    for variable in variables:
        name, _, value = pair.url(variable, standby_first=standby_first).partition("=")
        monkeypatch.setenv(name, value)
    url = pair.url(written, standby_first=standby_first)
    with open_on(url) as repository:
        await repository.add(record("a"))
        assert await repository.find(SCOPE) == [record("a")]
        assert await repository.remove(SCOPE, [record("a")]) == 1
        told = repository.describe()
        assert told.host == f"127.0.0.1:{pair.port}"
        hosts = ["127.0.0.1", NextDoor.HOST]
        both = ",".join(f"{one}:{pair.port}" for one in (hosts[::-1] if standby_first else hosts))
        assert told.backend == f"postgresql jss@{both}/{pair.database.url.rpartition('/')[2]}"
    assert "unavailable" not in caplog.text


@pytest.mark.parametrize(("spelling", "text", "instead"), REFUSED)
def test_what_is_refused(spelling: str, text: str, instead: str) -> None:
    section = {"database_filepath": spelling}
    with pytest.raises((TraitError, ConfigurationError)) as refused:
        DatabaseSettings(config=Config({"DatabaseSettings": section})).database_filepath  # noqa: B018
    assert text in str(refused.value)
    check(instead)
    if instead.startswith("postgresql"):
        assert instead.replace("5433", "5432") in UNDERSTOOD[0]


async def test_a_service_of_libpq(
    pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = parameters(pair.database.url)
    lines = {
        "host": f"{NextDoor.HOST},127.0.0.1",
        "port": f"{pair.port},{pair.port}",
        "target_session_attrs": "read-write",
        **{name: settings[name] for name in ("user", "password", "dbname")},
    }
    file = tmp_path / "services"
    file.write_text("[jupyter]\n" + "".join(f"{key}={value}\n" for key, value in lines.items()))
    monkeypatch.setenv("PGSERVICEFILE", str(file))
    with open_on("postgresql:///?service=jupyter") as repository:
        await repository.add(record("a"))
        assert await repository.remove(SCOPE, [record("a")]) == 1


def test_doctor_names_them(pair: Pair) -> None:
    found = look(pair.url(URL, standby_first=True))
    assert found["connection"].text.startswith(f"Connected to 127.0.0.1:{pair.port} in")
    assert found["hosts"].verdict is Verdict.OK
    assert found["hosts"].text == (
        f"{NextDoor.HOST}:{pair.port} standby; 127.0.0.1:{pair.port} primary."
    )
    assert "hosts" not in look(pair.database.url)


def test_a_server_names_the_host_that_answers(pair: Pair, new_server: NewServer) -> None:
    url = pair.url(URL, standby_first=True)
    running = new_server(f"c.SessionManager.database_filepath = {url!r}{PATIENT}")
    running.start()
    primary = f"127.0.0.1:{pair.port}"
    status = running.model(running.api.get("/api/session-store/status"), 200)
    assert status["host"] == primary
    assert f", and {primary} answers; the namespace is" in running.log
    running.stop()
