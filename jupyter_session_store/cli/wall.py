"""Keep the users of one PostgreSQL apart."""

from __future__ import annotations

import re
import shlex
from typing import TYPE_CHECKING, Any, ClassVar, Final

from traitlets import Bool, Unicode

from ..config.namespaces import hub_prefix
from ..errors import ConfigurationError
from ..records import check_namespace, check_text
from .command import JSON_FLAG, YES_FLAGS, ExitCode, StoreCommand
from .command_line import print_error
from .findings import report_findings
from .output import format_value

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Connection

    from ..sql.admin.walling import Plan
    from ..sql.schema.tenants import Grant

#: The longest name of a role, in bytes: PostgreSQL would cut it.
_ROLE_BYTES: Final = 63
#: What looks like a pattern; a percent sign begins the code of a character in a hub's namespace.
_WILDCARD: Final = re.compile(r"[*?]|%(?![0-9A-Fa-f]{2})")
#: Which options go with which action.
_OPTIONS: Final = {
    "": ("apply", "group"),
    "grant": ("role", "user"),
    "revoke": ("role", "user"),
    "check": (),
}


class Wall(StoreCommand):
    name = "jupyter-session-store wall"
    description = """
    Keep the users of one PostgreSQL apart, by policies: a role has the rows of
    the namespaces that it has been granted, and no others, whatever SQL it runs.

    Without an action it shows the SQL, for an administrator; with --apply it
    runs it, or what is missing of it, in one transaction under the migration
    lock. It makes a group role, a table that says which role has which
    namespaces, two functions, and policies on the tables. From then on a role
    without a grant sees nothing, except the owner of the tables, superusers and
    roles with BYPASSRLS, which an operator needs.

    grant lets a role have namespaces, and puts it into the group; the role has
    to be there. revoke takes them away, without NAMESPACE all; a role without
    any leaves the group. A namespace is taken as it is written: there are no
    wildcards. check examines the wall, and what could go round it.

    Asks before it changes anything. Other databases have no such policies:
    there it is refused.
    """
    examples = """
    jupyter session-store wall > wall.sql                # for an administrator
    jupyter session-store wall --apply
    jupyter session-store wall grant --user ada --role ada
    jupyter session-store wall grant hub:ada/ hub:ada/gpu --role ada --yes
    jupyter session-store wall revoke --role ada
    jupyter session-store wall check --json
    """
    arguments = {
        "ACTION": "grant, revoke or check; without one it is the wall itself.",
        "NAMESPACE...": "The namespaces to grant or to revoke, as they are stored.",
    }
    optional_arguments = 2
    aliases = {
        **StoreCommand.aliases,
        **{name: f"Wall.{name}" for name in ("role", "user", "group")},
    }
    flags = {
        **StoreCommand.flags,
        **YES_FLAGS,
        **JSON_FLAG,
        "apply": ({"Wall": {"apply": True}}, "Run the SQL instead of showing it."),
        "dry-run": (
            {"Wall": {"dry_run": True}},
            "Say what would be changed, and change nothing.",
        ),
    }

    apply = Bool(False, help="Run the SQL instead of showing it.").tag(config=True)
    dry_run = Bool(False, help="Say what would be changed, and change nothing.").tag(config=True)
    role = Unicode(help="The role that gets or loses namespaces, as it is called.").tag(config=True)
    user = Unicode(
        help="""
        All namespaces of this user of JupyterHub: that of the default server, and
        those of the named ones, also of ones that are made later.
        """
    ).tag(config=True)
    group = Unicode(
        help="""
        The name of the group role, if there is no wall yet: jupyter_users by
        default.
        """
    ).tag(config=True)

    _MAY: ClassVar = "Only a role that has been granted a namespace has its rows then."

    def run(self) -> ExitCode:
        action, *names = self.extra_args or [""]
        if action not in _OPTIONS:
            expected = ", ".join(filter(None, _OPTIONS))
            raise ConfigurationError(
                f"Found {action!r}; expected one of {expected}, or no action. Nothing was "
                f"changed. See: {self._help}"
            )
        for option in ("apply", "group", "role", "user"):
            if getattr(self, option) and option not in _OPTIONS[action]:
                where = f"wall {action}" if action else "wall without an action"
                raise ConfigurationError(
                    f"Found --{option} with {where}, which has no such option. Nothing was "
                    f"changed. See: {self._help}"
                )
        if names and action == "check":
            raise ConfigurationError(
                f"Found {names[0]!r} after check; expected nothing. See: {self._help}"
            )
        self._refuse_other_databases()
        if not action:
            return self._apply() if self.apply else self._show()
        if action == "check":
            return self._check()
        return self._change(action, names)

    def _refuse_other_databases(self) -> None:
        from ..sql.engine.backend import backend_of
        from ..sql.engine.url import parse

        backend = backend_of(parse(self.settings().url))
        if backend.no_wall is not None:
            raise ConfigurationError(
                f"The database ({self.database_name}) cannot have a wall between users: "
                f"{backend.no_wall}; expected PostgreSQL. Nothing was changed. Give each user, or "
                "each group that trusts itself, a database of its own instead."
            )

    def _show(self) -> ExitCode:
        from ..sql.schema import wall

        with self.connection() as connection:
            found = wall.look(connection, self.group)
        statements = wall.script(found.facts)
        if self.as_json:
            self.output.one(
                {
                    "database": self.database_name,
                    "stands": found.stands,
                    "gaps": [*found.gaps],
                    "statements": statements,
                }
            )
            return ExitCode.DONE
        self.output.text(f"-- The wall between users of {self.database_name}.")
        for statement in statements:
            self.output.text(statement)
        return ExitCode.DONE

    def _apply(self) -> ExitCode:
        from ..sql.admin import admin_connection
        from ..sql.schema import wall

        database = self.database_name
        with self.database() as engine:
            with admin_connection.connected(engine) as connection:
                self.require_usable(connection, None)
                found = wall.look(connection, self.group)
                if not found.stands:
                    wall.refuse_if_unable(connection, found.facts)
            before = found
            if not found.stands and not self.dry_run:
                verb = "Mend" if found.exists else "Make"
                if not self.confirm(
                    f"{verb} the wall between users in {database}, for the members of "
                    f"{found.facts.group}? {self._MAY}"
                ):
                    return ExitCode.NO
                self.interrupt_message = (
                    "The wall is made as a whole, or not at all: look with `jupyter session-store "
                    "wall check`."
                )
                found = wall.make(engine, self.group, self.log)
        self._report_wall(before, found)
        return ExitCode.DONE if found.stands or self.dry_run else ExitCode.NO

    def _report_wall(self, before: Any, after: Any) -> None:
        from ..sql.schema import wall

        database = self.database_name
        todo = [] if before.stands else wall.statements(before.facts)
        if self.as_json:
            self.output.one(
                {
                    "database": database,
                    "dry_run": self.dry_run,
                    "stands": after.stands,
                    "gaps": [*after.gaps],
                    "statements": todo,
                }
            )
        elif before.stands:
            self.output.text(f"The wall in {database} stands: nothing to do.")
        elif self.dry_run:
            for one in before.gaps:
                self.output.text(f"It lacks: {one}")
            self.output.text(f"Would run {len(todo)} statement(s) in {database}:")
            for statement in todo:
                self.output.text(statement)
        elif after.stands:
            self.output.text(f"The wall in {database} stands. {self._MAY}")
        for one in () if self.dry_run else after.gaps:
            self.note(f"The wall has a gap: {one}.")

    def _check(self) -> ExitCode:
        from ..sql.admin import admin_connection, walling
        from ..sql.doctor import Verdict, examine_wall

        with self.database() as engine:
            with admin_connection.connected(engine) as connection:
                self.require_usable(connection, None)
                walling.refuse_if_confined(connection)
            found = report_findings(self, examine_wall(engine))
        failed = any(one.verdict is Verdict.FAILED for one in found)
        return ExitCode.NO if failed else ExitCode.DONE

    def _change(self, action: str, names: Sequence[str]) -> ExitCode:
        from ..sql.admin import walling
        from ..sql.schema.tenants import Grant

        given = [Grant(self.role, *one) for one in self._given(action, names)]
        with self.connection() as connection:
            try:
                if action == "grant":
                    plan = walling.plan_grant(connection, self.role, given)
                else:
                    plan = walling.plan_revocation(connection, self.role, given or None)
                if not (plan.changed or plan.statement) or self.dry_run:
                    self._report_change(action, plan, 0)
                    return self._report_left(connection, action, plan, given)
                if not self.confirm(self._question(action, plan)):
                    return ExitCode.NO
                self.interrupt_message = "It is done as a whole, or not at all."
                do = walling.grant if action == "grant" else walling.revoke
                count = do(connection, plan)
                if action == "revoke" and plan.statement and walling.is_member(connection, plan):
                    self.note(
                        f"The role {self.role!r} has no namespace left, and is still in the group: "
                        f"another role has let it in. As that one: {plan.statement}"
                    )
                self._report_change(action, plan, count)
                return self._report_left(connection, action, plan, given)
            except walling.NoSuchRole as error:
                print_error(self.add_url_to_commands(str(error)))
                return ExitCode.NO

    def _report_left(
        self, connection: Connection, action: str, plan: Plan, given: Sequence[Grant]
    ) -> ExitCode:
        """Say what a role still has that it was to have no more: granted in another way."""
        from ..sql.admin import walling

        left = walling.still_had(connection, plan, given) if action == "revoke" else []
        if not left:
            return ExitCode.DONE
        self.note(
            f"The role {self.role!r} still has {_some(left)}, which was granted in another way. To "
            "take all that it has: "
            + self.add_url_to_commands(
                f"jupyter session-store wall revoke --role {shlex.quote(self.role)}"
            )
        )
        return ExitCode.NO

    def _given(self, action: str, names: Sequence[str]) -> list[tuple[str, bool]]:
        """Return the namespaces that are named, and whether all that begin so are meant."""
        if not self.role:
            raise ConfigurationError(
                f"wall {action} was given no role; expected --role ROLE. Nothing was changed. See: "
                f"{self._help}"
            )
        if len(self.role.encode()) > _ROLE_BYTES:
            raise ConfigurationError(
                f"The name of the role has {len(self.role.encode())} bytes; expected at most "
                f"{_ROLE_BYTES}, to which PostgreSQL would cut it. Nothing was changed. Name a "
                "role with a shorter name: it need not be called as its user is."
            )
        if bool(names) == bool(self.user) and (names or action == "grant"):
            found = f"{names[0]!r} and --user" if names else "no namespace"
            raise ConfigurationError(
                f"wall {action} was given {found}; expected NAMESPACE or --user USER. Nothing was "
                f"changed. See: {self._help}"
            )
        for name in names:
            check_namespace(name)
            if action == "grant" and _WILDCARD.search(name):
                self.note(
                    f"The namespace {name!r} is taken as it is written: there are no wildcards."
                )
        return [*((name, False) for name in dict.fromkeys(names)), *self._of_user()]

    def _of_user(self) -> list[tuple[str, bool]]:
        if not self.user:
            return []
        from .selection import user_namespaces

        chosen = user_namespaces(self.user)
        if (prefix := chosen.get("prefix")) is not None:
            check_text("namespace", hub_prefix(self.user))
            return [(prefix, True)]
        self.note(
            "The name of the user is too long for a namespace, and stands there as a digest: this "
            "is for the default server alone. Name those of named servers one by one."
        )
        return [(chosen["namespace"], False)]

    def _question(self, action: str, plan: Plan) -> str:
        names = _some(plan.changed)
        if action == "grant":
            return f"Let the role {self.role!r} have {names} in {self.database_name}?"
        return f"Take {names} from the role {self.role!r} in {self.database_name}?"

    def _report_change(self, action: str, plan: Plan, count: int) -> None:
        done = "granted" if action == "grant" else "revoked"
        if self.as_json:
            self.output.one(
                {
                    "database": self.database_name,
                    "role": self.role,
                    done: count,
                    "namespaces": [
                        {"namespace": one.namespace, "is_prefix": one.is_prefix}
                        for one in plan.changed
                    ],
                    **({"dry_run": True} if self.dry_run else {}),
                }
            )
            return
        names = _some(plan.changed)
        if not (plan.changed or plan.statement):
            self.output.text(f"The role {self.role!r} is so already: nothing to do.")
        elif self.dry_run:
            verb = "let" if action == "grant" else "no longer let"
            self.output.text(
                f"Would {verb} the role {self.role!r} have {names} in {self.database_name}. "
                "Nothing was changed."
            )
        else:
            has = "has" if action == "grant" else "no longer has"
            self.output.text(f"The role {self.role!r} {has} {names} in {self.database_name}.")


#: How many names a sentence lists.
_NAMED: Final = 5


def _some(grants: Sequence[Grant]) -> str:
    shown = ", ".join(repr(format_value(str(one))) for one in grants[:_NAMED])
    more = len(grants) - _NAMED
    return (f"{shown} and {more} more" if more > 0 else shown) or "the tables"
