"""Where passwords come from, and which database may have the configured ones."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Engine, event
from sqlalchemy.engine import URL

from ...errors import ConfigurationError, StoreUnavailable
from .backend import backend_of
from .url import parse, passwords_of

OPTIONS: Final = "c.PersistentSessionManager.engine_options"

_SOURCES: Final = frozenset({"password_file", "password_provider"})
#: The same as an argument of a driver; PyMySQL has both.
ARGUMENTS: Final = frozenset({"password", "passwd"})
#: What the query of a URL may say of where it leads, and as whom.
_WHERE: Final = ("host", "hostaddr", "port", "user", "service", "unix_socket")


def password_source(settings: dict[str, Any]) -> Callable[[], str] | None:
    """Take the options that say where the password comes from out of `settings`.

    Returns what asks for the password, and raises :class:`.StoreUnavailable` if there is none;
    ``None`` where the URL says it.
    """
    path = settings.pop("password_file", None)
    provider: Any = settings.pop("password_provider", None)
    if path is not None and provider is not None:
        raise ConfigurationError(
            f"{OPTIONS} holds both password_file and password_provider; keep one."
        )
    if path is not None:
        if not isinstance(path, (str, os.PathLike)):
            raise ConfigurationError(f"{OPTIONS}['password_file'] is not a path.")
        file = Path(path)
        if file.exists() and not file.is_file():
            raise ConfigurationError(
                f"{OPTIONS}['password_file'] is a folder, a pipe or a device; expected a file of "
                "UTF-8 text, which is read at each connect."
            )
        return _guard(
            lambda: file.read_text(encoding="utf-8").rstrip("\r\n"),
            "password_file",
            "a file of UTF-8 text that this user may read",
        )
    if isinstance(provider, str):
        provider = _import(provider)
    if provider is None:
        return None
    if not callable(provider):
        raise ConfigurationError(
            f"{OPTIONS}['password_provider'] is neither a callable nor 'module:name'."
        )
    return _guard(provider, "password_provider", "it to return a string")


def _guard(provide: Callable[[], Any], option: str, expected: str) -> Callable[[], str]:
    def provide_or_fail() -> str:
        try:
            password = provide()
            if not isinstance(password, str):
                raise TypeError
        except Exception as error:
            # Not its text, which may hold what it was about to return.
            raise StoreUnavailable(
                f"{OPTIONS}[{option!r}] gave no password ({type(error).__name__}); "
                f"expected {expected}"
            ) from None
        return password

    return provide_or_fail


def _import(name: str) -> Any:
    module, _, attribute = name.partition(":")
    try:
        return getattr(import_module(module), attribute)
    except Exception as error:
        # Not what stands there, which may be the password itself.
        raise ConfigurationError(
            f"{OPTIONS}['password_provider'] cannot be imported ({type(error).__name__}); expected "
            "'module:name' of a callable, the module on Python's path."
        ) from None


def provide_password(engine: Engine, provide: Callable[[], str]) -> None:
    """Ask for the password at each connect."""

    @event.listens_for(engine, "do_connect")
    def _set(_dialect: Any, _record: Any, _cargs: Any, cparams: dict[str, Any]) -> None:
        cparams["password"] = provide()


def hold_password(options: Mapping[str, Any]) -> bool:
    """Return whether engine options say a password, or where there is one."""
    arguments = options.get("connect_args")
    given = arguments.keys() if isinstance(arguments, Mapping) else ()
    return not (_SOURCES.isdisjoint(options) and ARGUMENTS.isdisjoint(given))


def options_for(
    given: str, options: Mapping[str, Any], configured: str | None
) -> Mapping[str, Any]:
    """Return the configured engine options as they are for another URL than the configured one.

    Their password is left out if `given` holds one, or leads to another server or user than
    `configured` does: no other is to see it. Where that is a SQLite file, which has no
    password, the options can only be meant for `given`. ``None``: it is of no use.
    """
    if given == configured or not hold_password(options):
        return options
    url = parse(given)
    if configured is not None and not passwords_of(url):
        meant = parse(configured)
        if backend_of(meant).is_embedded or _way(meant) == _way(url):
            return options
    kept = {name: value for name, value in options.items() if name not in _SOURCES}
    arguments = kept.get("connect_args")
    if isinstance(arguments, Mapping):
        kept["connect_args"] = {k: v for k, v in arguments.items() if k not in ARGUMENTS}
    return kept


def _way(url: URL) -> tuple[object, ...]:
    """Return where a URL leads, and as whom."""
    port = url.port or backend_of(url).port
    host = None if url.host is None else url.host.lower()
    return (host, port, url.username, *(url.query.get(name) for name in _WHERE))
