"""The settings of the database, read without a server: for the command line and Alembic.

Both reach the database that the servers of this machine use, in the same way.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from jupyter_core.application import JupyterApp
from traitlets import TraitError
from traitlets.config import Config

from ..errors import ConfigurationError
from ..locations import TRAIT, clean, holds_credentials, holds_password, named
from ..repository import SessionRepository
from . import SECTION, SECTIONS
from .database import DatabaseSettings


class _ServerConfig(JupyterApp):
    """Loads the configuration files of a Jupyter Server."""

    name = "jupyter-server"
    config_file_name = "jupyter_server_config"
    raise_config_file_errors = True


class _ConfiguredDatabase(DatabaseSettings):
    """The settings of the database, read from a configuration without a session manager."""

    @classmethod
    def read(cls, config: Config) -> _ConfiguredDatabase:
        """Read the sections that a session manager reads, without its other settings."""
        names = cls.class_trait_names(config=True)
        found: dict[str, Any] = {}
        for section in SECTIONS:
            found |= {name: value for name, value in config[section].items() if name in names}
        return cls(config=Config({SECTION: found}))


def other_repository(config: Config) -> SessionRepository | None:
    """Return the configured repository, not opened, if it is not the one for databases."""
    reader = _ConfiguredDatabase.read(config)
    if reader.repository == "sqlalchemy":
        return None
    return reader.repository_class()(
        reader.database_filepath,
        options=reader.engine_options,
        auto_upgrade="never",
        log=logging.getLogger(__name__),
    )


# Traitlets takes the section, and the name in its errors, from the class.
_ConfiguredDatabase.__name__ = SECTION


@dataclass(frozen=True)
class Settings:
    """A database and its engine options, as the settings of a server name them.

    `source` is what errors call the place at which the URL was typed.
    """

    url: str = field(repr=False)
    engine_options: Mapping[str, Any] = field(default_factory=dict, repr=False)
    source: str = TRAIT

    @classmethod
    def from_jupyter(cls, url: str | None = None) -> Settings:
        """Read Jupyter Server's configuration files, then do as :meth:`from_config`."""
        app = _ServerConfig()
        app.load_config_file()
        return cls.from_config(app.config, url)

    @classmethod
    def from_config(cls, config: Config, url: str | None = None) -> Settings:
        """Read a configuration and the environment; `url` replaces the configured one."""
        reader = _ConfiguredDatabase.read(config)
        if url is None and reader.repository != "sqlalchemy":
            raise ConfigurationError(
                f"c.PersistentSessionManager.repository is {reader.repository!r}, which keeps its "
                "sessions in its own way; expected 'sqlalchemy'. Name a database instead of the "
                "configured one: --url"
            )
        if url is None:
            return cls(reader.database_filepath, reader.engine_options)
        return cls(url, _options_for(url, reader))

    @classmethod
    def from_argument(
        cls, argument: str, config: Config | None = None, source: str = "The URL that was given"
    ) -> Settings:
        """Resolve an argument: ``env:NAME``, ``file:PATH``, or a URL or path without a password.

        The engine options are those of `config`, by default of Jupyter Server's own files.
        """
        # Late: it imports SQLAlchemy.
        from ..sql.engine.url import parse

        url = _resolve_url(argument)
        with named(source):
            parse(url)
        found = cls.from_jupyter(url) if config is None else cls.from_config(config, url)
        return replace(found, source=source)


def _options_for(url: str, reader: _ConfiguredDatabase) -> Mapping[str, Any]:
    """Return the engine options for another URL; passwords stay with their own database."""
    from ..sql.engine import passwords

    options: Mapping[str, Any] = reader.engine_options
    if not passwords.hold_password(options):
        # The configured URL is not read: it may be invalid, and --url given for that reason.
        return options
    configured = None
    if reader.repository == "sqlalchemy":
        with suppress(TraitError):
            configured = reader.database_filepath
    return passwords.options_for(url, options, configured)


def _resolve_url(given: str) -> str:
    if not given:
        raise ConfigurationError(
            "The URL that was given is empty; expected env:NAME (an environment variable), "
            "file:PATH (a file), or a path or URL without a password."
        )
    kind, colon, where = given.partition(":")
    if kind in ("env", "file") and not (colon and where):
        raise ConfigurationError(
            f"Found {given!r}; expected env: and the name of an environment variable, or file: and "
            f"the path of a file, in which the URL is. A path of that name: './{given}'"
        )
    if kind in ("env", "file") and holds_credentials(where):
        raise ConfigurationError(
            f"What stands after {kind}: looks like a URL; expected env: and the name of an "
            "environment variable, or file: and the path of a file, in which the URL is."
        )
    if kind == "env":
        url = os.environ.get(where)
        if not url or url.isspace():
            raise ConfigurationError(
                f"The environment variable {where!r} is {'not set' if url is None else 'empty'}; "
                "expected a database URL in it."
            )
        return clean(url)
    if kind == "file" and not where.startswith("//"):
        try:
            url = Path(where).read_text(encoding="utf-8").strip()
        except (OSError, ValueError) as error:
            raise ConfigurationError(
                f"The file {where!r} cannot be read ({type(error).__name__}); expected a "
                "database URL in it, in UTF-8."
            ) from None
        if not url:
            raise ConfigurationError(f"The file {where!r} is empty; expected a database URL in it.")
        return url
    if holds_password(given):
        raise ConfigurationError(
            "A URL with a password was given on the command line, where others can read "
            "it; expected env:NAME (an environment variable), file:PATH (a file), or a "
            "URL without its password."
        )
    return given
