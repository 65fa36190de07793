"""The manager's settings: what users may type, and what is refused at start."""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
from typing import Any, Final, NoReturn
from urllib.parse import parse_qsl, quote

from jupyter_core.paths import jupyter_data_dir
from jupyter_server.services.sessions.sessionmanager import SessionManager
from traitlets import Dict, Enum, Float, Int, TraitError, Unicode, default, validate

from .errors import ConfigurationError, InvalidValue
from .kernels import gateway_name_of
from .records import LIMITS, check_text
from .repository import SessionRepository, garbage_kept, load_repository

URL_VARIABLE = "JUPYTER_SESSION_STORE_URL"
OPTIONS_VARIABLE = "JUPYTER_SESSION_STORE_ENGINE_OPTIONS"

#: As SQLAlchemy reads a URL: in a password only an "@" has to be encoded.
_USER_AND_PASSWORD: Final = re.compile(r"[^:/]*://[^:/]*:[^@]*@")

#: Seconds; a shorter lease would be lost to a busy machine.
SHORTEST_LEASE = 3
LONGEST_LEASE = 86_400


class EngineOptions(Dict):
    """A dict whose value, which may hold a password, is in no error."""

    def error(
        self, obj: Any, value: Any, error: Exception | None = None, info: str | None = None
    ) -> NoReturn:
        """Say what type was found."""
        raise TraitError(
            f"c.PersistentSessionManager.engine_options is of type {type(value).__name__}; "
            "expected a dict of keyword arguments of sqlalchemy.create_engine."
        )


