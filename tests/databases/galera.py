"""A temporary cluster of Galera: MariaDB on several ports of this machine, each with all rows."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from .database import DRIVER_ERRORS, Database
from .local import LocalInstance, claimed_port, copy_data, find_program
from .mysql import LocalMySQL
from .server import NoDatabase

#: Where systems have the library.
_LIBRARIES: Final = ("usr/lib/galera", "usr/lib64/galera*", "usr/lib/*/galera", "usr/local/lib/*")
_LIBRARY: Final = "libgalera_smm.so"
_PATIENCE: Final = 120.0


def find_library() -> Path:
    """Return the library that makes a node of a MariaDB.

    Raises
    ------
    NoDatabase
        If it is not there.
    """
    for folder in _LIBRARIES:
        for found in sorted(Path("/").glob(f"{folder}/{_LIBRARY}")):
            return found
    raise NoDatabase(f"{_LIBRARY} is in no usual folder (Debian: apt-get install galera-4)")


class Node(LocalMySQL):
    """One MariaDB of a cluster.

    Parameters
    ----------
    cluster : Galera
        Which knows the addresses of all.
    number : int
        Its place among them.
    data : Path
        What it begins with.
    password : str
        Of the user in it.
    """

    def __init__(self, cluster: Galera, number: int, data: Path, password: str) -> None:
        self._cluster = cluster
        self._number = number
        self._first_data = data
        self._first_password = password
        #: Whether the next start founds the cluster, and from where it goes on else.
        self.founds = False
        self._position: str | None = None
        super().__init__()

    def find_programs(self) -> None:
        super().find_programs()
        self._library = find_library()

    def _initialise_or_copy(self) -> None:
        self.password = self._first_password
        copy_data(self._first_data, self.data)

    def prepare(self) -> None:
        """Write nothing: the user is in the data."""

    def start(self) -> None:
        """Start it where it stopped: after a kill, only InnoDB knows."""
        self._position = self._recover()
        super().start()
        self.founds = False

    def command(self) -> list[str]:
        ports = self._cluster.ports
        group, transfer, whole = ports[self._number]
        members = ",".join(f"127.0.0.1:{group}" for group, _, _ in ports)
        options = {
            "base_port": group,
            "gmcast.listen_addr": f"tcp://127.0.0.1:{group}",
            "ist.recv_addr": f"127.0.0.1:{transfer}",
            "gcache.size": "16M",
        }
        settings = {
            "binlog-format": "ROW",
            "innodb-autoinc-lock-mode": 2,
            "wsrep-on": "ON",
            "wsrep-provider": self._library,
            "wsrep-cluster-name": "jss",
            "wsrep-cluster-address": "gcomm://" + ("" if self.founds else members),
            "wsrep-node-name": f"node-{self._number}",
            "wsrep-node-address": "127.0.0.1",
            "wsrep-provider-options": "; ".join(f"{n}={value}" for n, value in options.items()),
            # Reads, changes and additions wait for what the others have written.
            "wsrep-sync-wait": 7,
            "wsrep-sst-method": "rsync",
            "wsrep-sst-receive-address": f"127.0.0.1:{whole}",
        }
        words = [one for one in super().command() if not one.startswith("--init-file")]
        words += [f"--{name}={value}" for name, value in settings.items()]
        if self.founds:
            words.append("--wsrep-new-cluster")
        if self._position is not None:
            words.append(f"--wsrep-start-position={self._position}")
        return words

    def _recover(self) -> str | None:
        """Return where it has got to, if that is not in the file that an orderly stop leaves."""
        state = self.data / "grastate.dat"
        if not state.exists() or "seqno:   -1" not in state.read_text():
            return None
        words = [one for one in self.command() if not one.startswith("--wsrep-start-position")]
        done = subprocess.run(
            [*self._user, *words, "--wsrep-recover"],
            cwd=self.directory,
            env=self._environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
        )
        found = re.search(rb"WSREP: Recovered position: (\S+)", done.stdout + done.stderr)
        if found is None:
            raise NoDatabase(f"its position is not to be had: {done.stderr[-2000:]!r}")
        return found[1].decode()

    def status(self, name: str) -> str:
        """Return what it says of itself and its cluster."""
        ((_, value),) = self.admin.rows(f"SHOW STATUS LIKE 'wsrep_{name}'")
        return str(value)

    def isolate(self) -> None:
        """Take it out of the group, as a network that has lost its way does; it goes on alone."""
        self.admin.execute("SET GLOBAL wsrep_provider_options = 'gmcast.isolate=1'")

    def bring_back(self) -> None:
        """Let it find the others again."""
        self.admin.execute("SET GLOBAL wsrep_provider_options = 'gmcast.isolate=0'")


class Galera:
    """A cluster of nodes, gone at the end.

    Parameters
    ----------
    number : int
        Of nodes.

    Attributes
    ----------
    nodes : list of Node
    """

    def __init__(self, number: int = 3) -> None:
        find_library()
        self._claims = [[claimed_port() for _ in range(3)] for _ in range(number)]
        #: Of each node: for the group, for what it has missed, for all of the data.
        self.ports = [[claim.getsockname()[1] for claim in claims] for claims in self._claims]
        self.nodes: list[Node] = []
        try:
            self._found(number)
        except BaseException:
            self.close()
            raise

    def _found(self, number: int) -> None:
        # With its user, whom a node can make only together with the others.
        seed = LocalMySQL()
        try:
            seed.stop()
            first = _Founder(self, 0, seed.data, seed.password)
            self.nodes.append(first)
        finally:
            seed.close()
        # Stopped, it knows where it is: who begins with its data has missed nothing, and needs
        # no transfer.
        first.stop()
        copy = first.directory / "copy"
        copy_data(first.data, copy)
        first.founds = True
        first.start()
        for place in range(1, number):
            self.nodes.append(Node(self, place, copy, first.password))
        self.wait()

    def wait(self) -> None:
        """Wait until all nodes are there, and have what the others have."""
        deadline = time.monotonic() + _PATIENCE
        while not self._is_whole():
            if time.monotonic() > deadline:
                raise NoDatabase(f"the cluster is not whole in {_PATIENCE:.0f} s")
            time.sleep(0.1)

    def mend(self) -> None:
        """Bring back what a test that has failed left away."""
        for node in self.nodes:
            if node.pid is None:
                node.start()
            elif node.status("ready") != "ON":
                node.bring_back()
        self.wait()

    def _is_whole(self) -> bool:
        with suppress(*DRIVER_ERRORS):
            return all(
                node.status("cluster_size") == str(len(self.nodes))
                and node.status("local_state_comment") == "Synced"
                for node in self.nodes
            )
        return False

    @contextmanager
    def database(self) -> Iterator[list[Database]]:
        """Create a database, and yield it as each node has it."""
        made = self.nodes[0].create_database()
        try:
            for node in self.nodes:
                # It waits until the node has it.
                node.admin.rows("SELECT 1")
            yield [at(node, made) for node in self.nodes]
        finally:
            self.nodes[0].drop_database(made)

    def close(self) -> None:
        """End all nodes."""
        for node in self.nodes:
            node.close()
        for claims in self._claims:
            for claim in claims:
                claim.close()


class _Founder(Node):
    """The first node, whose first start founds the cluster."""

    def _initialise_or_copy(self) -> None:
        super()._initialise_or_copy()
        self.founds = True


def at(instance: LocalInstance, database: Database) -> Database:
    """Return a database as one server has it: a node, or what stands before them."""
    parts = urlsplit(instance.admin.url)
    return Database("mysql", parts._replace(path=urlsplit(database.url).path).geturl())


_PROXY: Final = """
global
    maxconn 1000
