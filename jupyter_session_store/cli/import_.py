"""Take over a stock manager's SQLite file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from traitlets import Unicode

from ..config import SECTIONS
from ..errors import ConfigurationError
from ..kernels.gateway.naming import check_gateway_name, gateway_authority_of, gateway_name_of
from ..records import Scope, check_namespace
from .command import ExitCode, StoreCommand
from .transfer import TransferCommand, count_fields, progress

if TYPE_CHECKING:
    import sqlite3

    from sqlalchemy import Connection
    from traitlets.config import Config


class Import(TransferCommand):
    name = "jupyter-session-store import"
    description = """
    Copy the sessions of a SQLite file that Jupyter Server's own session manager
    has made into the configured database, or that of --url, for a namespace.
    A database without tables gets them.

    Only sessions whose kernels run on a gateway: those of a server's own
    kernels have ended with that server. The gateway is the configured one,
    unless --gateway names another.

    The file is only read; stop the server that uses it first. What is no
    session (without an id or a kernel, doubled, or not text) is left out, and
    counted. It only adds, and can be run again: what is there already stays as
    it is. At the end every session of the file is looked for: the exit code is
    1 if one is missing.
    """
    examples = """
    jupyter session-store import sessions.db --namespace hub:alice/
    jupyter session-store import sessions.db --namespace hub:alice/ --dry-run
    jupyter session-store import sessions.db --namespace dir:/home/bob \\
        --gateway https://gateway.example.org --url env:DB_URL
    """
    arguments = {"FILE": "The file of the stock manager."}
    aliases = {
        **StoreCommand.aliases,
        "namespace": "Import.namespace",
        "gateway": "Import.gateway",
    }

    namespace = Unicode(
        help="""
        Whose sessions these are to be; required. By default a server's is
        hub:USER/SERVER under JupyterHub, else dir: and its root directory.
        """
    ).tag(config=True)
    gateway = Unicode(
        help="""
        The gateway that has the kernels: its URL, without a password, or what
        c.PersistentSessionManager.gateway_name says. By default that of this
        configuration.
        """
    ).tag(config=True)

    def accepts_setting(self, section: str, name: str) -> bool:
        """Return whether a setting is an option: those of the gateway are, too."""
        if section == "GatewayClient":
            return name in _gateway_client().class_trait_names(config=True)
        if name == "gateway_name":
            return section in SECTIONS
        return super().accepts_setting(section, name)

    def run(self) -> ExitCode:
        from ..sql.admin import importing

        if not self.namespace:
            raise ConfigurationError(
                "Found no --namespace; expected that of the servers which are to show the "
                "sessions, as it stands in: jupyter session-store servers"
            )
        check_namespace(self.namespace)
        gateway = _gateway_name(self.gateway, self.config)
        scope = Scope(self.namespace, gateway_authority_of(gateway))
        file = Path(self.extra_args[0])
        self._refuse_same_file(file)
        with importing.open_file(file) as raw, self.open_target(self.url) as target:
            return self._import(raw, file, scope, target)

    def _refuse_same_file(self, file: Path) -> None:
        from ..sql.engine.url import parse, sqlite_file

        target = sqlite_file(parse(self.settings().url))
        if target is not None and target.exists() and file.exists() and target.samefile(file):
            raise ConfigurationError(
                f"The file {str(file)!r} is the database that its sessions would be imported into; "
                "expected another, or nothing to do: the first server that uses it takes them over."
            )

    def _import(
        self, raw: sqlite3.Connection, file: Path, scope: Scope, target: Connection | None
    ) -> ExitCode:
        from ..sql.admin import importing

        where = {"from": f"stock file {str(file)!r}", "to": self.database_name}
        expected = importing.count(raw, scope)
        self.output.text(
            f"{'Would import' if self.dry_run else 'Importing'} {expected.added} sessions from the "
            f"{where['from']} to {where['to']}, for the namespace {scope.namespace!r} and the "
            f"authority {scope.authority!r}."
        )
        if target is None:
            self.output.text("Would make the tables there.")
            imported = expected
        else:
            with progress(expected.read, "imported") as advance:
                imported = importing.take_over(
                    raw, target, scope, advance=advance, tell=self.note, dry_run=self.dry_run
                )
        values = {**where, **count_fields(imported, "imported")}
        if target is None or self.dry_run:
            return self.report_dry_run(values, imported)
        missing = importing.count_missing(raw, target, scope)
        return self.report(values, imported, expected.added, missing, "sessions")


def _gateway_name(given: str, config: Config) -> str:
    """Return the name that servers give to a gateway, given its URL, its name or nothing.

    Nothing stands for the gateway of `config`, the servers' configuration.
    """
    if not given:
        return _configured_gateway_name(config)
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


def _configured_gateway_name(config: Config) -> str:
    for section in reversed(SECTIONS):
        if "gateway_name" in config[section]:
            name = str(config[section].gateway_name)
            check_gateway_name(name)
            return name
    url = _gateway_client()(config=config).url
    if not url:
        raise ConfigurationError(
            "This configuration names no gateway. Sessions on a server's own kernels have ended "
            "with it, and are not worth importing; for those on a gateway expected "
            "--gateway URL, or c.GatewayClient.url. Nothing was changed."
        )
    return gateway_name_of(url)


def _gateway_client() -> Any:
    """Return the class of a server's gateway, imported late; its constructor has no types."""
    from jupyter_server.gateway.gateway_client import GatewayClient

    return GatewayClient
