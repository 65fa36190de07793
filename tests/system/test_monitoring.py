"""What probes, Prometheus and an operator are told of the store, by real servers."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
import yaml  # type: ignore[import-untyped]
from prometheus_client.parser import text_string_to_metric_families

from jupyter_session_store import __version__
from jupyter_session_store.sql.schema import versions
from jupyter_session_store.telemetry import metrics as known
from jupyter_session_store.telemetry.events import SCHEMA_ID

from ..databases import Database
from .cluster import KERNEL_MANAGER
from .conftest import stored_in
from .faults import Outage, is_refusal
from .gateway import Gateway
from .passwords import leaked, password_of
from .process import OTHER_KERNEL
from .promql import Series, evaluate
from .server import PATIENT, TIME_TO_START, JupyterServer
from .waiting import until

pytestmark = [pytest.mark.system, pytest.mark.spread, pytest.mark.timeout(300)]

NewServer = Callable[..., JupyterServer]

PREFIX: Final = "jupyter_session_store"
HEALTH: Final = "/api/session-store/health"
STATUS: Final = "/api/session-store/status"
ROOT: Final = Path(__file__).resolve().parents[2]
HOW_TO: Final = ROOT / "docs" / "how-to" / "monitoring.md"
REFERENCE: Final = ROOT / "docs" / "reference" / "metrics.md"
SCHEMA_FILE: Final = ROOT / PREFIX / "telemetry" / "event_schemas" / "session_actions" / "v1.yaml"
DASHBOARD: Final = ROOT / "docs" / "_static" / "grafana-dashboard.json"
#: As the package's own configuration file has it, wherever that is installed.
ENABLED: Final = 'c.ServerApp.jpserver_extensions["jupyter_session_store"] = True\n'
#: What the heartbeat does by itself comes on top of what is asked.
NO_RENEWAL: Final = "c.PersistentSessionManager.lease_seconds = 86_400\n"
LEASE: Final = 5
SHORT_LEASE: Final = f"c.PersistentSessionManager.lease_seconds = {LEASE}\n"
#: What Prometheus itself puts on each series.
SCRAPED: Final = {"instance", "job"}

Labels = frozenset[tuple[str, str]]


@dataclass(frozen=True)
class Metrics:
    """What ``/metrics`` says of the store.

    Parameters
    ----------
    samples : mapping
        The values, by the names and the labels.
    """

    samples: Mapping[tuple[str, Labels], float]

    @classmethod
    def of(cls, server: JupyterServer) -> Metrics:
        """Ask a server."""
        answer = server.api.get("/metrics")
        assert answer.status_code == 200, answer.text
        return cls(
            {
                (sample.name, frozenset(sample.labels.items())): sample.value
                for family in text_string_to_metric_families(answer.text)
                for sample in family.samples
                if sample.name.startswith(PREFIX)
            }
        )

    def get(self, name: str, **labels: str) -> float:
        """Return a value; 0 if there is none."""
        return self.samples.get((f"{PREFIX}_{name}", frozenset(labels.items())), 0)

    def of_scopes(self, name: str) -> list[float]:
        """Return the values of each namespace and authority."""
        found = (
            (dict(labels), value)
            for (one, labels), value in self.samples.items()
            if one == f"{PREFIX}_{name}"
        )
        return [value for labels, value in found if "scope" in labels]

    def has(self, name: str) -> bool:
        """Return whether there is a value without labels."""
        return (f"{PREFIX}_{name}", frozenset[tuple[str, str]]()) in self.samples

    def operations(self) -> dict[str, float]:
        """Return how many there were of each, as ``verb outcome``."""
        return {
            " ".join(dict(labels)[key] for key in ("verb", "outcome")): value
            for (name, labels), value in self.samples.items()
            if name == f"{PREFIX}_operations_total" and value
        }

    def label_names(self) -> dict[str, set[str]]:
        """Return the names of the labels that each name has."""
        found: dict[str, set[str]] = {}
        for name, labels in self.samples:
            found.setdefault(name, set()).update(dict(labels))
        return found

    def label_values(self, label: str) -> set[str]:
        """Return the values of a label."""
        return {dict(labels)[label] for _, labels in self.samples if label in dict(labels)}


class Bill:
    """What the requests to a server have cost since the last time."""

    def __init__(self, server: JupyterServer) -> None:
        self._server = server
        self._before = Metrics.of(server)

    def take(self) -> tuple[dict[str, float], float]:
        """Return the operations and the number of statements."""
        before, self._before = self._before, Metrics.of(self._server)
        was = before.operations()
        now = self._before.operations()
        operations = {name: now[name] - was.get(name, 0) for name in now}
        statements = self._before.get("statements_total") - before.get("statements_total")
        return {name: value for name, value in operations.items() if value}, statements


def anonymous(server: JupyterServer, path: str) -> httpx.Response:
    """Ask without a token."""
    return httpx.get(f"{server.url}{path}", timeout=60, trust_env=False, verify=False)


def test_each_request_is_counted_with_its_statements(
    database: Database, new_server: NewServer
) -> None:
    server = new_server(f"{stored_in(database)}{PATIENT}{ENABLED}{NO_RENEWAL}")
    server.start()
    # Whatever the start has needed.
    server.sessions()
    bill = Bill(server)
    session = server.create("a.ipynb")
    assert bill.take() == ({"add ok": 1}, 1)
    # Who only asks is answered by memory.
    again = server.create("a.ipynb")
    # Its kernel may have come up meanwhile, and shows it.
    assert again | {"kernel": None} == session | {"kernel": None}
    for key in ("id", "name"):
        assert again["kernel"][key] == session["kernel"][key]
    assert [one["id"] for one in server.sessions()] == [session["id"]]
    assert Metrics.of(server).of_scopes("sessions") == [1]
    server.model(server.get(session["id"]), 200)
    assert bill.take() == ({}, 0)
    server.model(server.patch(session["id"], path="b.ipynb"), 200)
    assert bill.take() == ({"mirror_change ok": 1}, 1)
    server.model(server.patch(session["id"], kernel={"name": OTHER_KERNEL}), 200)
    assert bill.take() == ({"mirror_change ok": 1}, 1)
    assert server.delete(session["id"]).status_code == 204
    assert bill.take() == ({"remove ok": 1}, 1)
    assert server.get(session["id"]).status_code == 404
    assert bill.take() == ({}, 0)
    assert anonymous(server, HEALTH).status_code == 200
    assert bill.take() == ({"find ok": 1}, 1)
    metrics = Metrics.of(server)
    timed = {
        dict(labels)["verb"]: value
        for (name, labels), value in metrics.samples.items()
        if name == f"{PREFIX}_operation_duration_seconds_count" and value
    }
    assert {f"{verb} ok": value for verb, value in timed.items()} == metrics.operations()
    assert metrics.get("up") == 1
    assert bill.take() == ({}, 0), "to be scraped costs nothing"


def status_of(server: JupyterServer) -> dict[str, Any]:
    answer = server.api.get(STATUS)
    assert answer.headers["Cache-Control"] == "no-store"
    told: dict[str, Any] = server.model(answer, 200)
    return told


def is_health(answer: httpx.Response, word: str) -> bool:
    """Return whether an answer is one to a probe that says this, and nothing else."""
    said = answer.json()["status"]
    assert answer.json() == {"status": said}
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.status_code == {"well": 200, "degraded": 200, "unwell": 503}[said]
    assert is_refusal(answer) == (answer.status_code == 503)
    return bool(said == word)


def check_no_secret(server: JupyterServer, outage: Outage, database: Database, shown: str) -> None:
    """Check that neither metrics, nor the log, nor what else is shown has a password or a URL."""
    if database.kind != "sqlite":
        shown += server.api.get("/metrics").text + server.log
        assert leaked(password_of(database), shown) == set()
        assert outage.url not in shown


@pytest.mark.parametrize("authority", ["server", "gateway"])
def test_probes_and_status_through_an_outage(
    database: Database, new_server: NewServer, authority: str
) -> None:
    with Outage(database) as outage, ExitStack() as stack:
        config = (
            f"c.SessionManager.database_filepath = {outage.url!r}{PATIENT}{ENABLED}{SHORT_LEASE}"
        )
        local = authority == "server"
        if not local:
            gateway = Gateway()
            stack.callback(gateway.close)
            gateway.start()
            config += f"{gateway.client_config}{KERNEL_MANAGER}"
        server = new_server(config)
        server.start()
        session = server.create("a.ipynb")
        assert is_health(anonymous(server, HEALTH), "well")
        until(lambda: not status_of(server)["lease"]["overdue"], why="it has renewed")
        told = status_of(server)
        lease = told.pop("lease")
        assert (lease["seconds"], lease["overdue"]) == (LEASE, False)
        backend = {
            "sqlite": "sqlite /",
            "postgresql": "postgresql ",
            "mysql": "mysql ",
        }
        assert told.pop("backend").startswith(backend[database.kind])
        ((server_id,),) = database.rows("SELECT server_id FROM jupyter_servers")
        counted = {"starting": 0, "ready": 1, "closing": 0}
        assert told == {
            "well": True,
            "away_seconds": None,
            "unsynchronized_sessions": 0,
            "version": __version__,
            "repository": "sqlalchemy",
            "host": None,
            "revision": versions.HEAD,
            "namespace": f"dir:{server.root}",
            "authority": authority,
            "server_id": server_id,
            "sessions": counted,
        }

        with outage.running():
            # A file that is held can be read all the while; that it cannot be written shows
            # with the next renewal.
            word = "degraded" if local else "unwell"
            until(lambda: is_health(anonymous(server, HEALTH), word), why="it is unwell")
            away = status_of(server)
            assert (away["well"], away["revision"]) == (False, None)
            assert away["server_id"] == server_id
            assert away["unsynchronized_sessions"] == 0
            # In memory they are counted all the while.
            assert away["sessions"] == (counted if local else None)
            until(lambda: Metrics.of(server).get("up") == 0, why="that is a metric too")
            failed = Metrics.of(server)
            assert any(name.endswith(" unavailable") for name in failed.operations())
            until(
                lambda: Metrics.of(server).get("renewals_total", outcome="failed") > 0,
                why="no renewal succeeds",
            )
            until(lambda: status_of(server)["away_seconds"] > 0, why="it says for how long")
            assert server.execute(session["kernel"]["id"], "1 + 1") == "2"
            if local:
                assert server.patch(session["id"], path="b.ipynb").status_code == 200
                assert status_of(server)["unsynchronized_sessions"] == 1
                assert Metrics.of(server).get("unsynchronized_sessions") == 1

        until(lambda: is_health(anonymous(server, HEALTH), "well"), why="it is well again")
        until(lambda: status_of(server)["well"], why="so says its status")
        until(lambda: status_of(server)["unsynchronized_sessions"] == 0, why="all is stored")
        assert status_of(server)["away_seconds"] is None
        assert Metrics.of(server).get("up") == 1
        assert Metrics.of(server).get("unsynchronized_sessions") == 0
        assert [one["id"] for one in server.sessions()] == [session["id"]]
        assert status_of(server)["sessions"] == counted
        check_no_secret(server, outage, database, json.dumps([told, away]))
        assert server.own_frames() == []
        assert server.uncaught() == []


@pytest.mark.only("sqlite", reason="who may ask is not the database's affair")
def test_who_may_ask(database: Database, new_server: NewServer) -> None:
    # As JupyterHub writes it for the user "bob@x".
    base = "/user/bob%40x"
    server = new_server(
        f"{stored_in(database)}\n{ENABLED}{TIME_TO_START}"
        "c.ServerApp.allow_unauthenticated_access = False\n"
        f"c.ServerApp.base_url = {base!r}"
    )
    server.launch()

    def answers() -> bool:
        try:
            return anonymous(server, f"{base}{HEALTH}").status_code == 200
        except httpx.TransportError:
            return False

    until(answers, why="it has started")
    answer = anonymous(server, f"{base}{HEALTH}")
    assert is_health(answer, "well")
    known = anonymous(server, f"{base}/api")
    # Not even a cookie.
    assert set(answer.headers) - set(known.headers) <= {"cache-control"}
    refused = anonymous(server, f"{base}{STATUS}")
    assert refused.status_code == 403
    assert "namespace" not in refused.text
    assert server.model(server.api.get(f"{base}{STATUS}"), 200)["well"] is True
    assert anonymous(server, HEALTH).status_code == anonymous(server, "/api").status_code == 302
    assert anonymous(server, f"{base}/metrics").status_code == 403


@pytest.mark.only("sqlite", reason="the stock manager has no other")
def test_with_the_stock_manager_there_is_nothing(database: Database, new_server: NewServer) -> None:
    server = new_server(
        f"{ENABLED}c.ServerApp.session_manager_class ="
        " 'jupyter_server.services.sessions.sessionmanager.SessionManager'\n"
        "c.ServerApp.log_level = 'DEBUG'",
        # The metrics are there from the import of what is not to be imported.
        fork=False,
    )
    server.start()
    session = server.create("a.ipynb")
    assert [one["id"] for one in server.sessions()] == [session["id"]]
    for path in (HEALTH, STATUS):
        assert server.api.get(path).status_code == 404
    assert Metrics.of(server).samples == {}
    assert "serves no status: the session manager is SessionManager." in server.log


def test_the_eviction_of_a_killed_replica_is_counted_once(
    database: Database, new_server: NewServer, tmp_path: Path
) -> None:
    config = f"{stored_in(database)}\n{ENABLED}"
    # The others go on looking as often as they do, and are not evicted for being slow.
    shorter, longer = (f"c.PersistentSessionManager.lease_seconds = {n}\n" for n in (10, 20))
    killed, one, two = servers = [
        new_server(config + lease, root=tmp_path) for lease in (shorter, longer, longer)
    ]
    # The one with the short lease last: while the others start it may renew too late.
    for server in reversed(servers):
        server.start()
    killed.create("a.ipynb")
    for server in (one, two):
        assert Metrics.of(server).get("evictions_total") == 0
        # Its own sessions, and not those on the local kernels of the others.
        assert status_of(server)["sessions"] == {"starting": 0, "ready": 0, "closing": 0}
    pid = killed.pid
    killed.kill()

    def pids() -> set[int]:
        return {row[0] for row in database.rows("SELECT pid FROM jupyter_servers")}

    until(lambda: pid not in pids(), why="it is evicted")

    def evictions() -> float:
        return sum(Metrics.of(server).get("evictions_total") for server in (one, two))

    until(lambda: evictions() == 1, why="who has evicted it has counted it")
    # Nor does the other count it when it looks at the servers the next time.
    renewed = Metrics.of(one).get("renewals_total", outcome="renewed")
    until(
        lambda: Metrics.of(one).get("renewals_total", outcome="renewed") > renewed + 2,
        why="they have looked again",
    )
    assert evictions() == 1


def scraped(servers: Iterable[JupyterServer]) -> list[Series]:
    """Return the series that Prometheus has of some servers."""
    return [
        ({"__name__": name, **dict(labels), "job": "jupyter", "instance": server.url}, value)
        for server in servers
        for (name, labels), value in Metrics.of(server).samples.items()
    ]


@pytest.mark.only("sqlite", reason="the statement that counts is tested on each")
def test_the_panel_of_sessions_shows_what_the_database_has_once(
    database: Database, new_server: NewServer, tmp_path: Path
) -> None:
    """Whoever lists, and however many replicas share it; beside servers with their own kernels."""
    with ExitStack() as stack:
        gateway = Gateway()
        stack.callback(gateway.close)
        gateway.start()
        config = f"{stored_in(database)}\n{ENABLED}c.PersistentSessionManager.lease_seconds = 3\n"
        remote = f"{config}{gateway.client_config}{KERNEL_MANAGER}"
        roots = [tmp_path / name for name in ("shared", "beside", "local")]
        for root in roots:
            root.mkdir()
        replicas = [new_server(remote, root=roots[0]) for _ in range(2)]
        beside = new_server(remote, root=roots[1])
        local = [new_server(config, root=roots[2]) for _ in range(2)]
        servers = [*replicas, beside, *local]
        for server in servers:
            server.start()
        (query,) = (
            query.replace("$job", ".*").replace("$instance", ".*")
            for query in dashboard_queries()
            if f"{PREFIX}_sessions{{" in query
        )

        def shown(*some: JupyterServer) -> float:
            found = evaluate(query, scraped(some or servers))
            return sum(value for _, value in found)

        def stored() -> int:
            return len(database.rows("SELECT session_id FROM jupyter_sessions"))

        first, _ = (replicas[0].create(f"{name}.ipynb") for name in "ab")
        for server in (beside, *local):
            server.create("a.ipynb")
        until(lambda: stored() == 5, why="all are stored")
        # Only one of the replicas is asked for a list.
        assert len(replicas[0].sessions()) == 2
        until(lambda: shown(replicas[1]) == 2, why="the other replica has counted, too")
        until(lambda: shown() == 5, why="each session is shown once")
        assert shown(*replicas) == 2
        assert replicas[1].delete(first["id"]).status_code == 204
        until(lambda: shown() == stored() == 4, why="it is not shown any more")


def names_in(expression: str) -> dict[str, set[str]]:
    """Return the metrics that a query names, and the labels by which it chooses or groups."""
    found: dict[str, set[str]] = {}
    for name, _, matchers in re.findall(rf"({PREFIX}_\w+)(\{{([^}}]*)\}})?", expression):
        chosen = set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", matchers))
        found.setdefault(name, set()).update(chosen)
    grouped = {
        label.strip()
        for group in re.findall(r"by \(([^)]*)\)", expression)
        for label in group.split(",")
    }
    for labels in found.values():
        labels.update(grouped)
    return found


def values_in(expressions: Iterable[str], label: str) -> set[str]:
    """Return the values that queries compare a label with."""
    found = re.findall(rf'\b{label}=~?"([^"$]*)"', " ".join(expressions))
    return {value for choice in found for value in choice.split("|")}


def block_with(word: str) -> str:
    """Return the block of code of the guide in which a word is."""
    found = re.findall(r"^```\w+\n(.*?)^```$", HOW_TO.read_text(encoding="utf-8"), re.M | re.S)
    (block,) = (block for block in found if word in block)
    return str(block)


def dashboard_queries() -> list[str]:
    dashboard = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    variables = [one["query"] for one in dashboard["templating"]["list"] if one["type"] == "query"]
    return queries + [
        re.sub(r"label_values\((.*), (\w+)\)", r"sum by (\2) (\1)", one["query"])
        for one in variables
    ]


def alert_queries() -> list[str]:
    (group,) = yaml.safe_load(block_with("alert:"))["groups"]
    return [rule["expr"] for rule in group["rules"]]


@pytest.mark.only("sqlite", reason="the names are the same on each")
def test_the_dashboard_and_the_documentation_name_what_there_is(
    database: Database, new_server: NewServer, tmp_path: Path
) -> None:
    lease = "c.PersistentSessionManager.lease_seconds = 3\n"
    server = new_server(f"{stored_in(database)}{PATIENT}{ENABLED}{lease}", root=tmp_path)
    server.start()
    session = server.create("a.ipynb")
    server.model(server.patch(session["id"], path="b.ipynb"), 200)
    server.model(server.patch(session["id"], kernel={"name": OTHER_KERNEL}), 200)
    server.sessions()
    server.delete(session["id"])

    def verbs() -> set[str]:
        return {name.partition(" ")[0] for name in Metrics.of(server).operations()}

    every = {
        *("find", "add", "update", "begin_close", "move", "remove"),
        *("mirror", "mirror_change", "renew", "evict"),
    }
    # A probe looks for a session, too.
    assert is_health(anonymous(server, HEALTH), "well")
    of_gateways = {"update", "begin_close", "move"}
    until(lambda: verbs() == every - of_gateways, why="every kind of operation on local sessions")
    metrics = Metrics.of(server)
    there = metrics.label_names()

    queries = dashboard_queries() + alert_queries()
    assert len(queries) > 15
    for query in queries:
        named = names_in(query)
        assert named, query
        for name, labels in named.items():
            assert name in there, query
            assert labels - SCRAPED <= there[name], query
    used = {family_of(name) for query in dashboard_queries() for name in names_in(query)}
    families = {family_of(name) for name in there}
    assert used == families, "the dashboard shows each metric"

    documented = dict(re.findall(rf"^\| `({PREFIX}_\w+)` \| \w+ \|([^|]*)\|", reference(), re.M))
    assert {family_of(name) for name in documented} == families
    for name, labels in documented.items():
        in_text = set(re.findall(r"`(\w+)`", labels))
        assert in_text == there[name if name in there else f"{name}_count"], name
    assert metrics.label_values("verb") == every
    text = reference()
    for value in every | metrics.label_values("outcome"):
        assert f"`{value}`" in text
    for outcome in (*known.OUTCOMES, *known.RENEWALS):
        assert f"`{outcome}`" in text
    assert values_in(queries, "outcome") <= {*known.OUTCOMES, *known.RENEWALS}

    in_schema = yaml.safe_load(SCHEMA_FILE.read_text(encoding="utf-8"))["properties"]
    rows = re.findall(r"^\| (`.*?`) \|", text.partition("## Events")[2], re.MULTILINE)
    assert set(re.findall(r"`(\w+)`", " ".join(rows))) == set(in_schema)

    fields = set(status_of(server))
    in_table = text.partition("## Status")[2].partition("## Metrics")[0]
    assert set(re.findall(r"^\| `(\w+)` \|", in_table, re.MULTILINE)) == fields


def reference() -> str:
    return REFERENCE.read_text(encoding="utf-8")


def family_of(name: str) -> str:
    """Return the metric of which a series is a part."""
    return re.sub(r"_(total|created|bucket|count|sum)$", "", name)


@pytest.mark.only("sqlite", reason="events do not depend on the database")
def test_events_as_the_documentation_has_them(
    database: Database, new_server: NewServer, tmp_path: Path
) -> None:
    block = block_with("EventLogger")
    file = tmp_path / "sessions.jsonl"
    config = block.replace("/var/log/jupyter/sessions.jsonl", str(file))
    assert config != block
    server = new_server(f"{stored_in(database)}\n{config}")
    server.start()
    session = server.create("a.ipynb")
    server.create("a.ipynb")
    server.model(server.patch(session["id"], path="b.ipynb"), 200)
    moved = server.model(server.patch(session["id"], kernel={"name": OTHER_KERNEL}), 200)
    assert server.delete(session["id"]).status_code == 204
    told = [json.loads(line) for line in file.read_text().splitlines()]
    kernel, other = session["kernel"]["id"], moved["kernel"]["id"]
    assert [(one["action"], one["path"], one["kernel_id"]) for one in told] == [
        ("created", "a.ipynb", kernel),
        ("moved", "b.ipynb", kernel),
        ("moved", "b.ipynb", other),
        ("closed", "b.ipynb", other),
    ]
    assert {one["session_id"] for one in told} == {session["id"]}
    assert {one["namespace"] for one in told} == {f"dir:{server.root}"}
    assert {one["__schema__"] for one in told} == {SCHEMA_ID}
    assert SCHEMA_ID in reference()
    assert server.uncaught() == []


def test_a_session_that_a_killed_server_had_begun_is_adopted(
    database: Database, new_server: NewServer, tmp_path: Path
) -> None:
    """Its kernel runs, on the gateway; its row still says that it is being started."""
    gateway = Gateway()
    try:
        gateway.start()
        file = tmp_path / "events.jsonl"
        server = new_server(
            f"{stored_in(database)}\n{gateway.client_config}{ENABLED}{SHORT_LEASE}"
            "c.ServerApp.kernel_manager_class ="
            " 'jupyter_session_store.gateway.PersistentGatewayKernelManager'\n"
            f"import logging\nc.EventLogger.handlers = [logging.FileHandler({str(file)!r})]\n",
            root=tmp_path,
        )
        server.start()
        session = server.create("a.ipynb")
        assert status_of(server)["authority"] == "gateway"
        # As a server leaves it that is killed before its second statement.
        database.execute(
            "UPDATE jupyter_sessions SET state = 'starting', server_id = 'another'"
            f" WHERE session_id = '{session['id']}'"
        )
        # That is looked for when a server that was seen is gone.
        database.execute(
            "INSERT INTO jupyter_servers (namespace, server_id, hostname, pid, version,"
            " started_at, renewals, lease_seconds)"
            " SELECT namespace, 'another', hostname, pid, version, started_at, renewals, 3"
            f" FROM jupyter_servers WHERE pid = {server.pid}"
        )

        def actions() -> list[str]:
            lines = [json.loads(line) for line in file.read_text().splitlines()]
            ours = [one for one in lines if one["__schema__"] == SCHEMA_ID]
            return [one["action"] for one in ours if one["session_id"] == session["id"]]

        until(lambda: actions() == ["created", "adopted"], why="it is adopted, and that is told")
        assert [one["id"] for one in server.sessions()] == [session["id"]]
        until(lambda: Metrics.of(server).get("evictions_total") == 1, why="another is evicted")
        assert server.delete(session["id"]).status_code == 204
        assert actions() == ["created", "adopted", "closed"]
        server.stop()
    finally:
        print(gateway.log)
        gateway.close()


def test_the_configuration_file_is_as_the_documentation_says() -> None:
    (file,) = (ROOT / PREFIX / "jupyter-config").iterdir()
    assert f"etc/jupyter/jupyter_server_config.d/{file.name}" in reference()
    assert json.loads(file.read_text())["ServerApp"]["jpserver_extensions"] == {PREFIX: True}
