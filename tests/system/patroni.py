"""Two PostgreSQL nodes under Patroni, with etcd, and HAProxy before them, without privileges.

A node is reached through cables that a test may cut: one for its clients and for HAProxy's check,
one for etcd and for the other node. Patroni's times are shorter than its defaults, and the proxy
is configured as docs/how-to/failover.md has it.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, ClassVar, Final
from urllib.parse import urlsplit

import httpx
import psutil

from ..databases import DRIVER_ERRORS, Database, NoDatabase
from ..databases.local import claimed_port, find_program
from ..databases.postgresql import LocalPostgreSQL
from ..databases.server import new_password
from ..docs.blocks import blocks
from .cable import Cable
from .process import JupyterProcess
from .waiting import until

#: Seconds. The lease of the leader, which a node that has gone silent keeps for so long. Patroni
#: takes no shorter one.
TTL: Final = 20
#: Of the seconds in which a leader that cannot reach etcd gives up, as many as Patroni lets it
#: have: on a busy machine etcd may take a few.
_RETRY: Final = 9

_PAGE: Final = "docs/how-to/failover.md"
#: Without what would be read from the environment, and loaded.
_PLAIN: Final[dict[str, Any]] = {"trust_env": False, "verify": False}


class Etcd(JupyterProcess):
    """The one server of etcd, which says who leads."""

    MODULE: ClassVar[str] = ""

    def __init__(self) -> None:
        self._peers = claimed_port()
        super().__init__()

    def configure(self, config: str) -> None:
        """It has a command line."""

    def command(self) -> list[str]:
        """Return what is run."""
        peers = f"http://127.0.0.1:{self._peers.getsockname()[1]}"
        return [
            str(_program("etcd", "etcd-server")),
            "--enable-v2=true",
            "--unsafe-no-fsync",
            f"--data-dir={self.directory / 'etcd'}",
            f"--listen-client-urls={self.url}",
            f"--advertise-client-urls={self.url}",
            f"--listen-peer-urls={peers}",
            f"--initial-advertise-peer-urls={peers}",
            f"--initial-cluster=default={peers}",
        ]

    def close(self) -> None:
        """End it, and remove its folder."""
        super().close()
        self._peers.close()

    def _answers(self) -> bool:
        with suppress(httpx.TransportError):
            return self.api.get("/health", timeout=5).status_code == 200
        return False


class Node(LocalPostgreSQL):
    """One PostgreSQL, and the Patroni that starts and promotes it.

    Parameters
    ----------
    name : str
    etcd : Etcd
    login : tuple of str
        The passwords of the tests' user and of replication, which both nodes share.
    dynamic : dict
        The cluster's configuration, if this node is the first.
    """

    # Patroni stops PostgreSQL then.
    STOP = signal.SIGTERM
    END = signal.SIGTERM

    def __init__(
        self, name: str, etcd: Etcd, login: tuple[str, str], dynamic: dict[str, Any]
    ) -> None:
        self.name = name
        self._etcd = etcd
        self._login = login
        self._dynamic = dynamic
        self._rest_claim = claimed_port()
        #: How a client reaches PostgreSQL, and asks Patroni; how this node reaches etcd; how the
        #: other one reaches this PostgreSQL and this Patroni.
        self._far_claims = [claimed_port() for _ in range(5)]
        self._cables: list[Cable] = []
        self._cabled_port: int | None = None
        super().__init__()

    @property
    def outside(self) -> Cable:
        """The cable to the clients, and to what asks Patroni who leads."""
        return self._cables[0]

    @property
    def inside(self) -> Cable:
        """The cable to etcd and to the other node."""
        return self._cables[1]

    @property
    def patroni_url(self) -> str:
        """Where this Patroni answers, whatever cable is cut."""
        return f"http://127.0.0.1:{_port(self._rest_claim)}"

    @property
    def client_port(self) -> int:
        """Where a client finds PostgreSQL."""
        return _port(self._far_claims[0])

    @property
    def check_port(self) -> int:
        """Where HAProxy asks whether this node leads."""
        return _port(self._far_claims[1])

    def find_programs(self) -> None:
        super().find_programs()
        self._patroni = _program("patroni", "patroni")

    def _initialise_or_copy(self) -> None:
        # Patroni makes the data directory.
        self.password = self._login[0]

    def start(self) -> None:
        if self._cabled_port != self.port:
            self._lay_cables()
        self.write("patroni.json", json.dumps(self._configuration()))
        super().start()

    def _lay_cables(self) -> None:
        for cable in self._cables:
            cable.close()
        rest = _port(self._rest_claim)
        client, check, to_etcd, to_this, to_rest = map(_port, self._far_claims)
        self._cables = [
            Cable((client, self.port), (check, rest)),
            Cable((to_etcd, self._etcd.port), (to_this, self.port), (to_rest, rest)),
        ]
        self._cabled_port = self.port

    def command(self) -> list[str]:
        return [str(self._patroni), str(self.directory / "patroni.json")]

    def _configuration(self) -> dict[str, Any]:
        """Return Patroni's configuration: JSON is YAML."""
        rest = _port(self._rest_claim)
        _, _, to_etcd, to_this, to_rest = map(_port, self._far_claims)
        password, replication = self._login
        return {
            "scope": "jss",
            "name": self.name,
            "restapi": {"listen": f"127.0.0.1:{rest}", "connect_address": f"127.0.0.1:{to_rest}"},
            # By the second version of its interface. By the third, a leader of Patroni 3.0 that was
            # stopped may write itself into the leader's key when it wakes, whoever leads by then.
            # A proxy: else Patroni asks etcd for its own address, around the cable.
            "etcd": {"hosts": [f"127.0.0.1:{to_etcd}"], "use_proxies": True, "protocol": "http"},
            "bootstrap": {
                "dcs": self._dynamic,
                "initdb": [{"encoding": "UTF8"}, {"locale": "C"}, "no-sync"],
            },
            "postgresql": {
                "listen": f"127.0.0.1:{self.port}",
                "connect_address": f"127.0.0.1:{to_this}",
                "data_dir": str(self.data),
                "bin_dir": str(self._initdb.parent),
                "pgpass": str(self.directory / "pgpass"),
                "remove_data_directory_on_diverged_timelines": True,
                "pg_hba": [
                    "host all all 127.0.0.1/32 scram-sha-256",
                    "host replication replicator 127.0.0.1/32 scram-sha-256",
                ],
                "authentication": {
                    "superuser": {"username": "jss", "password": password},
                    "replication": {"username": "replicator", "password": replication},
                },
                "parameters": {
                    "unix_socket_directories": str(self.directory),
                    # Written at each commit but not synced: what is committed outlives kill -9.
                    "fsync": "off",
                    "full_page_writes": "off",
                    # It is asked for what it follows once more when it has waited for so long.
                    "wal_receiver_timeout": "10s",
                },
            },
        }

    def roots(self) -> list[psutil.Process]:
        found = super().roots()
        # PostgreSQL is not Patroni's child.
        with suppress(OSError, ValueError, IndexError, psutil.NoSuchProcess):
            server = psutil.Process(int((self.data / "postmaster.pid").read_text().split()[0]))
            if str(self.data) in " ".join(server.cmdline()):
                found.append(server)
        return found

    def backends(self, database: Database) -> list[psutil.Process]:
        """Return the processes of PostgreSQL that serve the clients of a database."""
        name = urlsplit(database.url).path[1:]
        found = []
        for process in self.roots()[-1].children():
            with suppress(psutil.NoSuchProcess):
                if f" {name} " in " ".join(process.cmdline()):
                    found.append(process)
        return found

    def close(self) -> None:
        if self._process is not None:
            self.kill()
        super().close()
        for cable in self._cables:
            cable.close()
        for claim in (self._rest_claim, *self._far_claims):
            claim.close()

    def ask_patroni(self, path: str) -> httpx.Response | None:
        """Ask Patroni; return ``None`` if it does not answer."""
        with suppress(httpx.TransportError):
            return httpx.get(f"{self.patroni_url}{path}", timeout=5, **_PLAIN)
        return None

    def is_in_recovery(self) -> bool:
        """Whether it follows another, or does not answer."""
        try:
            return self.admin.rows("SELECT pg_is_in_recovery()") != [(False,)]
        except DRIVER_ERRORS:
            return True


