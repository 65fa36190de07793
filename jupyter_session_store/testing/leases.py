"""What the contract says of servers: registering, renewing, evicting, and what is left behind."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from ..authorities import authority_of
from ..errors import StoreUnavailable
from ..records import CLOSING, READY, STARTING, Scope, ServerRecord, SessionRecord
from ..repository import SessionRepository as Repository
from .samples import SCOPE, add, in_event_loops, record, run, server, there

GATEWAY = Scope(SCOPE.namespace, "gateway:g")
#: Beside the tenant ``"bob"``.
NEIGHBOURS = ("Bob", "bob ", " bob", "b\u00f6b")


def renew(
    repository: Repository, server: ServerRecord, *held: SessionRecord
) -> dict[str, ServerRecord]:
    """Renew a lease; return the servers of the namespace by their ids."""
    servers = repository.renew(server, held, timeout=60)
    assert len({s.server_id for s in servers}) == len(servers)
    return {s.server_id: s for s in servers}


def stored(repository: Repository, scope: Scope) -> dict[str, SessionRecord]:
    """Return the sessions of a scope by their ids."""
    return {r.session_id: r for r in run(repository.find(scope))}


def local(session_id: str, server_id: str, **values: object) -> SessionRecord:
    """Return a session on a local kernel of a server."""
    scope = Scope(SCOPE.namespace, authority_of(server_id))
    return record(session_id, scope, server_id=server_id, **values)


@in_event_loops
class LeaseContract:
    """``renew`` and ``evict``."""

    def test_a_server_is_registered_when_it_opens(self, repository: Repository) -> None:
        one = renew(repository, server("one"))["one"]
        assert replace(one, renewals=0) == server("one")

    def test_each_renewal_counts(self, repository: Repository) -> None:
        first = renew(repository, server("one"))["one"]
        second = renew(repository, server("one"))["one"]
        assert second.renewals == first.renewals + 1

    def test_the_servers_of_a_namespace_are_seen_and_no_others(
        self, repository: Repository
    ) -> None:
        for namespace in NEIGHBOURS:
            renew(repository, server("one", namespace))
            renew(repository, server("two", namespace))
        assert list(renew(repository, server("one"))) == ["one"]
        both = renew(repository, server("two", hostname=None, pid=None, version=None))
        assert sorted(both) == ["one", "two"]
        assert both["two"].hostname is None

    def test_who_stopped_renewing_is_evicted(self, repository: Repository) -> None:
        seen = renew(repository, server("two"))["two"]
        assert repository.evict(SCOPE, [seen], "one", timeout=60) == []
        assert list(renew(repository, server("one"))) == ["one"]

    def test_who_renewed_meanwhile_stays(self, repository: Repository) -> None:
        seen = renew(repository, server("two"))["two"]
        run(repository.add(local("s", "two")))
        renew(repository, server("two"))
        assert repository.evict(SCOPE, [seen], "one", timeout=60) == []
        assert sorted(renew(repository, server("one"))) == ["one", "two"]
        assert list(stored(repository, local("s", "two").scope)) == ["s"]

    def test_an_eviction_is_counted_once_and_only_if_it_was_one(
        self, repository: Repository
    ) -> None:
        before = repository.describe().evictions
        seen = renew(repository, server("two"))["two"]
        renew(repository, server("two"))
        repository.evict(SCOPE, [seen], "one", timeout=60)
        assert repository.describe().evictions == before, "it had renewed its lease"
        seen = renew(repository, server("two"))["two"]
        for _ in range(2):
            repository.evict(SCOPE, [seen], "one", timeout=60)
            counted = repository.describe().evictions - before
            assert counted == 1, f"describe() has counted {counted} evictions; expected 1"

    def test_a_renewal_counts_the_sessions_unless_nobody_does(self, repository: Repository) -> None:
        run(add(repository, record("a"), record("b"), record("c", GATEWAY)))
        for _ in range(2):
            renew(repository, server("one"))
        assert repository.describe().sessions in (None, 2)

    def test_an_eviction_removes_what_only_that_server_had(self, repository: Repository) -> None:
        seen = [renew(repository, server(name))[name] for name in ("two", "three")]
        mine, theirs, thirds = local("mine", "one"), local("theirs", "two"), local("3", "three")
        gateways = record("remote", GATEWAY, server_id="two")
        by_hand = record("x", Scope(SCOPE.namespace, "somebody"), server_id="two")
        # Compared exactly, as everything is.
        stranger = record("y", Scope(SCOPE.namespace, "Server:two"), server_id="two")
        run(add(repository, mine, theirs, thirds, gateways, by_hand, stranger))
        repository.evict(SCOPE, seen[:1], "one", timeout=60)
        assert stored(repository, theirs.scope) == {}
        for each in (mine, thirds, gateways, by_hand, stranger):
            assert stored(repository, each.scope) == {each.session_id: each}

    def test_an_eviction_stays_in_its_namespace(self, repository: Repository) -> None:
        mine = renew(repository, server("two"))["two"]
        scopes = [Scope(namespace, authority_of("two")) for namespace in NEIGHBOURS]
        for number, scope in enumerate(scopes):
            renew(repository, server("two", scope.namespace, renewals=mine.renewals))
            run(repository.add(record(f"s{number}", scope, server_id="two")))
            run(repository.add(record(f"g{number}", Scope(scope.namespace, "gateway:g"))))
        repository.evict(SCOPE, [mine], "one", timeout=60)
        for number, scope in enumerate(scopes):
            assert list(stored(repository, scope)) == [f"s{number}"]
            assert list(renew(repository, server("two", scope.namespace))) == ["two"]

    def test_what_was_being_closed_is_ready_again(self, repository: Repository) -> None:
        """The closer's mark goes with the closer, whoever created the session."""
        seen = renew(repository, server("two"))["two"]
        run(repository.add(record("a", GATEWAY, server_id="one")))
        run(repository.add(record("b", GATEWAY, server_id="two")))
        closing = there(run(repository.begin_close(GATEWAY, "a", "two")))
        assert closing.record.server_id == "two"
        run(repository.begin_close(GATEWAY, "b", "one"))
        repository.evict(SCOPE, [seen], "one", timeout=60)
        states = {name: r.state for name, r in stored(repository, GATEWAY).items()}
        assert states == {"a": READY, "b": CLOSING}

    def test_what_was_being_started_is_taken_over(self, repository: Repository) -> None:
        seen = renew(repository, server("two"))["two"]
        elsewhere = Scope(SCOPE.namespace, "gateway:h")
        named = record("named", GATEWAY, server_id="two", state=STARTING)
        nameless = record("bare", GATEWAY, server_id="two", state=STARTING, kernel_id=None)
        other = record("other", elsewhere, server_id="two", state=STARTING)
        mine = record("mine", GATEWAY, server_id="one", state=STARTING)
        run(add(repository, named, nameless, other, mine))
        unfinished = repository.evict(GATEWAY, [seen], "one", timeout=60)
        by_id = {one.session_id: one for one in unfinished}
        assert by_id == {"named": named.replace(server_id="one", version=2), "mine": mine}
        assert stored(repository, GATEWAY) == by_id
        assert stored(repository, elsewhere) == {"other": other}
        # The claim of what was removed is free again; of what was taken over, it is not.
        run(repository.add(record("again", GATEWAY, path="bare.ipynb")))
        assert stored(repository, GATEWAY)["named"].claim == named.claim

    def test_what_the_evictor_is_at_itself_is_told_too(self, repository: Repository) -> None:
        """It knows of each, unless a store that was restored has brought some back."""
        starting = record("starting", GATEWAY, server_id="one", state=STARTING)
        closing = record("closing", GATEWAY, server_id="one", state=CLOSING)
        ready = record("ready", GATEWAY, server_id="one")
        others = record("others", GATEWAY, server_id="two", state=CLOSING)
        run(add(repository, starting, closing, ready, others))
        for name in ("one", "two"):
            renew(repository, server(name))
        unfinished = repository.evict(GATEWAY, [], "one", timeout=60)
        assert {one.session_id: one for one in unfinished} == {
            "starting": starting,
            "closing": closing,
        }

    def test_a_renewal_counts_what_is_unfinished_unless_nobody_does(
        self, repository: Repository
    ) -> None:
        guard = record("a", state=STARTING, path=None)
        run(add(repository, guard, record("b", state=CLOSING), record("c")))
        run(repository.add(guard.replace(session_id="d", server_id="two")))
        run(repository.add(guard.replace(session_id="e", authority=GATEWAY.authority)))
        for _ in range(2):
            renew(repository, server("one"))
        assert repository.describe().unfinished in (None, 2)

    def test_an_eviction_may_be_repeated(self, repository: Repository) -> None:
        """As after a commit whose answer was lost."""
        seen = renew(repository, server("two"))["two"]
        half = record("a", GATEWAY, state=STARTING, kernel_id="k", server_id="two")
        run(repository.add(half))
        for _ in range(2):
            found = repository.evict(GATEWAY, [seen], "one", timeout=60)
            assert [(one.session_id, one.server_id) for one in found] == [("a", "one")]

    def test_a_write_back_may_be_repeated(self, repository: Repository) -> None:
        one = local("a", "one", kernel_id="k1"), local("b", "one", kernel_id="k2")
        seen = renew(repository, server("one"))["one"]
        renew(repository, server("two"))
        repository.evict(Scope(SCOPE.namespace, "server:two"), [seen], "two", timeout=60)
        # Half of it was done by an earlier attempt.
        run(repository.add(one[0]))
        renew(repository, server("one"), *one)
        assert sorted(stored(repository, SCOPE)) == ["a", "b"]
        renew(repository, server("one"), *one)
        assert sorted(stored(repository, SCOPE)) == ["a", "b"]

    def test_what_an_unregistered_server_left_is_released(self, repository: Repository) -> None:
        """A server that was evicted wrote once more, and died."""
        orphan = local("orphan", "nobody")
        run(add(repository, orphan, local("mine", "one")))
        repository.evict(SCOPE, [], "one", timeout=60)
        assert stored(repository, orphan.scope) == {}
        assert list(stored(repository, local("", "one").scope)) == ["mine"]

    def test_an_evicted_server_comes_back_with_its_sessions(self, repository: Repository) -> None:
        seen = renew(repository, server("two"))["two"]
        held = [local("a", "two"), local("b", "two"), local("c", "two", path="a.ipynb", claim=None)]
        run(add(repository, *held))
        repository.evict(SCOPE, [seen], "one", timeout=60)
        new = local("d", "two")
        run(repository.add(new))
        assert sorted(renew(repository, server("two"), *held, new)) == ["one", "two"]
        assert stored(repository, new.scope) == {r.session_id: r for r in (*held, new)}

    def test_who_was_not_evicted_writes_nothing_back(self, repository: Repository) -> None:
        renew(repository, server("one"), local("a", "one"))
        assert stored(repository, local("a", "one").scope) == {}

    def test_a_closed_repository_keeps_no_lease(self, repository: Repository) -> None:
        repository.close()
        with pytest.raises(StoreUnavailable):
            repository.renew(server("one"), [], timeout=1)
        with pytest.raises(StoreUnavailable):
            repository.evict(SCOPE, [], "one", timeout=1)

    async def test_a_lease_is_renewed_beside_the_verbs(self, repository: Repository) -> None:
        beats = [asyncio.to_thread(renew, repository, server("one")) for _ in range(5)]
        adds = [repository.add(record(f"s{i}")) for i in range(20)]
        await asyncio.gather(*beats, *adds)
        assert len(await repository.find(SCOPE)) == 20
