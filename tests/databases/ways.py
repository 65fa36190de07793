"""Which way a server is got, and what to say where there is none."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Final

from .database import DRIVER_ERRORS
from .docker import Container
from .mysql import LocalMySQL
from .postgresql import LocalPostgreSQL
from .server import TITLES, Instance, NoDatabase, Server

_PROGRAMS: Final[dict[str, Callable[[], Instance]]] = {
    "postgresql": LocalPostgreSQL,
    "mysql": LocalMySQL,
}

_PACKAGES: Final = {
    "postgresql": "apt-get install postgresql; brew install postgresql",
    "mysql": "apt-get install mariadb-server; brew install mariadb",
}


def shared_server(kind: str) -> Server:
    """Return a server in which many tests have their databases.

    Raises
    ------
    NoDatabase
        If there is none.
    """
    variable = _variable(kind)
    url = os.environ.get(variable)
    if not url:
        return private_server(kind)
    if "://" not in url:
        raise NoDatabase(f"{variable} is no URL of the form {kind}://user:password@host/database.")
    server = Server(kind, url, variable)
    try:
        server.version()
    except (*DRIVER_ERRORS, TypeError, ValueError) as error:
        raise NoDatabase(
            f"{variable} names a server that cannot be used: {type(error).__name__}: {error}"
        ) from None
    return server


def private_server(kind: str) -> Instance:
    """Return a server that was started for the caller, who closes it.

    Raises
    ------
    NoDatabase
        If none can be started.
    """
    tried = []
    if os.environ.get("JSS_TEST_DOCKER") != "1":
        try:
            return _PROGRAMS[kind]()
        except NoDatabase as error:
            tried.append(str(error))
    try:
        return Container(kind)
    except NoDatabase as error:
        tried.append(str(error))
    reasons = "\n".join(f"  - {reason}" for reason in tried)
    raise NoDatabase(
        f"There is no {TITLES[kind]} for the tests, and none is skipped. What was tried:\n"
        f"{reasons}\n"
        "One of these will do:\n"
        f"  - set {_variable(kind)} to {kind}://user:password@host/database, with a user who "
        "may create databases (the tests that stop and kill a server need another way)\n"
        f"  - install the server, it need not run: {_PACKAGES[kind]}\n"
        "  - start Docker"
    )


def _variable(kind: str) -> str:
    return f"JSS_TEST_{kind.upper()}_URL"