class _Proxy(JupyterProcess):
    """HAProxy before the nodes: whoever connects gets the leader."""

    MODULE: ClassVar[str] = ""
    CONFIG_FILE: ClassVar[str] = "haproxy.cfg"

    def __init__(self, nodes: Sequence[Node]) -> None:
        self._nodes = nodes
        super().__init__()

    def configure(self, config: str) -> None:
        """Write the configuration of the page, with the places here."""
        (text,) = (
            block.text
            for block in blocks(_PAGE)
            if block.language == "text" and block.text.startswith("global\n")
        )
        places = {"*:5432": f"127.0.0.1:{self.port}"}
        for number, node in enumerate(self._nodes, 1):
            places[f"10.0.0.2{number}:5432"] = f"127.0.0.1:{node.client_port}"
        for documented, here in places.items():
            assert text.count(documented) == 1, documented
            text = text.replace(documented, here)
        for node in self._nodes:
            text = text.replace("check port 8008", f"check port {node.check_port}", 1)
        (self.directory / "config" / self.CONFIG_FILE).write_text(text)

    def command(self) -> list[str]:
        """Return what is run."""
        return [
            str(_program("haproxy", "haproxy")),
            "-f",
            str(self.directory / "config" / self.CONFIG_FILE),
        ]

    def _answers(self) -> bool:
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 5):
            return True
        return False