class StoreSettings(SessionManager):
    """The traits of :class:`.PersistentSessionManager`, their defaults and their checks."""

    database_filepath = Unicode(
        help="""
        Where sessions are kept: the path of a SQLite file, ``:memory:``, or a
        database URL: ``sqlite:///``, ``postgresql://``, ``mysql://`` or
        ``mariadb://``. Special characters of a password are percent-encoded.
        By default the environment variable JUPYTER_SESSION_STORE_URL, else a
        file in Jupyter's data directory.
        """
    ).tag(config=True)

    namespace = Unicode(
        help="""
        Whose sessions these are. Servers of one namespace share their
        sessions; all others' are invisible. By default the user and the server
        name under JupyterHub, else the server's root directory.
        """
    ).tag(config=True)

    repository = Unicode(
        "sqlalchemy",
        help="""
        What keeps the sessions: a name in the entry-point group
        jupyter_session_store.repositories. ``sqlalchemy`` and ``memory`` are
        always there.
        """,
    ).tag(config=True)

    engine_options = EngineOptions(
        key_trait=Unicode(),
        help="""
        Keyword arguments of sqlalchemy.create_engine (connect_args among
        them), and password_file or password_provider, read at each connect.
        By default the JSON object in the environment variable
        JUPYTER_SESSION_STORE_ENGINE_OPTIONS.
        """,
    ).tag(config=True)

    lease_seconds = Int(
        90,
        help="""
        Seconds after which the other servers of the namespace take this one
        for dead if it has not renewed its registration, which it does three
        times a lease. At least 3.
        """,
    ).tag(config=True)

    claim_timeout = Float(
        60.0,
        help="""
        Seconds that a request waits for a session that another server is
        creating at the same path, with its kernel on a gateway. Then it is
        answered with 503. More than 0.
        """,
    ).tag(config=True)

    auto_upgrade = Enum(
        ["safe", "always", "never"],
        default_value="safe",
        help="""
        Whether a server may bring the schema to the newest at start.
        ``safe``: an empty database and a SQLite file. ``always``: a database
        server that is behind, too. ``never``: leave it all to
        ``alembic upgrade head``.
        """,
    ).tag(config=True)

    gateway_name = Unicode(
        help="""
        The name of the gateway that hosts the kernels, equal on every server
        that uses it. By default its normalised URL without credentials,
        completed by the host's name where it is a loopback address.
        """
    ).tag(config=True)

    def repository_class(self) -> type[SessionRepository]:
        """Return the class that the trait ``repository`` names.

        Raises
        ------
        TraitError
            If there is none of that name.
        """
        try:
            return load_repository(self.repository)
        except ConfigurationError as error:
            raise TraitError(str(error)) from error

    @default("database_filepath")
    def _default_database_filepath(self) -> str:
        given = os.environ.get(URL_VARIABLE)
        if given and self.repository == "sqlalchemy":
            # A default is not validated by traitlets.
            return self._checked(given)
        data_dir = jupyter_data_dir()
        url = self.repository_class().default_url(data_dir)
        if url.startswith(data_dir):
            os.makedirs(data_dir, mode=0o700, exist_ok=True)
        return url

    @validate("database_filepath")
    def _validate_database_filepath(self, proposal: Any) -> str:
        return self._checked(proposal["value"])

    def _checked(self, url: str) -> str:
        if holds_password(url) and any(url in argument for argument in sys.argv):
            raise TraitError(
                "c.SessionManager.database_filepath was given on the command line with a password, "
                "where others can read it; expected it in jupyter_server_config.py, in the "
                f"environment variable {URL_VARIABLE}, or the password in "
                "c.PersistentSessionManager.engine_options['password_file']."
            )
        try:
            # It may import a database's driver.
            with garbage_kept():
                self.repository_class().validate_url(url)
        except ConfigurationError as error:
            raise TraitError(str(error)) from None
        return url

    @default("engine_options")
    def _default_engine_options(self) -> dict[str, Any]:
        given = os.environ.get(OPTIONS_VARIABLE)
        if not given or self.repository != "sqlalchemy":
            return {}
        try:
            options = json.loads(given)
        except ValueError as error:
            raise TraitError(
                f"{OPTIONS_VARIABLE} is not JSON ({error}); expected an object, for example "
                '{"pool_size": 1}.'
            ) from None
        if not isinstance(options, dict):
            raise TraitError(
                f"{OPTIONS_VARIABLE} holds a {type(options).__name__}; expected a JSON object."
            )
        return options

    @default("namespace")
    def _default_namespace(self) -> str:
        user = os.environ.get("JUPYTERHUB_USER")
        if user:
            # Neither part holds a slash once it is quoted, so no two pairs collide.
            server = os.environ.get("JUPYTERHUB_SERVER_NAME", "")
            name = f"hub:{_quoted(user)}/{_quoted(server)}"
        else:
            root = getattr(self.parent, "root_dir", None) or self.kernel_manager.root_dir
            # The directory's bytes, whatever encoding this server's locale names.
            raw = os.fsencode(os.path.abspath(root))
            name = f"dir:{raw.decode(errors='surrogateescape')}"
        if _namespace_fault(name) is None:
            return name
        whole = name.encode(errors="surrogateescape")
        return f"{name[:3]}-sha256:{hashlib.sha256(whole).hexdigest()}"

    @validate("namespace")
    def _validate_namespace(self, proposal: Any) -> str:
        return self._checked_namespace(proposal["value"])

    def _checked_namespace(self, value: str) -> str:
        fault = _namespace_fault(value)
        if fault is not None:
            raise TraitError(
                f"c.PersistentSessionManager.namespace {fault}; expected 1 to "
                f"{LIMITS['namespace']} characters without white space at the edges."
            )
        return value

    @validate("lease_seconds")
    def _validate_lease_seconds(self, proposal: Any) -> int:
        seconds: int = proposal["value"]
        if not SHORTEST_LEASE <= seconds <= LONGEST_LEASE:
            raise TraitError(
                f"c.PersistentSessionManager.lease_seconds is {seconds}; expected "
                f"{SHORTEST_LEASE} to {LONGEST_LEASE} seconds."
            )
        return seconds

    @validate("claim_timeout")
    def _validate_claim_timeout(self, proposal: Any) -> float:
        seconds: float = proposal["value"]
        if not 0 < seconds <= LONGEST_LEASE:
            raise TraitError(
                f"c.PersistentSessionManager.claim_timeout is {seconds:g}; expected more than "
                f"0 and at most {LONGEST_LEASE} seconds."
            )
        return seconds

    @default("gateway_name")
    def _default_gateway_name(self) -> str:
        from jupyter_server.gateway.gateway_client import GatewayClient

        return gateway_name_of(GatewayClient.instance().url or "")


def _quoted(text: str) -> str:
    return quote(os.fsencode(text), safe="")


def holds_password(url: str) -> bool:
    """Return whether a URL holds a password, in its place or among its parameters."""
    if _USER_AND_PASSWORD.match(url):
        return True
    names = [name.lower() for name, _ in parse_qsl(url.partition("?")[2])]
    return "://" in url and any("pass" in name and name != "passfile" for name in names)


def _namespace_fault(value: str) -> str | None:
    if not value:
        return "is empty"
    if value != value.strip():
        return "has white space at its edges"
    try:
        check_text("namespace", value)
    except InvalidValue as error:
        return str(error)
    return None
