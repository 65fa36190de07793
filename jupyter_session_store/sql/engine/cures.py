"""What an operator can do about an error, by what the database says."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from typing import Final

from sqlalchemy import URL, Engine
from sqlalchemy.exc import DBAPIError

from .backend import backend_of, quote_name
from .places import SEVERAL_FORM

#: What libpq says of a host that does not do what the URL asks for.
TAKES_NO_WRITES: Final = r"is in hot standby mode|session is read-only"
#: What drivers and servers say, in any case of letters, and what mends it.
_CURES: Final[Mapping[str, str]] = {
    r"password authentication failed|no password supplied|access denied .*using password": (
        "Mend the user or the password in the URL, where its special characters are "
        "percent-encoded, or the file that engine_options['password_file'] names."
    ),
    r"peer authentication failed|ident authentication failed": (
        "Name the server's host in the URL, or the user that this process runs as."
    ),
    # The name of the policy: a server says the rest in its own language. A table has it, too.
    r'(?<!relation )"jupyter_session_store_wall"': (
        "The role has not been granted this namespace. As the owner of the tables: "
        "jupyter session-store wall grant NAMESPACE --role ROLE"
    ),
    r"is not permitted to log in": "ALTER ROLE {role} LOGIN;",
    r"is not currently accepting connections": (
        "ALTER DATABASE {database} ALLOW_CONNECTIONS true;"
    ),
    r"invalid connection option|invalid \w+ value": (
        "Mend that parameter of the URL or of the connect_args: "
        "https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-PARAMKEYWORDS"
    ),
    r"account is locked": "ALTER USER '{user}'@'%' ACCOUNT UNLOCK;",
    r"password has expired": "ALTER USER '{user}'@'%' IDENTIFIED BY '...';",
    r"blocked because of many connection errors": "FLUSH HOSTS;",
    r"role .* does not exist|no such user": "CREATE ROLE {role} LOGIN PASSWORD '...';",
    r"database .* does not exist|no such database|unknown database": "CREATE DATABASE {database};",
    r"permission denied for database": "GRANT CONNECT ON DATABASE {database} TO {role};",
    r"access denied .* to database": (
        "GRANT SELECT, INSERT, UPDATE, DELETE ON {database}.* TO '{user}'@'%';"
    ),
    r"is not allowed to connect": "CREATE USER '{user}'@'%' IDENTIFIED BY '...';",
    r"no pg_hba\.conf entry.*(no encryption|ssl off)": "{verify_full}",
    r"pg_hba\.conf rejects": (
        "Put before the line of pg_hba.conf that rejects it, and reload it: hostssl {database} "
        "{role} ADDRESS scram-sha-256"
    ),
    r"no pg_hba\.conf entry": (
        "Add to pg_hba.conf, and reload it: hostssl {database} {role} ADDRESS scram-sha-256"
    ),
    r"insecure transport": 'engine_options = {{"connect_args": {{"ssl": {{"ca": "PATH"}}}}}}',
    r"does not support ssl|doesn't support ssl|ssl is not supported|ssl connection error": (
        "Turn TLS on in the server, or off in the URL or the connect_args (sslmode, ssl)."
    ),
    TAKES_NO_WRITES: f"Name the primary in the URL, or all hosts: {SEVERAL_FORM}",
    r"client certificate": "Name one's own: sslcert and sslkey (PostgreSQL), ssl's cert and key.",
    r"^filenotfounderror|certificate|hostname mismatch|match host name": (
        "Name the file of the authority that has signed the server's certificate "
        "(sslrootcert for PostgreSQL, ssl's ca for MySQL), and in the URL a host that the "
        "certificate names."
    ),
    r"translate host name|resolve host|not known|getaddrinfo|nodename nor|name resolution": (
        "Mend the host in the URL. Whether it is known here: getent hosts {host}"
    ),
    r"connection refused|no such file or directory": (
        "Start the server, or mend the host and the port in the URL. Whether it listens to "
        "others: listen_addresses of PostgreSQL, bind-address of MySQL."
    ),
    r"time-?out|timed out|no route to host|network is unreachable": (
        "Open the way through firewalls and network policies, or mend the host and the port "
        "in the URL. To try it: nc -vz {host} {port}"
    ),
    r"too many connections for role": "ALTER ROLE {role} CONNECTION LIMIT -1;",
    r"too many connections for database": "ALTER DATABASE {database} CONNECTION LIMIT -1;",
    r"too many|connection slots": "Raise max_connections, or put a pooler before the server.",
    r"starting up|shutting down|recovery mode": "Wait until the server is up: check --wait 60",
    r"unsupported startup parameter": "Remove 'options' from the URL and the connect_args.",
    r"gave no password": "Mend what that option names; it is read at each connect.",
    r"database is locked": "End the process that holds the file: fuser -v {file}",
    r"not a database|malformed": "Restore the newest backup: ls {file}.*.backup",
}


def cure_of(error: Exception, engine: Engine) -> str | None:
    """Return what mends an error, most of all one at a connect, if that is known."""
    backend = backend_of(engine)
    if known := backend.cure_of(error):
        return known
    # All of its lines, of which only the first is shown.
    text = str(error.orig) if isinstance(error, DBAPIError) else f"{type(error).__name__}: {error}"
    url = engine.url
    for pattern, cure in _CURES.items():
        if re.search(pattern, text, re.IGNORECASE):
            return cure.format(
                host=url.host or "HOST",
                port=url.port or backend.port or "PORT",
                user=url.username or "USER",
                role=quote_name(engine.dialect, url.username) if url.username else "ROLE",
                database=quote_name(engine.dialect, url.database) if url.database else "DATABASE",
                file=shlex.quote(url.database or "FILE"),
                verify_full=verify_full(url),
            )
    return None


def verify_full(url: URL) -> str:
    """Return how a URL of PostgreSQL is to demand TLS, and that the server proves who it is."""
    mode = url.query.get("sslmode")
    if mode is None:
        return "Set sslmode=verify-full and sslrootcert=PATH, in the URL or in the connect_args."
    authority = "" if "sslrootcert" in url.query else "&sslrootcert=PATH"
    return f"In the URL, replace sslmode={mode} by: sslmode=verify-full{authority}"
