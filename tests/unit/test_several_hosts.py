"""In which order hosts are tried, how long each may take, and what is told if none answers."""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jupyter_session_store.sql.engine import factory, hosts
from jupyter_session_store.sql.engine.hosts import Hosts
from jupyter_session_store.sql.engine.places import Place
from jupyter_session_store.sql.engine.speaking import Questions
from jupyter_session_store.sql.repository import SQLAlchemySessionRepository
from jupyter_session_store.testing import SCOPE, record, server
from tests.databases.database import Database
from tests.hanging import HangingProxy

#: What libpq's parameters say of three hosts.
THREE = {"host": "a,b,c", "port": "1,2,3", "hostaddr": "192.0.2.1,192.0.2.2,192.0.2.3"}


class Refused(Exception):
    """As a driver's own."""


class Network:
    """Notes who is connected to, and whom it lets in.

    Parameters
    ----------
    answering : str
        The hosts that answer, each a letter.
    """

    def __init__(self, answering: str, *, limited: bool = True) -> None:
        self.answering = answering
        self.tried = ""
        self.named: list[dict[str, Any]] = []
        self.reason = "refused"
        self.hosts = Hosts(self._connect, Refused, limited=limited)

    def _connect(self, **named: Any) -> str:
        host: str = named["host"]
        self.tried += host
        self.named.append(named)
        if host not in self.answering:
            raise Refused(f'connection to server at "{host}", port 1 failed: {self.reason}\nmore')
        return host

    def connect(self, **named: Any) -> str:
        """Connect, and return whom it tried."""
        self.tried, self.named = "", []
        self.hosts(**{**THREE, **named})
        return self.tried


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HOST", "HOSTADDR", "PORT", "SERVICE", "TARGETSESSIONATTRS", "LOADBALANCEHOSTS"):
        monkeypatch.delenv(f"PG{name}", raising=False)


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Let so many seconds pass."""
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now)

    def later(seconds: float) -> None:
        nonlocal now
        now += seconds

    return later


def test_the_one_that_answered_is_tried_first() -> None:
    network = Network("b")
    assert network.connect() == "ab"
    assert [one["target_session_attrs"] for one in network.named] == ["read-write"] * 2
    assert str(network.hosts.answering) == "b:2"
    assert network.connect() == "b"
    network.answering = "c"
    assert network.connect() == "bac"
    assert network.connect(target_session_attrs="primary") == "c"
    network.answering = "a"
    assert network.connect() == "ca"


def test_any_keeps_the_order() -> None:
    network = Network("bc")
    for _ in range(2):
        assert network.connect(target_session_attrs="any") == "ab"
    # It takes no writes.
    network.hosts.leave()
    assert network.connect(target_session_attrs="any") == "ac"


def test_one_that_hangs_is_tried_last_for_a_while(later: Callable[[float], None]) -> None:
    network = Network("abc")
    assert network.connect(target_session_attrs="any") == "a"
    network.hosts.leave()
    later(29)
    assert network.connect(target_session_attrs="any") == "b"
    later(2)
    assert network.connect(target_session_attrs="any") == "a"
    network.answering, network.reason = "bc", "timeout expired"
    assert network.connect(target_session_attrs="any") == "ab"
    assert network.connect(target_session_attrs="any") == "b"
    later(31)
    assert network.connect(target_session_attrs="any") == "ab"


class Asked:
    """In the place of the questions to hosts that hang: what a test says happens meanwhile.

    Parameters
    ----------
    happens : callable
        Is given how many questions there were before, and returns who answers.
    """

    def __init__(self, happens: Callable[[int], str]) -> None:
        self._happens = happens
        self.places: list[str] = []

    def __call__(self) -> Asked:
        return self

    def __enter__(self) -> Asked:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def wait(self, places: list[Place], seconds: float) -> list[Place]:
        answering = self._happens(len(self.places))
        self.places.append("".join(one.host for one in places))
        return [one for one in places if one.host in answering]


def hanging(network: Network) -> None:
    """Connect to the first, and find that it hangs."""
    network.answering = "a"
    network.connect()
    network.hosts.leave()
    network.answering = ""


def test_who_is_promoted_while_the_former_primary_hangs_is_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    network = Network("")

    def happens(turn: int) -> str:
        network.answering = "c" if turn else ""
        return ""

    asked = Asked(happens)
    monkeypatch.setattr(hosts, "Questions", asked)
    hanging(network)
    assert network.connect() == "bcbcbc"
    assert asked.places == ["a", "a"]
    assert str(network.hosts.answering) == "c:3"


def test_who_hangs_is_connected_to_only_once_it_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    network = Network("")

    def happens(turn: int) -> str:
        network.answering = "a" if turn else ""
        return "a"

    monkeypatch.setattr(hosts, "Questions", Asked(happens))
    hanging(network)
    with pytest.raises(Refused) as refused:
        # Nobody hangs any more.
        network.connect()
    assert network.tried == "bcbca"
    assert str(refused.value).endswith("a:1 (192.0.2.1): refused")
    hanging(network)
    assert network.connect() == "bcbca"
    # It does not hang, so it is the first.
    assert network.connect() == "a"


@pytest.mark.parametrize(("given", "questions"), [({}, 10), ({"connect_timeout": "3"}, 6)])
def test_who_goes_on_to_hang_is_told_of(
    given: dict[str, str],
    questions: int,
    monkeypatch: pytest.MonkeyPatch,
    later: Callable[[float], None],
) -> None:
    network = Network("", limited=not given)

    def happens(_: int) -> str:
        later(0.5)
        return ""

    asked = Asked(happens)
    monkeypatch.setattr(hosts, "Questions", asked)
    hanging(network)
    for _ in range(10):
        with pytest.raises(Refused) as refused:
            network.connect(**given)
        assert str(refused.value) == (
            "b:2 (192.0.2.2): refused; c:3 (192.0.2.3): refused; "
            "a:1 (192.0.2.1): connection timeout expired"
        )
        # Also after the time for which who has hung is tried last: it hangs still.
        assert "a" not in network.tried
    assert len(asked.places) == 10 * questions


def test_a_pooler_that_tells_of_a_time_out_does_not_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = Asked(lambda _: "abc")
    monkeypatch.setattr(hosts, "Questions", asked)
    network = Network("")
    # As PgBouncer says it, at once, while it cannot connect to its own server.
    network.reason = "FATAL:  server login has been failing, cached error: connect timeout"
    with pytest.raises(Refused):
        network.connect()
    assert (network.tried, asked.places) == ("abc", [])


def test_who_speaks_and_lets_nobody_in_is_not_asked_at_once(
    monkeypatch: pytest.MonkeyPatch, later: Callable[[float], None]
) -> None:
    asked = Asked(lambda _: "abc")
    monkeypatch.setattr(hosts, "Questions", asked)
    monkeypatch.setattr(time, "sleep", later)
    network = Network("")
    network.reason = "timeout"
    with pytest.raises(Refused):
        network.connect()
    # At once, and then twice a second.
    assert len(asked.places) == 11


def test_who_speaks_and_who_does_not() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent, socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        places = [
            Place("silent", str(silent.getsockname()[1]), "127.0.0.1"),
            Place("nobody", str(nobody.getsockname()[1]), "127.0.0.1"),
        ]
        unknown = Place("unknown", "1")
        with Questions() as questions:
            assert questions.wait(places[:1], 0.1) == []
            assert questions.wait(places, 60) == places[1:]
            assert questions.wait([places[0], unknown], 60) == [unknown]
            connection, _ = silent.accept()
            with connection:
                assert connection.recv(100) == b"\0\0\0\x08\x04\xd2\x16\x2f"
                connection.send(b"N")
                assert questions.wait(places[:1], 60) == places[:1]
        silent.settimeout(0)
        with pytest.raises(BlockingIOError):
            # It was asked once.
            silent.accept()


def test_who_cannot_be_asked_is_left_to_the_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: Any) -> socket.socket:
        raise OSError("Too many open files")

    place = Place("a", "1", "127.0.0.1")
    with Questions() as questions:
        monkeypatch.setattr(socket, "socket", none)
        assert questions.wait([place], 60) == [place]


def test_a_socket_that_speaks(tmp_path: Path) -> None:
    place = Place(str(tmp_path), "1")
    with Questions() as questions:
        # There is none, which the driver says.
        assert questions.wait([place], 60) == [place]
    with socket.socket(socket.AF_UNIX) as server, Questions() as questions:
        server.bind(f"{tmp_path}/.s.PGSQL.1")
        server.listen()
        assert questions.wait([place], 0.1) == []
        server.accept()[0].close()
        assert questions.wait([place], 60) == [place]


def test_at_random() -> None:
    network = Network("abc")
    tried = {network.connect(load_balance_hosts="random") for _ in range(200)}
    assert tried == {"a", "b", "c"}
    assert all("load_balance_hosts" not in one for one in network.named)


def test_how_long_each_may_take() -> None:
    network = Network("c")
    network.connect(connect_timeout=5)
    assert [one["connect_timeout"] for one in network.named] == [2, 2, 5]
    network = Network("c", limited=False)
    network.connect(connect_timeout=7)
    assert [one["connect_timeout"] for one in network.named] == [7, 7, 7]


def test_each_is_told() -> None:
    network = Network("")
    with pytest.raises(Refused) as refused:
        network.connect()
    assert str(refused.value) == "a:1 (192.0.2.1): refused; b:2 (192.0.2.2): refused; " + (
        "c:3 (192.0.2.3): refused"
    )


def test_only_one_of_them() -> None:
    network = Network("abc")
    network.connect()
    with network.hosts.only(Place("b", "2", "192.0.2.2")):
        assert network.connect() == "b"
        assert network.named[0]["target_session_attrs"] == "any"
    assert str(network.hosts.answering) == "a:1"


def test_the_addresses_of_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def look_up(host: str, *_: Any, **__: Any) -> list[Any]:
        if host == "nowhere":
            raise socket.gaierror("unknown")
        return [(None, None, None, "", (f"192.0.2.{number}", 0)) for number in (1, 2)]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    network, tried = Network("d"), list[tuple[str, str]]()

    def connect(**named: Any) -> str:
        tried.append((named.get("host", ""), named.get("hostaddr", "")))
        if named.get("hostaddr") != "192.0.2.2":
            raise Refused("timeout expired")
        return "made"

    network.hosts._connect = connect
    assert network.hosts(host="d", port=1) == "made"
    assert tried == [("d", "192.0.2.1"), ("d", "192.0.2.2")]
    # They are of one host, which every text names.
    assert (network.hosts.answering, network.hosts.places) == (None, [])
    tried.clear()
    assert network.hosts(host="d", port=1) == "made"
    assert tried == [("d", "192.0.2.2")]
    tried.clear()
    # The driver says why.
    for host in ("nowhere", "/run/postgresql", ""):
        with pytest.raises(Refused):
            network.hosts(host=host)
    assert tried == [("nowhere", ""), ("/run/postgresql", ""), ("", "")]


@pytest.mark.parametrize(
    ("named", "variables", "places"),
    [
        ({}, {}, [Place("")]),
        ({"host": "a"}, {"PGPORT": "1"}, [Place("a", "1")]),
        ({}, {"PGHOST": "a,b", "PGPORT": "1"}, [Place("a", "1"), Place("b", "1")]),
        ({"host": "a,b", "port": "1,"}, {}, [Place("a", "1"), Place("b", "5432")]),
        ({"service": "x"}, {"PGHOST": "a,b"}, [Place("")]),
        ({}, {"PGHOST": "a,b", "PGSERVICE": "x"}, [Place("")]),
        ({"hostaddr": "1,2"}, {}, [Place("", "", "1"), Place("", "", "2")]),
        ({"host": "a,b", "port": "1,2,3"}, {}, []),
    ],
)
def test_where_the_places_are_written(
    named: dict[str, str],
    variables: dict[str, str],
    places: list[Place],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert hosts._places_of(named) == places


def test_who_takes_one_host_has_none() -> None:
    engine = factory.create("mysql://u@h/d")
    assert hosts.hosts_of(engine) is None
    engine.dispose()


@pytest.mark.only("mysql", reason="PostgreSQL's name moves in a real file, in tests/system")
async def test_a_name_that_moves_in_dns_is_followed(
    database: Database, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    ports: list[int] = []
    look_up = socket.getaddrinfo

    def moving(host: Any, port: Any, *how: Any, **named: Any) -> Any:
        if host == "db.test":
            host, port = "127.0.0.1", ports[-1]
        return look_up(host, port, *how, **named)

    monkeypatch.setattr(socket, "getaddrinfo", moving)
    with HangingProxy(database) as second:
        with HangingProxy(database) as first:
            ports.append(first.port)
            repository = SQLAlchemySessionRepository(
                first.url.replace("@127.0.0.1:", "@db.test:"),
                options={},
                auto_upgrade="safe",
                log=logging.getLogger("tests"),
            )
            repository.open(SCOPE, server("one"), timeout=60)
            await repository.add(record("a"))
        ports.append(second.port)
        assert await repository.find(SCOPE) == [record("a")]
        repository.close(timeout=10)
    assert "unavailable" not in caplog.text
