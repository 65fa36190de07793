"""The hook that gives each user's server the URL of a role of its own."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import pytest

from jupyter_session_store.errors import ConfigurationError
from jupyter_session_store.hub import VARIABLE, role_urls

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
    (tmp_path / file).write_text(f"{URL}\n")
    assert given(role_urls(file=f"{tmp_path}/{{user}}"), spawner(user)) == URL


def test_a_file_of_a_named_server(tmp_path: Path) -> None:
    (tmp_path / "ada").mkdir()
    (tmp_path / "ada" / "gpu-url").write_text(URL)
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
