"""Loading what the pages put into configuration files."""

from __future__ import annotations

import configparser
import importlib
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import yaml  # type: ignore[import-untyped]
from traitlets.config import Config, Configurable

from jupyter_session_store.config.settings import Settings

if sys.version_info >= (3, 11):
    import tomllib
else:
    # Alembic needs it there.
    import tomli as tomllib

#: Where the classes are whose settings the pages name.
_HOMES: Final = {
    "EventLogger": "jupyter_events.logger",
    "GatewayClient": "jupyter_server.gateway.gateway_client",
    "IdentityProvider": "jupyter_server.auth",
    "JupyterHub": "jupyterhub.app",
    "JupyterWebsocketPersonality": "kernel_gateway.jupyter_websocket",
    "KernelGatewayApp": "kernel_gateway.gatewayapp",
    "MappingKernelManager": "jupyter_server.services.kernels.kernelmanager",
    "PersistentGatewayKernelManager": "jupyter_session_store.gateway",
    "PersistentKernelManager": "jupyter_session_store.local",
    "PersistentSessionManager": "jupyter_session_store.manager",
    "ServerApp": "jupyter_server.serverapp",
    "SessionManager": "jupyter_server.services.sessions.sessionmanager",
    "Spawner": "jupyterhub.spawner",
}


def loaded(text: str) -> Config:
    """Return what a configuration file sets, as Jupyter loads it."""
    config = Config()
    exec(compile(text, "config.py", "exec"), {"c": config, "get_config": lambda: config})
    return config


def unknown_settings(config: Mapping[str, Any]) -> Iterator[str]:
    """Yield the settings that no class has."""
    for section, settings in config.items():
        home = _HOMES.get(section)
        if home is None:
            yield f"{section}: not in tests/docs/configuration.py"
            continue
        kind: type[Configurable] = getattr(importlib.import_module(home), section)
        traits = kind.class_traits(config=True)
        yield from (f"{section}.{name}" for name in settings if name not in traits)


def check_store(config: Config) -> None:
    """Check the values of the package's own settings; raises what a server would."""
    if {"PersistentSessionManager", "SessionManager"} & config.keys():
        settings = config.get("PersistentSessionManager", {})
        if settings.get("repository", "sqlalchemy") == "sqlalchemy":
            Settings.from_config(config)


def _parse_ini(text: str) -> None:
    configparser.ConfigParser(interpolation=None, strict=False).read_string(text)


PARSERS: Final[Mapping[str, Callable[[str], object]]] = {
    "ini": _parse_ini,
    "json": json.loads,
    "toml": tomllib.loads,
    "yaml": lambda text: list(yaml.safe_load_all(text)),
}
