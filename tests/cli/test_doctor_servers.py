"""``doctor`` and what can be wrong with a server, and on the way to it."""

from __future__ import annotations

import json
import re
import time
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from jupyter_session_store.sql.doctor import Verdict, common
from jupyter_session_store.sql.engine import postgresql

from ..databases import Database, Instance
from ..databases.certificates import Certificate, turn_on_tls
from ..databases.pgbouncer import PgBouncer
from .conftest import Run
from .doctor_support import (
    SERVERS,
    another_user,
    look,
    mend,
    role_of,
    told,
    unwell,
)
from .support import LOOK_LONG, configure, upgraded


@pytest.mark.only("postgresql", "mysql", reason="SQLite has this machine's clock")
@pytest.mark.parametrize(("back", "where"), [(3600, "ahead of"), (-3600, "behind")])
def test_a_clock_that_differs(
    database: Database, monkeypatch: pytest.MonkeyPatch, back: int, where: str
) -> None:
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() - back)
    found = look(database.url)["clock"]
    assert found.verdict is Verdict.WARNING
    assert re.match(rf"The database's is 36\d\d s {where} this machine's", found.text)


def test_room() -> None:
    assert common.room(80, 100, "more")[0] is Verdict.OK
    verdict, text, cure = common.room(81, 100, "more")
    assert (verdict, cure) == (Verdict.WARNING, ("more",))
    assert text.startswith("81 of 100 are in use")


@pytest.mark.parametrize(
    ("host", "protocol", "verified", "verdict"),
    [
        ("db.example.org", None, None, Verdict.WARNING),
        ("192.0.2.1", None, None, Verdict.WARNING),
        ("127.0.0.1", None, None, Verdict.OK),
        ("::1", None, None, Verdict.OK),
        ("localhost", None, None, Verdict.OK),
        ("/run/postgresql", None, None, Verdict.OK),
        (None, None, None, Verdict.OK),
        ("db.example.org", "TLSv1.3", False, Verdict.WARNING),
        ("127.0.0.1", "TLSv1.3", False, Verdict.OK),
        ("db.example.org", "TLSv1.3", True, Verdict.OK),
        ("db.example.org", "TLSv1.3", None, Verdict.OK),
    ],
)
def test_what_is_thought_of_tls(
    host: str | None, protocol: str | None, verified: bool | None, verdict: Verdict
) -> None:
    found, text, _ = common.judge_tls(host, protocol, verified, "seen so", "mend it")
    assert found is verdict
    assert "seen so" in text
    assert ("Off" in text) is (protocol is None)


