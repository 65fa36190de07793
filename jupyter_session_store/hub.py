"""For ``jupyterhub_config.py``: each user's server gets the URL of a role of its own.

The hub hands it out, and so no server has another's. Nothing of JupyterHub is imported.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import re
import shlex
import stat
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, Final
from urllib.parse import quote

from .errors import ConfigurationError
from .locations import Kind, clean, kind_of

__all__ = ["role_urls"]

#: The variable of the environment in which a server looks for it.
VARIABLE: Final = "JUPYTER_SESSION_STORE_URL"
_USER: Final = "{user}"
#: Bytes that are read of a file.
_MOST: Final = 65_536


def role_urls(
    *,
    file: str | None = None,
    command: Sequence[str] | None = None,
    function: Callable[[Any], str | Awaitable[str]] | None = None,
    timeout: float = 10.0,
) -> Callable[[Any], Coroutine[Any, Any, None]]:
    """Return a ``pre_spawn_hook`` that gives each server the URL of its own role.

    Exactly one source is named. Without a URL the server is not started: it would otherwise use
    another database.

    Parameters
    ----------
    file : str
        The path of a file with the URL. ``{user}`` stands for the name of the user,
        percent-encoded, and ``{server}`` for that of a named server. A file, or a folder, that
        others than the hub's user and root own or may write is refused.
    command : sequence of str
        A program and its arguments, which prints the URL; no shell is involved. ``{user}`` and
        ``{server}`` stand for the names as they are.
    function : callable
        It takes the spawner, and returns the URL, or a coroutine that does.
    timeout : float
        Seconds that the command may take.

    Raises
    ------
    ConfigurationError
        If not exactly one source is named, or one that is the same for all users.
    """
    given = [one for one in (file, command, function) if one is not None]
    if len(given) != 1:
        raise ConfigurationError(
            f"role_urls was given {len(given)} sources; expected one of file, command and function."
        )
    template = file if file is not None else " ".join(command or [_USER])
    if _USER not in template:
        raise ConfigurationError(
            "role_urls was given a source without {user}, which is the same for all; expected one "
            "that differs from user to user."
        )

    async def give(spawner: Any) -> None:
        try:
            if file is not None:
                url = _read(file, spawner)
            elif command is not None:
                url = await _ask(command, spawner, timeout)
            else:
                assert function is not None
                answer = function(spawner)
                url = await answer if inspect.isawaitable(answer) else answer
            checked = _check(url)
        except ConfigurationError as error:
            # What the hub shows to the user, in place of "Internal Server Error".
            error.jupyterhub_message = "The session store has no URL for this user."  # type: ignore[attr-defined]
            raise
        spawner.environment = {**spawner.environment, VARIABLE: checked}

    return give


def _read(template: str, spawner: Any) -> str:
    path = template
    for name, value in _names(spawner).items():
        path = path.replace(name, _as_part(value))
    try:
        # Of a pipe, which nobody may ever write to, there is no waiting.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            _refuse_if_open_to_others(path, os.fstat(descriptor))
            return os.read(descriptor, _MOST).decode()
        finally:
            os.close(descriptor)
    except (OSError, ValueError) as error:
        if isinstance(error, ConfigurationError):
            raise
        raise ConfigurationError(
            f"The file {path!r} cannot be read ({type(error).__name__}); expected the URL of the "
            "role of this user in it, in UTF-8, readable by the hub."
        ) from None


def _refuse_if_open_to_others(path: str, found: os.stat_result) -> None:
    """Refuse a file that others than the hub's user may write: the URL may lead anywhere."""
    if not stat.S_ISREG(found.st_mode):
        raise ConfigurationError(f"{path!r} is a folder, a pipe or a device; expected a file.")
    folder = os.path.dirname(path) or "."
    places = {path: found, folder: os.stat(folder)}
    for place, about in places.items():
        mode = stat.S_IMODE(about.st_mode)
        # In a folder with the sticky bit others replace no file that is not theirs.
        may_write = mode & 0o022 and not (place == folder and mode & stat.S_ISVTX)
        if may_write or about.st_uid not in (0, os.geteuid()):
            raise ConfigurationError(
                f"{place!r} is another user's, or can be written by others (mode {mode:o}, owner "
                f"{about.st_uid}); expected that the hub's user or root owns it, and that nobody "
                f"else can write it: it says which database a server uses. chmod go-w "
                f"{shlex.quote(place)}"
            )


def _as_part(name: str) -> str:
    """Return a name as a part of a path: it leads nowhere else."""
    quoted = quote(name, safe="")
    return quoted if quoted.strip(".") else quoted.replace(".", "%2E")


async def _ask(words: Sequence[str], spawner: Any, timeout: float) -> str:
    names = _names(spawner)
    told = [_replaced(word, names) for word in words]
    try:
        process = await asyncio.create_subprocess_exec(
            *told, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE
        )
    except (OSError, ValueError) as error:
        raise ConfigurationError(
            f"The command {words[0]!r} cannot be run ({type(error).__name__}); expected one that "
            "prints the URL of the role of a user."
        ) from None
    try:
        printed, _ = await asyncio.wait_for(process.communicate(), timeout)
    except asyncio.TimeoutError:
        raise ConfigurationError(
            f"The command {words[0]!r} took longer than {timeout:g} s; expected that it prints "
            "the URL of the role of a user."
        ) from None
    finally:
        # Also where the hub gives the start up.
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        raise ConfigurationError(
            f"The command {words[0]!r} ended with {process.returncode}; expected 0, and that it "
            "prints the URL of the role of a user."
        )
    return printed.decode(errors="replace")


def _replaced(word: str, names: dict[str, str]) -> str:
    """Replace the placeholders of a word, and none that a name brings along."""
    return re.sub("|".join(map(re.escape, names)), lambda found: names[found[0]], word)


def _names(spawner: Any) -> dict[str, str]:
    return {_USER: str(spawner.user.name), "{server}": str(spawner.name or "")}


def _check(url: object) -> str:
    """Return a URL without the line end of a file; what is none is not repeated."""
    if not isinstance(url, str):
        raise ConfigurationError(
            f"role_urls got a {type(url).__name__}; expected the URL of the role of a user."
        )
    checked = clean(url)
    if "://" not in checked or kind_of(checked) is not Kind.URL:
        raise ConfigurationError(
            "role_urls got something that is no database URL; expected dialect://role:password"
            "@host:port/database, with every special character percent-encoded."
        )
    return checked