defaults
    mode tcp
    timeout connect 2s
    timeout check 10s
    timeout client 1h
    timeout server 1h
    option redispatch 1
    retries 3
listen galera
    bind 127.0.0.1:{port}
    balance roundrobin
    option httpchk
    http-check expect status 200
    default-server inter 1s fall 1 rise 1 on-marked-down shutdown-sessions
"""


class Proxy(LocalInstance):
    """HAProxy before the nodes of a cluster, in turn.

    Parameters
    ----------
    cluster : Galera
    checks : list of int
        The port on which each node's check answers.
    """

    def __init__(self, cluster: Galera, checks: list[int]) -> None:
        self._cluster = cluster
        self._checks = checks
        super().__init__("mysql")

    def find_programs(self) -> None:
        try:
            self._program = find_program("haproxy")
        except NoDatabase as error:
            raise NoDatabase(f"{error} (Debian: apt-get install haproxy)") from None

    def initialise(self) -> None:
        self.password = self._cluster.nodes[0].password

    def start(self) -> None:
        servers = "".join(
            f"    server node-{place} 127.0.0.1:{node.port} check port {check}\n"
            for place, (node, check) in enumerate(
                zip(self._cluster.nodes, self._checks, strict=True)
            )
        )
        self.write("haproxy.cfg", _PROXY.format(port=self.port) + servers)
        super().start()

    def command(self) -> list[str]:
        return [str(self._program), "-f", str(self.directory / "haproxy.cfg")]
