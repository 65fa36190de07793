"""With ``--debug`` an application logs its whole configuration: without what is secret."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from ..system.conftest import new_server  # noqa: F401  a fixture
from ..system.server import JupyterServer

SECRET = "Zq7Xw9Kp3Vb2"


@pytest.mark.system
@pytest.mark.parametrize(
    "line",
    [
        f'c.SessionManager.database_filepath = "postgresql://u:{SECRET}@127.0.0.1:1/d"',
        f'c.PersistentSessionManager.database_filepath = "mysql://u:{SECRET}@127.0.0.1:1/d"',
        f"""c.PersistentSessionManager.engine_options = {{"connect_args": {{"passwd": "{SECRET}"}}}}
c.SessionManager.database_filepath = "mysql://u@127.0.0.1:1/d\"""",
    ],
)
def test_no_level_of_the_log_shows_a_password(
    new_server: Callable[..., JupyterServer],  # noqa: F811
    line: str,
) -> None:
    server = new_server(line, arguments=["--debug"])
    # It is the applications of extensions, each with a log of its own, that log it.
    file = server.directory / "config" / server.CONFIG_FILE
    file.write_text(re.sub("c.ServerApp.jpserver_extensions = .*", "", file.read_text()))
    server.start()
    assert "Config changed" in server.log
    assert "(not shown)" in server.log
    assert SECRET not in server.log

    server.stop()
