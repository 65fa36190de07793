"""Which of the configured passwords go to a database that is not the configured one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from sqlalchemy.engine import URL

from .backend import backend_of
from .url import parse, passwords_of

_SOURCES: Final = frozenset({"password_file", "password_provider"})
#: The same as an argument of a driver; PyMySQL has both.
_ARGUMENTS: Final = frozenset({"password", "passwd"})
#: What the query of a URL may say of where it leads, and as whom.
_WHERE: Final = ("host", "hostaddr", "port", "user", "service", "unix_socket")


def hold_password(options: Mapping[str, Any]) -> bool:
    """Return whether engine options say a password, or where there is one."""
    arguments = options.get("connect_args")
    given = arguments.keys() if isinstance(arguments, Mapping) else ()
    return not (_SOURCES.isdisjoint(options) and _ARGUMENTS.isdisjoint(given))


def options_for(
    given: str, options: Mapping[str, Any], configured: str | None
) -> Mapping[str, Any]:
    """Return the configured engine options as they are for another URL than the configured one.

    Parameters
    ----------
    given : str
        The other URL. A password in it is the one that is used.
    options : mapping
        What is configured. A password in it is left out unless `given` leads to
        the configured server, as the configured user: no other is to see it.
    configured : str or None
        The configured URL; ``None`` if it is of no use. If it is of a SQLite file,
        which has no password, the options can only be meant for the other.

    Raises
    ------
    ConfigurationError
        If a URL cannot be parsed.
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
        kept["connect_args"] = {k: v for k, v in arguments.items() if k not in _ARGUMENTS}
    return kept


def _way(url: URL) -> tuple[object, ...]:
    """Return where a URL leads, and as whom."""
    port = url.port or backend_of(url).port
    host = None if url.host is None else url.host.lower()
    return (host, port, url.username, *(url.query.get(name) for name in _WHERE))