class PatroniCluster:
    """All of it, running.

    Attributes
    ----------
    nodes : sequence of Node
    """

    def __init__(self, etcd: Etcd, nodes: Sequence[Node], proxy: _Proxy, name: str) -> None:
        self.nodes = nodes
        self._etcd = etcd
        self._proxy = proxy
        self._name = name

    def leader(self) -> Node:
        """Return the node that leads, once there is one."""
        leader = until(self._find_leader, why="a node leads")
        assert leader is not None
        return leader

    def _find_leader(self) -> Node | None:
        for node in self.nodes:
            answer = node.ask_patroni("/primary")
            if answer is not None and answer.status_code == 200:
                return node
        return None

    def other(self, node: Node) -> Node:
        """Return the other one."""
        (other,) = (one for one in self.nodes if one is not node)
        return other

    @property
    def database(self) -> Database:
        """The servers' database, straight at the leader."""
        admin = self.leader().admin
        return Database("postgresql", urlsplit(admin.url)._replace(path=self._name).geturl())

    @property
    def url_of_hosts(self) -> str:
        """The URL of the servers' database with both hosts."""
        return url_of_hosts(self.database, *(node.client_port for node in self.nodes))

    @property
    def url_of_proxy(self) -> str:
        """The same through HAProxy."""
        parts = urlsplit(self.database.url)
        login = parts.netloc.rpartition("@")[0]
        return parts._replace(netloc=f"{login}@127.0.0.1:{self._proxy.port}").geturl()

    def wait_until_whole(self) -> tuple[Node, Node]:
        """Wait until the standby could take over; return the leader, and it."""
        # It may have to make its data anew.
        both = until(self._whole, why="the standby follows, and may take over", patience=180)
        assert both is not None
        return both

    def _whole(self) -> tuple[Node, Node] | None:
        leader = self._find_leader()
        if leader is None:
            return None
        standby = self.other(leader)
        state = leader.ask_patroni("/patroni")
        followers = state.json().get("replication", []) if state is not None else []
        streaming = {one["application_name"] for one in followers if one["state"] == "streaming"}
        # Who may take over is what etcd says, too.
        answer = standby.ask_patroni(self._standby_path)
        well = answer is not None and answer.status_code == 200
        return (leader, standby) if well and standby.name in streaming else None

    @property
    def _standby_path(self) -> str:
        answer = self.leader().ask_patroni("/config")
        is_synchronous = answer is not None and answer.json().get("synchronous_mode")
        return "/sync" if is_synchronous else "/replica"

    def switch_over(self, leader: Node) -> None:
        """Have the other node lead, in order.

        Patroni gives the candidate 2 s to say how it is, and the switch-over 20: on a busy machine
        it takes more, and is asked for again.
        """
        candidate = self.other(leader)
        body = {"leader": leader.name, "candidate": candidate.name}

        def switched() -> bool:
            with suppress(httpx.TransportError):
                url = f"{leader.patroni_url}/switchover"
                answer = httpx.post(url, json=body, timeout=60, **_PLAIN)
                print(f"switch-over to {candidate.name}: {answer.status_code} {answer.text}")
                if answer.status_code == 200:
                    return True
            return not candidate.is_in_recovery()

        until(switched, why="the other node leads", patience=180)

    def connections(self) -> int:
        """Return how many connections of clients the nodes have had."""
        return sum(node.outside.connections()[0] for node in self.nodes)

    def log(self) -> str:
        """Return what the nodes have said, at the end."""
        texts = []
        for node in self.nodes:
            path = node.directory / "log"
            texts.append(f"--- {node.name}\n{path.read_text(errors='replace')[-15000:]}")
        return "\n".join(texts)


@contextmanager
def patroni_cluster(*, synchronous: bool) -> Iterator[PatroniCluster]:
    """Start a cluster of two nodes, of which the second is a standby that may take over."""
    dynamic = {
        "ttl": TTL,
        "loop_wait": 1,
        "retry_timeout": _RETRY,
        "synchronous_mode": synchronous,
        # A former leader's data is made anew: after pg_rewind it waits for WAL that a leader with
        # little to write has not come to.
        "postgresql": {"use_pg_rewind": False, "parameters": {"max_connections": 50}},
    }
    login = (new_password(), secrets.token_hex(8))
    with ExitStack() as stack:
        etcd = Etcd()
        stack.callback(etcd.close)
        etcd.start()
        nodes = []
        for name in ("a", "b"):
            nodes.append(Node(name, etcd, login, dynamic))
            stack.callback(nodes[-1].close)
        proxy = _Proxy(nodes)
        stack.callback(proxy.close)
        proxy.start()
        path = urlsplit(nodes[0].create_database().url).path
        cluster = PatroniCluster(etcd, nodes, proxy, path)
        try:
            cluster.wait_until_whole()
            yield cluster
        except BaseException:
            print(cluster.log())
            raise


def url_of_hosts(database: Database, *ports: int) -> str:
    """Return the URL of a database on whichever of some servers can be written."""
    parts = urlsplit(database.url)
    login, name = parts.netloc.rpartition("@")[0], parts.path
    hosts = "&".join(f"host=127.0.0.1:{port}" for port in ports)
    return f"postgresql+psycopg://{login}@{name}?{hosts}&target_session_attrs=read-write"


def _port(claim: socket.socket) -> int:
    port: int = claim.getsockname()[1]
    return port


def _program(name: str, package: str) -> os.PathLike[str]:
    try:
        return find_program(name)
    except NoDatabase as error:
        raise NoDatabase(f"{error} (Debian: apt-get install {package})") from None
