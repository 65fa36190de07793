"""Servers in containers, for a machine that has Docker and no server programs.

The public CI exercises this module, with ``JSS_TEST_DOCKER=1``.
"""

from __future__ import annotations

import gc
import warnings
from typing import Any, Final

from .local import free_port
from .server import Instance, NoDatabase, new_password

IMAGES: Final = {"postgresql": "postgres:17", "mysql": "mysql:8.4"}

_PORTS: Final = {"postgresql": 5432, "mysql": 3306}
_USERS: Final = {"postgresql": "jss", "mysql": "root"}
_ATTEMPTS: Final = 3


class Container(Instance):
    """A server in a container, which testcontainers removes even after a crash.

    Raises
    ------
    NoDatabase
        If there is no Docker engine, or the container does not come up.
    """

    def __init__(self, kind: str) -> None:
        password = new_password()
        with warnings.catch_warnings():
            # testcontainers and the Docker client warn of themselves, and leave sockets open.
            warnings.simplefilter("ignore")
            reason = self._try(kind, password)
            gc.collect()
        if reason is not None:
            raise NoDatabase(reason)
        super().__init__(
            kind,
            _USERS[kind],
            password,
            self._container.get_container_host_ip(),
            int(self._container.get_exposed_port(_PORTS[kind])),
            f"container of {IMAGES[kind]}",
        )
        try:
            self.wait_until_ready()
        except BaseException:
            self.close()
            raise

    def _try(self, kind: str, password: str) -> str | None:
        """Start the container, or return why there is none."""
        for _ in range(_ATTEMPTS):
            try:
                self._container = _container(kind, password)
                self._container.start()
                return None
            except ImportError as error:
                return f"testcontainers is not installed: {error}"
            except Exception as error:  # each layer below has errors of its own
                reason = f"Docker: {type(error).__name__}: {error}"
                self._remove()
            if "already allocated" not in reason and "already in use" not in reason:
                break
        return reason

    def start(self) -> None:
        self._container.get_wrapped_container().start()
        self.wait_until_ready()

    def stop(self) -> None:
        self._container.get_wrapped_container().stop(timeout=30)

    def kill(self) -> None:
        wrapped = self._container.get_wrapped_container()
        wrapped.kill()
        wrapped.wait(timeout=30)  # to start one that still runs does nothing

    def freeze(self) -> None:
        self._container.get_wrapped_container().pause()

    def thaw(self) -> None:
        self._container.get_wrapped_container().unpause()

    def put(self, name: str, text: str) -> str:
        path = f"/tmp/{name}"
        owner = {"postgresql": "postgres", "mysql": "mysql"}[self.kind]
        code, output = self._container.get_wrapped_container().exec_run(
            [
                *("sh", "-c", 'umask 077; printf %s "$1" > "$0"; chown "$2" "$0"'),
                *(path, text, owner),
            ],
            user="root",
        )
        if code:
            raise NoDatabase(f"{path} cannot be written: {output.decode(errors='replace')}")
        return path

    def failure(self) -> str | None:
        wrapped = self._container.get_wrapped_container()
        wrapped.reload()
        if wrapped.status in ("created", "restarting", "running"):
            return None
        return f"the container is {wrapped.status}: {wrapped.logs(tail=20).decode()}"

    def close(self) -> None:
        self._remove()

    def _remove(self) -> None:
        container, self._container = self._container, None
        if container is not None:
            container.stop()

    _container: Any = None


def _container(kind: str, password: str) -> Any:
    """Return a container that is not started, on a port that outlives a restart."""
    container: Any
    if kind == "postgresql":
        try:
            from testcontainers.community.postgres import PostgresContainer
        except ImportError:  # before testcontainers 4.15
            from testcontainers.postgres import PostgresContainer
        container = PostgresContainer(
            IMAGES[kind],
            username=_USERS[kind],
            password=password,
            dbname="postgres",
            driver=None,
        )
        container.with_command("postgres -c fsync=off")
    else:
        try:
            from testcontainers.community.mysql import MySqlContainer
        except ImportError:
            from testcontainers.mysql import MySqlContainer
        container = MySqlContainer(IMAGES[kind], username=_USERS[kind], password=password)
    # A port that Docker picks would be another one after each start.
    return container.with_bind_ports(_PORTS[kind], free_port())
