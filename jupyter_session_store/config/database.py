"""The traits that name the database and how to reach it, for servers and commands.

Jupyter Server is not imported: it would double the time that a command takes to start.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any, NoReturn

from jupyter_core.paths import jupyter_data_dir
from traitlets import Dict, TraitError, TraitType, Unicode, default, validate
from traitlets.config import Configurable

from ..errors import ConfigurationError
from ..locations import clean, holds_password
from ..repository import SessionRepository, garbage_kept, load_repository
from . import SECTION

URL_VARIABLE = "JUPYTER_SESSION_STORE_URL"
OPTIONS_VARIABLE = "JUPYTER_SESSION_STORE_ENGINE_OPTIONS"


class _SaysNoValue(TraitType):  # type: ignore[type-arg]
    """A trait whose errors do not repeat its value, which may hold a password."""

    #: What is expected, in words.
    expected = ""

    def error(
        self, obj: Any, value: Any, error: Exception | None = None, info: str | None = None
    ) -> NoReturn:
        """Raise an error with the type that was found."""
        hint = " Remove the comma at the end of the line." if isinstance(value, tuple) else ""
        raise TraitError(
            f"c.{self.section}.{self.name} is of type {type(value).__name__}; expected "
            f"{self.expected}.{hint}"
        )

    def from_string_list(self, given: list[str]) -> Any:
        """Take the value that was given on the command line, and refuse a second."""
        if len(given) > 1:
            raise TraitError(
                f"c.{self.section}.{self.name} was given {len(given)} times; expected once."
            )
        return self.from_string(given[0])

    @property
    def section(self) -> str:
        """The section of the configuration in which users set it."""
        others = {"database_filepath": "SessionManager", "url": "StoreCommand"}
        return others.get(str(self.name), SECTION)


class SecretText(_SaysNoValue, Unicode):  # type: ignore[type-arg]
    """A text whose errors do not repeat it."""

    expected = "a string in quotes"

    def validate(self, obj: Any, value: Any) -> str:
        """Refuse bytes too, which the base decodes, and repeats where it cannot."""
        if not isinstance(value, str):
            self.error(obj, value)
        return value


class EngineOptions(_SaysNoValue, Dict):
    """A dict whose errors do not repeat it."""

    expected = "a dict of keyword arguments of sqlalchemy.create_engine"

    def from_string_list(self, given: list[str]) -> Any:
        """Take what was given on the command line, as any dict does."""
        try:
            return super(_SaysNoValue, self).from_string_list(given)
        except Exception:
            raise TraitError(
                f"c.{self.section}.{self.name} on the command line is no dict; expected "
                "key=value, or Python's way to write a dict."
            ) from None


class DatabaseSettings(Configurable):
    """The traits of :class:`.PersistentSessionManager` that a command reads too."""

    database_filepath = SecretText(
        help="""
        Where sessions are kept: the path of a SQLite file, ``:memory:``, or a
        database URL: ``sqlite:///``, ``postgresql://``, ``mysql://`` or
        ``mariadb://``. Special characters of a password are percent-encoded.
        By default the environment variable JUPYTER_SESSION_STORE_URL, else a
        file in Jupyter's data directory.
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

    def repository_class(self) -> type[SessionRepository]:
        """Return the class that the trait ``repository`` names, or raise a TraitError."""
        try:
            return load_repository(self.repository)
        except ConfigurationError as error:
            raise TraitError(str(error)) from error

    @default("database_filepath")
    def _default_database_filepath(self) -> str:
        given = os.environ.get(URL_VARIABLE)
        if given is not None and self.repository == "sqlalchemy":
            if not given or given.isspace():
                raise TraitError(
                    f"The environment variable {URL_VARIABLE} is empty; expected a path or a "
                    "database URL, or that it is not set: then the default is used."
                )
            # Traitlets does not validate defaults.
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
        url = clean(url)
        if holds_password(url) and any(url in argument for argument in sys.argv):
            raise TraitError(
                "c.SessionManager.database_filepath was given on the command line with a password, "
                "where others can read it; expected it in jupyter_server_config.py, in the "
                f"environment variable {URL_VARIABLE}, or the password in "
                "c.PersistentSessionManager.engine_options['password_file']."
            )
        try:
            # This may import a driver.
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
