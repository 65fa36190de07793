"""How a test gets a database, on each of the three kinds.

A server is, in this order: the one whose URL is in the environment
(``JSS_TEST_POSTGRESQL_URL``, ``JSS_TEST_MYSQL_URL``; its user may create
databases); a temporary instance of the server programs on this machine; a
container. Where there is none, the run fails and says how to get one.
``JSS_TEST_DOCKER=1`` leaves out the second.
"""

from .database import DRIVER_ERRORS, KINDS, Database, parameters
from .server import Instance, NoDatabase, Server
from .ways import private_server, shared_server

__all__ = [
    "DRIVER_ERRORS",
    "KINDS",
    "Database",
    "Instance",
    "NoDatabase",
    "Server",
    "parameters",
    "private_server",
    "shared_server",
]
