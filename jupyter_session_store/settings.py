"""The settings of the store as Jupyter's configuration has them, without a server.

For Alembic's environment: a migration changes the database that the servers
of this machine use, reached in the same way.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jupyter_core.application import JupyterApp

from .errors import ConfigurationError
from .traits import StoreSettings, holds_password


class _ServerConfig(JupyterApp):
    """Finds and loads the files that a Jupyter Server would."""

    name = "jupyter-server"
    config_file_name = "jupyter_server_config"
    raise_config_file_errors = True


#: The traits without a server behind them, under the name that their section has in a config file.
_Reader = type("PersistentSessionManager", (StoreSettings,), {"close": lambda self: None})


@dataclass(frozen=True)
class Settings:
    """Which database, and how to reach it.

    Parameters
    ----------
    url : str
        As in ``SessionManager.database_filepath``.
    engine_options : mapping
        As in ``PersistentSessionManager.engine_options``.
    """

    url: str = field(repr=False)
    engine_options: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @classmethod
    def from_jupyter(cls, url: str | None = None) -> Settings:
        """Read Jupyter Server's configuration files and the environment.

        Parameters
        ----------
        url : str, optional
            Used instead of the configured one.

        Raises
        ------
        TraitError
            If a setting is wrong.
        """
        app = _ServerConfig()
        app.load_config_file()
        reader = _Reader(config=app.config)
        return cls(url or reader.database_filepath, reader.engine_options)

    @classmethod
    def from_argument(cls, given: str) -> Settings:
        """Take the URL from what was typed: ``env:NAME``, ``file:PATH`` or a URL.

        Raises
        ------
        ConfigurationError
            If the variable or the file is not there, or a URL with a password
            was typed: other users of the machine can read it in the list of processes.
        """
        kind, _, where = given.partition(":")
        if kind == "env":
            url = os.environ.get(where)
            if not url:
                raise ConfigurationError(
                    f"The environment variable {where!r} is not set; expected a database URL in it."
                )
        elif kind == "file" and not where.startswith("//"):
            try:
                url = Path(where).read_text(encoding="utf-8").strip()
            except (OSError, ValueError) as error:
                raise ConfigurationError(
                    f"The file {where!r} cannot be read ({type(error).__name__}); expected a "
                    "database URL in it, in UTF-8."
                ) from None
        else:
            url = given
            if holds_password(url):
                raise ConfigurationError(
                    "A URL with a password was given on the command line, where others can read "
                    "it; expected url=env:NAME (an environment variable), url=file:PATH, or a "
                    "URL without its password."
                )
        return cls.from_jupyter(url)
