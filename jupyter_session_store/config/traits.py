"""The manager's settings: what users may type, and what is refused at start."""

from __future__ import annotations

import os
from typing import Any

from jupyter_server.services.sessions.sessionmanager import SessionManager
from traitlets import Enum, Float, Int, TraitError, Unicode, default, validate

from ..errors import ConfigurationError
from ..kernels.gateway.naming import check_gateway_name, gateway_name_of
from ..records import LIMITS
from ..repository import CONNECTION_IDLE_SECONDS
from .database import DatabaseSettings, SecretText
from .namespaces import hub_namespace, namespace_fault, storable
from .secrets import hide_secrets

# An application that selects this class imports it while it loads its configuration, and logs
# the whole of that afterwards with --debug.
hide_secrets()

#: Seconds; a shorter lease would be lost to a busy machine.
SHORTEST_LEASE = 3
LONGEST_LEASE = 86_400


class StoreSettings(DatabaseSettings, SessionManager):
    """The traits of :class:`.PersistentSessionManager`, their defaults and their checks."""

    namespace = Unicode(
        help="""
        Whose sessions these are. A server sees no sessions of other
        namespaces. Servers of one namespace share the sessions of kernels on
        a gateway; sessions of kernels beside a server are its own. By default
        the user and the server name under JupyterHub, else the path of the
        server's root directory: two machines or containers with one path, one
        database and one gateway are then one tenant, and list and delete each
        other's sessions. Set it wherever a database is shared without a hub.
        """
    ).tag(config=True)

    #: Whether the namespace is a directory's path, which another host may have as well.
    has_default_namespace = False

    lease_seconds = Int(
        90,
        help="""
        Seconds after which the other servers of the namespace take this one
        for dead if it has not renewed its registration, which it does three
        times a lease. At least 3.
        """,
    ).tag(config=True)

    connection_idle_seconds = Float(
        CONNECTION_IDLE_SECONDS,
        help="""
        Seconds that the connection to the database is kept without use.
        Above a third of ``lease_seconds`` it is kept for good, since each
        renewal uses it. That saves a log-in for each renewal. Set it so with
        few servers, or with a pooler before the database. More than 0.
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
        ``jupyter session-store upgrade``.
        """,
    ).tag(config=True)

    gateway_name = SecretText(
        help="""
        The name of the gateway that hosts the kernels, equal on every server
        that uses it. By default its normalised URL without credentials,
        completed by the host's name where it is a loopback address.
        """
    ).tag(config=True)

    @default("namespace")
    def _default_namespace(self) -> str:
        user = os.environ.get("JUPYTERHUB_USER")
        if user:
            return hub_namespace(user, os.environ.get("JUPYTERHUB_SERVER_NAME", ""))
        root = getattr(self.parent, "root_dir", None) or self.kernel_manager.root_dir
        # The directory's bytes, whatever encoding this server's locale names.
        raw = os.fsencode(os.path.abspath(root))
        self.has_default_namespace = True
        return storable(f"dir:{raw.decode(errors='surrogateescape')}")

    @validate("namespace")
    def _validate_namespace(self, proposal: Any) -> str:
        return self._checked_namespace(proposal["value"])

    def _checked_namespace(self, value: str) -> str:
        fault = namespace_fault(value)
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

    @validate("claim_timeout", "connection_idle_seconds")
    def _validate_seconds(self, proposal: Any) -> float:
        seconds: float = proposal["value"]
        if not 0 < seconds <= LONGEST_LEASE:
            raise TraitError(
                f"c.PersistentSessionManager.{proposal['trait'].name} is {seconds:g}; expected "
                f"more than 0 and at most {LONGEST_LEASE} seconds."
            )
        return seconds

    @default("gateway_name")
    def _default_gateway_name(self) -> str:
        from jupyter_server.gateway.gateway_client import GatewayClient

        try:
            return gateway_name_of(GatewayClient.instance().url or "")
        except ConfigurationError as error:
            raise TraitError(str(error)) from None

    @validate("gateway_name")
    def _validate_gateway_name(self, proposal: Any) -> str:
        name: str = proposal["value"]
        try:
            check_gateway_name(name)
        except ConfigurationError as error:
            raise TraitError(str(error)) from None
        return name