@pytest.mark.only("postgresql", reason="no other database has PgBouncer before it")
def test_a_pooler(
    database: Database, run: Run, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configure(home, *LOOK_LONG)
    monkeypatch.setattr(postgresql, "_LOOK_SECONDS", 60.0)
    upgraded(database.url)
    with another_user(database) as url:
        database.execute(f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {role_of(database, url)}")
        with closing(PgBouncer(Database("postgresql", url))) as bouncer:
            done = run("doctor", "--json", url=bouncer.database.url)
            assert done.returncode == 0
            findings = told(done)
            assert unwell(findings) == {"pooler": Verdict.WARNING}
            found = findings["pooler"]
            assert "in transaction mode: upgrades need the URL of the server itself" in found.text
            assert found.text.endswith("statements have no time-out.")
            statement, reconnect = found.cure
            database.execute(statement)
            # The connections that PgBouncer has are as they were.
            assert look(bouncer.database.url)["pooler"].verdict is Verdict.WARNING
            address = f"psql --host=127.0.0.1 --port={bouncer.port} pgbouncer --command=RECONNECT"
            assert reconnect.endswith(address)
            bouncer.command_console("RECONNECT")
            findings = look(bouncer.database.url)
            assert unwell(findings) == {}
            assert findings["pooler"].text.endswith("Statements have a time-out of 5s.")
            prepared = look(bouncer.database.url, connect_args={"prepare_threshold": 5})["pooler"]
            assert "statements are prepared" in prepared.text
            assert '"prepare_threshold": None' in prepared.cure[0]
        with closing(PgBouncer(Database("postgresql", url), mode="session")) as bouncer:
            findings = look(bouncer.database.url, connect_args={"prepare_threshold": 5})
            assert unwell(findings) == {}
            assert "in session mode. Statements" in findings["pooler"].text
        assert look(url)["pooler"].text == "None: the server itself answers."


@pytest.mark.only("postgresql", reason="no other database has PgBouncer before it")
def test_a_pooler_of_sessions_that_has_no_connection_for_a_second_client(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgresql, "_LOOK_SECONDS", 0.2)
    with closing(PgBouncer(database, mode="session", connections=1)) as bouncer:
        assert "in session mode" in look(bouncer.database.url)["pooler"].text


@pytest.mark.only("mysql", reason="PostgreSQL's poolers are tested for real")
def test_a_proxy(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Debian has no such proxy."""
    upgraded(database.url)
    monkeypatch.setattr("pymysql.connections.Connection.thread_id", lambda self: -1)
    found = look(database.url)
    assert unwell(found) == {}
    assert found["pooler"].text.startswith("A proxy is in between. Migrations need the server's")


@pytest.mark.only("postgresql", "mysql", **SERVERS)
def test_a_standby(own_server: Instance, run: Run) -> None:
    database = own_server.create_database()
    upgraded(database.url)
    if own_server.kind == "postgresql":
        # Its working directory is that of the data. It reads what it is sent: PostgreSQL refuses
        # to go on with a program that may have ended before.
        database.execute("COPY (SELECT 1) TO PROGRAM 'cat > standby.signal'")
        own_server.restart()
    else:
        database.execute("SET GLOBAL read_only = 1")
    done = run("doctor", "--json", url=database.url)
    findings = told(done)
    assert done.returncode == 1
    found = findings["writes"]
    assert found.verdict is Verdict.FAILED
    assert "expected the primary" in found.text
    if own_server.kind == "postgresql":
        assert "target_session_attrs=read-write" in found.cure[0]
        assert findings["rights"].verdict is Verdict.UNKNOWN
    else:
        mend(database, found)
        assert unwell(look(database.url)) == {}


@pytest.mark.only("postgresql", reason="MySQL has no such setting of a role")
def test_transactions_that_are_read_only(database: Database) -> None:
    upgraded(database.url)
    with another_user(database) as url:
        database.execute(f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {role_of(database, url)}")
        database.execute(
            f"ALTER ROLE {role_of(database, url)} SET default_transaction_read_only = on"
        )
        found = look(url)["writes"]
        assert found.verdict is Verdict.FAILED
        mend(database, found)
        assert unwell(look(url)) == {}


@pytest.mark.only("postgresql", reason="the others' text is always Unicode, or has its own check")
@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
def test_a_database_that_cannot_hold_every_text(
    database: Database, run: Run, encoding: str
) -> None:
    other = f"{urlsplit(database.url).path[1:]}_{encoding.lower()}"
    database.execute(
        f"CREATE DATABASE {other} TEMPLATE template0 ENCODING '{encoding}'"
        " LC_COLLATE 'C' LC_CTYPE 'C'"
    )
    try:
        url = urlsplit(database.url)._replace(path=f"/{other}").geturl()
        found = told(run("doctor", "--json", url=url))["encoding"]
        assert found.verdict is Verdict.FAILED
        assert "CREATE DATABASE" in found.cure[0]
        assert "ENCODING 'UTF8';" in found.cure[0]
    finally:
        database.execute(f"DROP DATABASE {other} WITH (FORCE)")


@pytest.mark.only("mysql", reason="the others compare exactly, and have one storage engine")
def test_tables_that_an_administrator_has_changed(database: Database) -> None:
    upgraded(database.url)
    database.execute(
        "ALTER TABLE jupyter_servers CONVERT TO CHARACTER SET utf8mb4 COLLATE utf8mb4_general_ci"
    )
    database.execute("ALTER TABLE jupyter_session_store_meta ENGINE = MyISAM")
    found = look(database.url)
    assert unwell(found) == {"collation": Verdict.FAILED, "storage engine": Verdict.FAILED}
    assert "utf8mb4_general_ci in jupyter_servers." in found["collation"].text
    assert found["storage engine"].text.startswith("MyISAM of jupyter_session_store_meta")
    mend(database, found["collation"])
    mend(database, found["storage engine"])
    assert unwell(look(database.url)) == {}


@pytest.mark.only("postgresql", "mysql", **SERVERS)
def test_tls(own_server: Instance, run: Run, home: Path) -> None:
    """The settings of the documentation, with a certificate that names the address."""
    certificate = Certificate.of("127.0.0.1")
    turn_on_tls(own_server, certificate)
    database = own_server.create_database()
    upgraded(database.url)
    trusted, other = home / "db.pem", home / "other.pem"
    trusted.write_text(certificate.text)
    other.write_text(Certificate.of("127.0.0.1").text)

    def settings(authority: Path) -> str:
        arguments: dict[str, Any] = {"ssl": {"ca": str(authority), "check_hostname": True}}
        if own_server.kind == "postgresql":
            arguments = {"sslmode": "verify-full", "sslrootcert": str(authority)}
        return json.dumps({"connect_args": arguments})

    done = run(
        *("doctor", "--json"),
        url=database.url,
        JUPYTER_SESSION_STORE_ENGINE_OPTIONS=settings(trusted),
    )
    findings = told(done)
    assert done.returncode == 0
    assert unwell(findings) == {}
    verified = {
        "postgresql": "sslmode=verify-full",
        "mysql": "the certificate is verified, the host's name too",
    }[own_server.kind]
    assert re.fullmatch(rf"TLSv1\.[23], [A-Z0-9_-]+, {verified}\.", findings["TLS"].text)
    done = run(
        *("doctor", "--json"),
        url=database.url,
        JUPYTER_SESSION_STORE_ENGINE_OPTIONS=settings(other),
    )
    assert done.returncode == 3
    refused = told(done)["connection"]
    assert "certificate verify failed" in refused.text.lower()
    assert refused.cure[0].startswith("Name the file of the authority that has signed")
    # The drivers' defaults verify nothing, and releases of PyMySQL before 1.2 do not encrypt.
    unverified = {
        "postgresql": r"TLSv1\.[23], [A-Z0-9_-]+, sslmode=prefer\.",
        "mysql": r"TLSv1\.[23], [A-Z0-9_-]+, the certificate is not verified\.|Off, .*",
    }[own_server.kind]
    assert re.fullmatch(unverified, look(database.url)["TLS"].text)


@pytest.mark.only("postgresql", "mysql", **SERVERS)
def test_a_certificate_of_another_host(own_server: Instance, tmp_path: Path) -> None:
    certificate = Certificate.of("db.example.org")
    turn_on_tls(own_server, certificate)
    trusted = tmp_path / "db.pem"
    trusted.write_text(certificate.text)
    database = own_server.create_database()
    upgraded(database.url)
    arguments: dict[str, Any] = {"ssl": {"ca": str(trusted), "check_hostname": True}}
    lenient: dict[str, Any] = {"ssl": {"ca": str(trusted), "check_hostname": False}}
    if own_server.kind == "postgresql":
        arguments = {"sslmode": "verify-full", "sslrootcert": str(trusted)}
        lenient = {**arguments, "sslmode": "verify-ca"}
    refused = look(database.url, connect_args=arguments)["connection"]
    assert refused.verdict is Verdict.FAILED
    assert "a host that the certificate names" in refused.cure[0]
    missing = {**arguments, "sslrootcert": str(tmp_path / "no such file")}
    if own_server.kind == "mysql":
        missing = {"ssl": {"ca": str(tmp_path / "no such file")}}
    assert look(database.url, connect_args=missing)["connection"].cure == refused.cure
    assert unwell(look(database.url, connect_args=lenient)) == {}
