"""How long each step may take, in seconds."""

from __future__ import annotations

from typing import Final

#: To connect.
CONNECT_TIMEOUT: Final = 5
#: To connect to one of several hosts: a request has time for two that hang. libpq takes no less.
HOST_TIMEOUT: Final = 2
#: For one statement of a server. PostgreSQL and MariaDB themselves give up a longer one: a change
#: that was refused to a client must not happen later. On MySQL one that waits for no lock may go
#: on after its connection was cut.
STATEMENT_TIMEOUT: Final = 5
#: From the time at which the database gives a statement up to its answer that says so. Whoever
#: has not answered by then does not speak any more.
ANSWER_MARGIN: Final = 0.25
#: For a lock of another process: SQLite's, a row's or a table's.
BUSY_TIMEOUT: Final = 4
#: For an answer from a host that has gone silent.
SILENCE_TIMEOUT: Final = 10
