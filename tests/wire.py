"""A proxy between a client and its database: it counts round trips and makes faults."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

from .databases import Database, parameters
from .databases.local import claimed_port

T = TypeVar("T")

_COMMANDS: Final = {
    0x01: "COM_QUIT",
    0x02: "COM_INIT_DB",
    0x03: "COM_QUERY",
    0x0E: "COM_PING",
    0x16: "COM_STMT_PREPARE",
    0x17: "COM_STMT_EXECUTE",
    0x18: "COM_STMT_SEND_LONG_DATA",
    0x19: "COM_STMT_CLOSE",
    0x1A: "COM_STMT_RESET",
    0x1B: "COM_SET_OPTION",
    0x1F: "COM_RESET_CONNECTION",
}
_UNANSWERED: Final = {"COM_QUIT", "COM_STMT_SEND_LONG_DATA", "COM_STMT_CLOSE"}

_POSTGRESQL_ENCRYPTION: Final = {80877103: "TLS", 80877104: "GSSAPI"}
_MYSQL_TLS: Final = 0x0800


class WireTap:
    """A proxy on 127.0.0.1 in a thread of its own; a context manager.

    What the counters say is complete when the client has its answer. The proxy
    declines encryption in the server's name: a client that insists on it fails.

    Parameters
    ----------
    target_host, target_port : str, int
        The database server.
    kind : str
        ``"postgresql"`` or ``"mysql"``.

    Attributes
    ----------
    round_trips : int
        PostgreSQL: flights of a client that the server answered with
        ReadyForQuery, authentication left out. MySQL: commands that have an answer.
    commands : list of str
        The client's messages: PostgreSQL's by their letters, MySQL's by their names.
    statements : list of str
        The SQL texts of the client: PostgreSQL's from Query and Parse, MySQL's
        from COM_QUERY and COM_STMT_PREPARE.
    logins : int
        Connections of clients that asked to log in, whether or not they could.
    """

    host: Final = "127.0.0.1"

    def __init__(self, target_host: str, target_port: int, kind: str) -> None:
        if kind not in ("postgresql", "mysql"):
            raise ValueError(f"{kind} has no wire")
        self._traffic: type[_PostgreSQL | _MySQL] = _PostgreSQL if kind == "postgresql" else _MySQL
        self._target = (target_host, target_port)
        # While it refuses, too.
        self._claim = claimed_port()
        self.port: int = self._claim.getsockname()[1]
        self.reset()

    @classmethod
    def to(cls, database: Database) -> WireTap:
        """Return a proxy to the server of a database."""
        settings = parameters(database.url)
        return cls(settings["host"], settings["port"], database.kind)

    def url(self, database: Database) -> str:
        """Return the URL of a database, through this proxy."""
        parts = urlsplit(database.url)
        login, at, _ = parts.netloc.rpartition("@")
        return parts._replace(netloc=f"{login}{at}{self.host}:{self.port}").geturl()

    def reset(self) -> None:
        """Begin to count anew."""
        self.round_trips = 0
        self.commands: list[str] = []
        self.statements: list[str] = []
        self.logins = 0

    def pause(self) -> None:
        """Pass nothing on, as a network that lost its way: connections are accepted, and held."""
        self._do(self._let_pass(False))

    def resume(self) -> None:
        """Pass on again, what was held included."""
        self._do(self._let_pass(True))

    def cut(self) -> None:
        """Close all connections. New ones are welcome."""
        self._do(self._cut())

    def refuse(self) -> None:
        """Listen no more: the system refuses new connections. The others stay."""
        self._do(self._refuse())

    def accept(self) -> None:
        """Listen again, on the same port."""
        self._do(self._listen())

    def __enter__(self) -> WireTap:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._connections: set[asyncio.Task[None]] = set()
        self._open = asyncio.Event()
        try:
            self._do(self._let_pass(True))
            self._do(self._listen())
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        try:
            self._do(self._refuse())
            self._do(self._cut())
        finally:
            self._end()

    def _end(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._claim.close()

    def _do(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    async def _let_pass(self, yes: bool) -> None:
        if yes:
            self._open.set()
        else:
            self._open.clear()

    async def _listen(self) -> None:
        self._listener = socket.create_server((self.host, self.port))
        self._listener.setblocking(False)
        # Not asyncio's own server: when that is closed, it leaks what it is just accepting.
        self._loop.add_reader(self._listener, self._take)

    async def _refuse(self) -> None:
        self._loop.remove_reader(self._listener)
        self._listener.close()

    async def _cut(self) -> None:
        connections = list(self._connections)
        for task in connections:
            task.cancel()
        await asyncio.gather(*connections, return_exceptions=True)

    def _take(self) -> None:
        with contextlib.suppress(OSError):  # the client may have left already
            client, _ = self._listener.accept()
            task = asyncio.ensure_future(self._connect(client))
            self._connections.add(task)
            task.add_done_callback(self._connections.discard)
            task.add_done_callback(lambda _: client.close())

    async def _connect(self, client: socket.socket) -> None:
        reader, writer = await asyncio.open_connection(sock=client)
        writers = [writer]
        pumps: list[asyncio.Task[None]] = []
        try:
            await self._open.wait()
            server_reader, server_writer = await asyncio.open_connection(*self._target)
            writers.append(server_writer)
            traffic = self._traffic(self)
            await traffic.begin(reader, writer, server_reader, server_writer)
            self.logins += 1
            pumps = [
                asyncio.ensure_future(self._pump(reader, server_writer, traffic.sent)),
                asyncio.ensure_future(self._pump(server_reader, writer, traffic.received)),
            ]
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            for one in writers:  # what one side said last still reaches the other
                one.close()
                await one.wait_closed()
        except (OSError, asyncio.IncompleteReadError):
            pass  # one side left: so does the other
        finally:
            for pump in pumps:
                pump.cancel()
            for one in writers:
                one.transport.abort()
            await asyncio.gather(*pumps, return_exceptions=True)

    async def _pump(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        look: Callable[[bytes], None],
    ) -> None:
        while data := await reader.read(65536):
            await self._open.wait()
            look(data)
            writer.write(data)
            await writer.drain()


class _PostgreSQL:
    """What a connection to PostgreSQL says."""

    def __init__(self, tap: WireTap) -> None:
        self._tap = tap
        self._from_client = bytearray()
        self._from_server = bytearray()
        self._ready = False
        self._asked = False

    async def begin(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        server_reader: asyncio.StreamReader,
        server_writer: asyncio.StreamWriter,
    ) -> None:
        """Pass on the first message, which alone has no letter."""
        while True:
            (size,) = struct.unpack("!I", head := await reader.readexactly(4))
            body = await reader.readexactly(size - 4)
            if struct.unpack("!I", body[:4])[0] not in _POSTGRESQL_ENCRYPTION:
                server_writer.write(head + body)
                return
            writer.write(b"N")

    def sent(self, data: bytes) -> None:
        for letter, body in self._messages(self._from_client, data):
            if not self._ready:
                continue  # the password
            self._asked = True
            self._tap.commands.append(letter)
            if letter == "Q":
                self._tap.statements.append(body[:-1].decode())
            elif letter == "P":
                self._tap.statements.append(body.split(b"\0")[1].decode())

    def received(self, data: bytes) -> None:
        for letter, _ in self._messages(self._from_server, data):
            if letter == "Z":
                if self._asked:
                    self._tap.round_trips += 1
                self._ready, self._asked = True, False

    @staticmethod
    def _messages(buffer: bytearray, data: bytes) -> Iterator[tuple[str, bytes]]:
        buffer += data
        while len(buffer) >= 5:
            end = 1 + struct.unpack("!I", buffer[1:5])[0]
            if len(buffer) < end:
                return
            letter, body = chr(buffer[0]), bytes(buffer[5:end])
            del buffer[:end]
            yield letter, body


class _MySQL:
    """What a connection to MySQL or MariaDB says."""

    def __init__(self, tap: WireTap) -> None:
        self._tap = tap
        self._from_client = bytearray()

    async def begin(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        server_reader: asyncio.StreamReader,
        server_writer: asyncio.StreamWriter,
    ) -> None:
        """Pass on the greeting of the server, without its offer of TLS."""
        head = await server_reader.readexactly(4)
        body = bytearray(await server_reader.readexactly(int.from_bytes(head[:3], "little")))
        if body[0] == 10:  # else it is an error: too many connections
            # The version of the server ends with NUL; the capabilities come after the
            # thread's id (4), the challenge (8) and a filler (1).
            at = body.index(0) + 1 + 13
            offer = int.from_bytes(body[at : at + 2], "little") & ~_MYSQL_TLS
            body[at : at + 2] = offer.to_bytes(2, "little")
        writer.write(head + body)

    def sent(self, data: bytes) -> None:
        buffer = self._from_client
        buffer += data
        while len(buffer) >= 4:
            end = 4 + int.from_bytes(buffer[:3], "little")
            if len(buffer) < end:
                return
            number, body = buffer[3], bytes(buffer[4:end])
            del buffer[:end]
            # Authentication, and the rest of a long command, have higher numbers.
            if number == 0 and body:
                self._command(body)

    def received(self, data: bytes) -> None:
        """Each answer is one to a command, which is counted."""

    def _command(self, body: bytes) -> None:
        name = _COMMANDS.get(body[0], f"COM_0x{body[0]:02x}")
        self._tap.commands.append(name)
        if name not in _UNANSWERED:
            self._tap.round_trips += 1
        if name in ("COM_QUERY", "COM_STMT_PREPARE"):
            self._tap.statements.append(body[1:].decode(errors="replace"))
