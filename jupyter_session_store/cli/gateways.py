"""The name of the gateway whose sessions are imported."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from jupyter_server.gateway.gateway_client import GatewayClient

from ..config import SECTIONS
from ..errors import ConfigurationError
from ..kernels.gateway.naming import gateway_name_of

if TYPE_CHECKING:
    from traitlets.config import Config

#: Its constructor has no types.
_Client: Final[Any] = GatewayClient


def gateway_name(given: str, config: Config) -> str:
    """Return the name that servers give to a gateway, given its URL, its name or nothing.

    Nothing stands for the gateway of `config`, the servers' configuration.
    """
    if not given:
        return _configured(config)
    if "://" not in given:
        return given
    url, at, _host = given.rpartition("@")
    try:
        if not at:
            return gateway_name_of(given)
        # The name of a gateway on a loopback address is its URL, an @ and a host name.
        if gateway_name_of(url).rpartition("@")[0] == url:
            return given
    except ValueError:
        # The port is no number; it may be a password, which the error must not repeat.
        pass
    raise ConfigurationError(
        "--gateway is no URL of a gateway; expected http://HOST:PORT/PATH or https://, without a "
        "user and a password, which are no part of its name."
    )


def is_setting(name: str) -> bool:
    """Return whether a server's gateway has a setting of this name."""
    return name in _Client.class_trait_names(config=True)


def _configured(config: Config) -> str:
    for section in reversed(SECTIONS):
        if "gateway_name" in config[section]:
            return str(config[section].gateway_name)
    url = _Client(config=config).url
    if not url:
        raise ConfigurationError(
            "This configuration names no gateway. Sessions on a server's own kernels have ended "
            "with it, and are not worth importing; for those on a gateway expected "
            "--gateway URL, or c.GatewayClient.url. Nothing was changed."
        )
    return gateway_name_of(url)
