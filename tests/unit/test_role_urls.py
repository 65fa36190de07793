"""The hook that gives each user's server the URL of a role of its own."""

from __future__ import annotations

import asyncio
import os
import shlex
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import pytest

from jupyter_session_store.errors import ConfigurationError
from jupyter_session_store.hub import VARIABLE, role_urls
from tests.system.waiting import until

URL: Final = "postgresql://ada:s3cr3t@db.example.org/jupyter"
PRINT: Final = [sys.executable, "-c"]


def spawner(user: str = "ada", server: str = "") -> Any:
    return SimpleNamespace(
        user=SimpleNamespace(name=user), name=server, environment={"OTHER": "kept"}
    )


def given(hook: Any, of: Any) -> str:
    """Return what the hook gives, in an environment of that spawner alone."""
    before = of.environment
    asyncio.run(hook(of))
    assert before == {"OTHER": "kept"}
    assert of.environment["OTHER"] == "kept"
    return str(of.environment[VARIABLE])


def write(file: Path, text: str) -> None:
    """Write what this user alone can write, whatever the mask of the system is."""
    file.write_text(text)
    file.chmod(0o600)
    file.parent.chmod(0o700)


@pytest.mark.parametrize(
    ("user", "file"),
    [
        ("ada", "ada"),
        ("bob@example.org", "bob%40example.org"),
        ("../eve", "..%2Feve"),
        ("..", "%2E%2E"),
        ("{server}", "%7Bserver%7D"),
        ("Groß ✓", "Gro%C3%9F%20%E2%9C%93"),
    ],
)
def test_a_file(tmp_path: Path, user: str, file: str) -> None:
    write(tmp_path / file, f"{URL}\n")
    assert given(role_urls(file=f"{tmp_path}/{{user}}"), spawner(user)) == URL


@pytest.mark.parametrize("place", ["the file", "its folder"])
@pytest.mark.parametrize("mode", [0o020, 0o002])
def test_a_file_that_others_can_write(tmp_path: Path, place: str, mode: int) -> None:
    """Who writes it has the server use another database, in which the rows are that one's."""
    folder = tmp_path / "urls"
    folder.mkdir()
    file = folder / "ada"
    file.write_text(URL)
    hook = role_urls(file=f"{folder}/{{user}}")
    for one in (file, folder):
        one.chmod(0o700)
    assert given(hook, spawner()) == URL
    wrong = file if place == "the file" else folder
    wrong.chmod(0o700 | mode)
    of = spawner()
    with pytest.raises(ConfigurationError) as failed:
        asyncio.run(hook(of))
    assert of.environment == {"OTHER": "kept"}
    assert "s3cr3t" not in str(failed.value)
    assert "can be written by others" in str(failed.value)
    command = str(failed.value).rpartition(": it says which database a server uses. ")[2]
    subprocess.run(shlex.split(command), check=True)
    assert given(hook, spawner()) == URL


def test_a_pipe_and_a_folder_are_no_file(tmp_path: Path) -> None:
    """Nobody waits for what may never be written to a pipe."""
    tmp_path.chmod(0o700)
    os.mkfifo(tmp_path / "ada", 0o600)
    (tmp_path / "bob").mkdir(0o700)
    for user in ("ada", "bob"):
        with pytest.raises(ConfigurationError, match=f"{user}' is a folder, a pipe or a device"):
            asyncio.run(role_urls(file=f"{tmp_path}/{{user}}")(spawner(user)))


def test_a_file_of_a_named_server(tmp_path: Path) -> None:
    (tmp_path / "ada").mkdir()
    write(tmp_path / "ada" / "gpu-url", URL)
    hook = role_urls(file=f"{tmp_path}/{{user}}/{{server}}-url")
    assert given(hook, spawner("ada", "gpu")) == URL


def test_a_command() -> None:
    program = "import sys; print('postgresql://h/%s-%s' % tuple(sys.argv[1:]))"
    hook = role_urls(command=[*PRINT, program, "{user}", "{server}/{user}"])
    assert given(hook, spawner("a b", "gpu")) == "postgresql://h/a b-gpu/a b"
    # A name is no placeholder, and no shell reads it.
    assert given(hook, spawner("{server}", "$(id)")) == "postgresql://h/{server}-$(id)/{server}"


def test_a_function() -> None:
    async def later(of: Any) -> str:
        await asyncio.sleep(0)
        return f"postgresql://{of.user.name}@h/x"

    assert given(role_urls(function=later), spawner("bob")) == "postgresql://bob@h/x"
    assert given(role_urls(function=lambda _: URL), spawner()) == URL


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ({}, "was given 0 sources"),
        ({"file": "/x/{user}", "command": ["x", "{user}"]}, "was given 2 sources"),
        ({"file": "/etc/one-url"}, "a source without {user}"),
        ({"command": ["vault", "read"]}, "a source without {user}"),
    ],
)
def test_what_is_the_same_for_all_is_refused_at_once(source: Any, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        role_urls(**source)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ({"file": "/no/such/folder/{user}"}, "'/no/such/folder/ada' cannot be read"),
        ({"command": ["/no/such/program", "{user}"]}, "'/no/such/program' cannot be run"),
        ({"command": [*PRINT, f"print('{URL}'); exit(3)", "{user}"]}, "ended with 3"),
        ({"command": [*PRINT, "print()", "{user}"]}, "no database URL"),
        ({"command": [*PRINT, "print('s3cr3t')", "{user}"]}, "no database URL"),
        ({"command": [*PRINT, f"print('{URL}\\n{URL}')", "{user}"]}, "control character"),
        ({"function": lambda _: None}, "got a NoneType"),
        ({"function": lambda _: "/home/ada/sessions.db"}, "no database URL"),
    ],
)
def test_without_a_url_no_server_starts(source: Any, said: str) -> None:
    of = spawner()
    with pytest.raises(ConfigurationError) as failed:
        asyncio.run(role_urls(**source)(of))
    assert said in str(failed.value)
    assert "s3cr3t" not in str(failed.value)
    assert failed.value.jupyterhub_message  # type: ignore[attr-defined]
    assert of.environment == {"OTHER": "kept"}


def test_a_command_that_hangs_is_ended() -> None:
    hook = role_urls(command=[*PRINT, "import time; time.sleep(600)", "{user}"], timeout=0.2)
    with pytest.raises(ConfigurationError, match="took longer than"):
        asyncio.run(hook(spawner()))


def test_a_command_ends_with_a_start_that_is_given_up(tmp_path: Path) -> None:
    """As the hub does when a start takes too long."""
    told = tmp_path / "pid"
    program = f"import os, time; open({str(told)!r}, 'w').write(str(os.getpid())); time.sleep(600)"

    async def give_up() -> None:
        task = asyncio.create_task(role_urls(command=[*PRINT, program, "{user}"])(spawner()))
        await asyncio.to_thread(
            until, lambda: told.exists() and bool(told.read_text()), why="it runs"
        )
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(give_up())
    with pytest.raises(ProcessLookupError):
        os.kill(int(told.read_text()), 0)
