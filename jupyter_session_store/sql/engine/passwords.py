"""Passwords that are read at each connect: from a file, or from a function."""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Engine, event

from ...errors import ConfigurationError, StoreUnavailable

OPTIONS: Final = "c.PersistentSessionManager.engine_options"


def password_source(settings: dict[str, Any]) -> Callable[[], str] | None:
    """Take the options that say where the password comes from out of `settings`.

    Returns
    -------
    callable or None
        Returns the password, or raises :class:`.StoreUnavailable`; ``None``
        where the URL says it.

    Raises
    ------
    ConfigurationError
        If an option is not usable.
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
        reason = error if isinstance(error, ImportError) else type(error).__name__
        raise ConfigurationError(
            f"{OPTIONS}['password_provider'] is {name!r}, which cannot be imported "
            f"({reason}); expected 'module:name'."
        ) from None


def provide_password(engine: Engine, provide: Callable[[], str]) -> None:
    """Ask for the password at each connect."""

    @event.listens_for(engine, "do_connect")
    def _set(_dialect: Any, _record: Any, _cargs: Any, cparams: dict[str, Any]) -> None:
        cparams["password"] = provide()
