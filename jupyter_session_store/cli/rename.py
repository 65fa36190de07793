"""Give namespaces other names."""

from __future__ import annotations

import shlex
from collections import Counter
from typing import TYPE_CHECKING, Any

from traitlets import Unicode

from ..config.namespaces import hub_prefix, storable
from ..errors import ConfigurationError, SessionConflict
from ..records import check_namespace, check_text
from .command import ExitCode, StoreCommand
from .removal import CleaningCommand, describe_names
from .selection import user_namespaces

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from sqlalchemy import Connection

    from ..records import ServerRecord
    from ..sql.admin.heirs import Heir
    from ..sql.admin.renaming import Renamed


class Rename(CleaningCommand):
    name = "jupyter-session-store rename"
    description = """
    Give the sessions of namespaces to others: users were renamed.

    Each namespace in one transaction, or not at all. Where the new namespace
    has sessions already, those that come and whose path is held there lose
    their claim to it; if both have a session of one id, that namespace stays.

    A namespace stays, too, while a server of the old or of the new name is
    alive, with exit code 5. Whatever their number, all servers are
    watched at once, for as long as the longest lease at most. Where there is
    nothing, nothing is to do. Behind a wall, roles that were granted the old
    namespace have the new one instead, unless it is another's. Asks before it
    changes anything.
    """
    examples = """
    jupyter session-store rename hub:alice/ hub:alice.smith/ --dry-run
    jupyter session-store rename --user alice --new-user alice.smith
    jupyter session-store rename --prefix dir:/home/ --new-prefix dir:/srv/
    """
    arguments = {
        "NAMESPACE": "The namespace whose sessions are given away; or options say which.",
        "NEW...": "The namespace that gets them; more pairs may follow.",
    }
    optional_arguments = 2
    aliases = {
        **StoreCommand.aliases,
        "user": "NamespaceCommand.user",
        "new-user": "Rename.new_user",
        "prefix": "NamespaceCommand.prefix",
        "new-prefix": "Rename.new_prefix",
    }

    new_user = Unicode(help="The new name of the user of --user.").tag(config=True)
    new_prefix = Unicode(help="What takes the place of the prefix of --prefix.").tag(config=True)

    def run(self) -> ExitCode:
        pairs = self._given_pairs()
        if not self.dry_run:
            self.require_answer()
        with self.connection() as connection:
            names = self._find(connection, pairs)
            alive, dead = self.observe_namespaces(connection, names, names.values())
            living = {server.namespace for server in alive}
            refused = [old for old, new in names.items() if not living.isdisjoint((old, new))]
            plans = self._plan(connection, names, refused)
            conflict = len(plans) + len(refused) < len(names)
            if self.dry_run:
                done = plans
            elif plans and not self._confirm(plans, names):
                return ExitCode.NO
            else:
                done = self._rename(connection, {old: names[old] for old in plans}, dead)
                refused += [old for old in plans if old not in done]
            self._report(done, names, refused)
            self._note_grants(connection, done, whole=not refused and not conflict)
            self.note_grants_left(connection, [old for old in pairs if old not in names])
        return ExitCode.NO if conflict else self.exit_code(refused)

    def _given_pairs(self) -> dict[str, str]:
        """Return the old names and the new ones that are given as arguments, checked."""
        given = self.extra_args
        options = [
            ("--user", self.user, "--new-user", self.new_user),
            ("--prefix", self.prefix, "--new-prefix", self.new_prefix),
        ]
        for option, old, new_option, new in options:
            if bool(old) != bool(new):
                found, missing = (option, new_option) if old else (new_option, option)
                raise ConfigurationError(f"Found {found} without {missing}; expected both.")
            if old == new and old:
                raise ConfigurationError(f"Found {old!r} twice; expected another name for it.")
        chosen = [option for option, old, *_ in options if old]
        if bool(given) + len(chosen) != 1 or len(given) % 2:
            found = " and ".join([*map(repr, given), *chosen]) or "no argument"
            raise ConfigurationError(
                f"Found {found}; expected NAMESPACE NEW, one pair after the other, or --user USER "
                "--new-user NEW, or --prefix PREFIX --new-prefix NEW. Nothing was changed. See: "
                f"{self._help}"
            )
        pairs = dict(zip(given[::2], given[1::2], strict=True))
        _check_pairs(pairs, len(given) // 2)
        return pairs

    def _find(self, connection: Connection, pairs: Mapping[str, str]) -> dict[str, str]:
        """Return the old names of which there is something, and the new ones."""
        from ..sql.admin.listing import Criteria

        chosen = [Criteria(namespace=old) for old in pairs] or [self.criteria()]
        found = self.find_namespaces(connection, chosen)
        names = {old: pairs.get(old) or self._new_name(old) for old in found}
        _check_pairs(names, len(names))
        return names

    def _new_name(self, old: str) -> str:
        """Return the new name of a namespace that --user or --prefix has chosen."""
        if self.prefix:
            return f"{self.new_prefix}{old.removeprefix(self.prefix)}"
        _, begins, server = old.rpartition(hub_prefix(self.user))
        return storable(f"{hub_prefix(self.new_user)}{server if begins else ''}")

    def _prefixes(self) -> tuple[str, str] | None:
        """Return what the names that options have chosen begin with, and are to begin with."""
        if self.prefix:
            return self.prefix, self.new_prefix
        if self.user and "prefix" in user_namespaces(self.user):
            return hub_prefix(self.user), hub_prefix(self.new_user)
        return None

    def _plan(
        self, connection: Connection, names: Mapping[str, str], refused: Collection[str]
    ) -> dict[str, Renamed]:
        """Return what can be renamed and how much it is, by the old names."""
        from ..sql.admin import renaming

        plans = {}
        for old, new in names.items():
            if old not in refused:
                try:
                    plans[old] = renaming.plan(connection, old, new, self._prefixes())
                except SessionConflict as error:
                    self._note_conflict(old, new, error)
        return plans

    def _note_conflict(self, old: str, new: str, error: SessionConflict) -> None:
        self.note(
            f"Both {old!r} and {new!r} have a session of the id {error.session_id!r}; expected "
            f"none. {old!r} was not changed. Remove one of the two: jupyter session-store remove "
            f"{error.session_id} --namespace NAMESPACE"
        )

    def _confirm(self, plans: Mapping[str, Renamed], names: Mapping[str, str]) -> bool:
        total = _total(plans)
        pairs = describe_names([f"{old} -> {names[old]}" for old in plans])
        return self.confirm(
            f"Rename {len(plans)} namespace(s) ({pairs}) with {total['sessions']} session(s) and "
            f"{total['servers']} server(s) in {self.database_name}?"
        )

    def _rename(
        self, connection: Connection, names: Mapping[str, str], dead: Collection[ServerRecord]
    ) -> dict[str, Renamed]:
        """Rename, and return what was done, by the old names."""
        from ..sql.admin import renaming

        done: dict[str, Renamed] = {}
        try:
            for old, new in names.items():
                self.interrupt_message = (
                    f"{len(done)} namespace(s) are renamed, and {old!r} is whole, or not at all: "
                    "look with `jupyter session-store namespaces`."
                )
                try:
                    done[old] = renaming.rename(
                        connection, old, new, dead, force=self.force, prefixes=self._prefixes()
                    )
                except renaming.ServerAppeared as error:
                    self.report_alive([error.server])
                except SessionConflict as error:
                    self._note_conflict(old, new, error)
        except Exception:
            self.note(self.interrupt_message)
            raise
        return done

    def _note_grants(
        self, connection: Connection, done: Mapping[str, Renamed], *, whole: bool
    ) -> None:
        """Say what roles behind a wall have now; if it is `whole`, they let go of the old name."""
        heirs = [heir for one in done.values() for heir in one.heirs]
        prefixes = self._prefixes()
        if whole and prefixes is not None:
            given = self._give_prefix(connection, prefixes, asks=not done)
            roles = {heir.role for heir in given}
            heirs = [one for one in heirs if not (one.new.is_prefix and one.role in roles)]
            heirs += given
        has, keeps = ("would have", "would keep") if self.dry_run else ("has", "keeps")
        for heir in heirs:
            if heir.obstacle is None:
                self.note(f"The role {heir.role!r} {has} {heir.new} in the place of {heir.old}.")
                continue
            self.note(
                f"The role {heir.role!r} {keeps} {heir.old}, and does not get {heir.new}: "
                f"{heir.obstacle}. If it is to: "
                + self.add_url_to_commands(
                    "jupyter session-store wall grant NAMESPACE --role " + shlex.quote(heir.role)
                )
            )

    def _give_prefix(
        self, connection: Connection, prefixes: tuple[str, str], *, asks: bool
    ) -> Sequence[Heir]:
        """Give roles all that begins with the new name, in the place of the old one."""
        from ..sql.admin import heirs, renaming

        found = heirs.of_prefix(connection, prefixes)
        if self.dry_run or not found:
            return found
        roles = ", ".join(sorted({repr(one.role) for one in found}))
        if asks and not self.confirm(
            f"Let {roles} have {prefixes[1]}... in the place of {prefixes[0]}... in "
            f"{self.database_name}?"
        ):
            return ()
        return renaming.rename_prefix(connection, prefixes)

    def _report(
        self, done: Mapping[str, Renamed], names: Mapping[str, str], refused: Collection[str]
    ) -> None:
        total = _total(done)
        would = "Would rename" if self.dry_run else "Renamed"
        more = " Nothing was changed." if self.dry_run or not done else ""
        values: dict[str, Any] = {
            **total,
            "renamed": {old: {"to": names[old], **one.counts()} for old, one in done.items()},
            "refused": sorted(refused),
            **({"dry_run": True} if self.dry_run else {}),
        }
        self.report(
            values,
            f"{would} {total['sessions']} session(s) and {total['servers']} server(s) of "
            f"{len(done)} namespace(s) in {self.database_name}; {total['claims_lost']} "
            f"{'would lose' if self.dry_run else 'lost'} the claim to their path.{more}",
        )


def _total(done: Mapping[str, Renamed]) -> dict[str, int]:
    total = Counter({"sessions": 0, "servers": 0, "claims_lost": 0})
    for one in done.values():
        total.update(one.counts())
    return dict(total)


def _check_pairs(pairs: Mapping[str, str], given: int) -> None:
    """Refuse names that no namespace may have, and one that would be renamed twice."""
    for old, new in pairs.items():
        check_text("namespace", old)
        check_namespace(new)
        if old == new:
            raise ConfigurationError(
                f"Found {old!r} twice; expected the namespace and another name for it."
            )
        if new in pairs:
            raise ConfigurationError(
                f"{old!r} would become {new!r}, which is renamed, too; expected each namespace "
                "once. Nothing was changed. Rename one after the other."
            )
    if len(pairs) < given:
        raise ConfigurationError("Found one NAMESPACE twice; expected each once.")
