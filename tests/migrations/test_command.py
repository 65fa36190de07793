"""The ``alembic`` command from a checkout: where it finds its database, and what it prints."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

import pytest
from sqlalchemy import Engine

from jupyter_session_store.errors import ConfigurationError
from jupyter_session_store.sql.engine.url import describe
from jupyter_session_store.sql.schema import migrating, rights, versions
from jupyter_session_store.sql.schema.versions import State
from jupyter_session_store.sql.tables import METADATA

from ..cli.doctor_support import another_user, role_of
from ..databases import Database
from ..databases.pgbouncer import PgBouncer
from .support import ROOT, TABLES, engine_of, release, run_python, status

SECRET: Final = "s3cr3t"


def alembic(
    *words: str, home: Path, cwd: Path = ROOT, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run the command; standard output and errors come as one."""
    return run_python("-m", "alembic", *words, home=home, cwd=cwd, **variables)


def alembic_in_turn(
    *commands: tuple[str, ...], home: Path, answers: str = "", cwd: Path = ROOT, **variables: str
) -> list[str]:
    """Run commands in one process, and return what each printed.

    Most of what the command takes is its imports. With `answers` there is a terminal, at which
    they have been typed.
    """
    code = """if True:
        import json, os, pty, sys, traceback
        from alembic.config import main
        from jupyter_session_store.sql.engine import postgresql
        # Who finds nobody else behind a pooler takes it for one of sessions, after this long.
        postgresql._LOOK_SECONDS = 60.0
        if sys.argv[2]:
            terminal, end = pty.openpty()
            os.write(terminal, sys.argv[2].encode())
            sys.stdin = os.fdopen(end)
        for words in json.loads(sys.argv[1]):
            print("=====")
            try:
                main(words)
                print("exit 0")
            except BaseException:
                traceback.print_exc()
                print("exit 1")
    """
    done = run_python("-c", code, json.dumps(commands), answers, home=home, cwd=cwd, **variables)
    assert done.returncode == 0, done.stdout
    outputs = done.stdout.split("=====\n")[1:]
    assert len(outputs) == len(commands)
    return outputs


def configure(home: Path, *lines: str) -> None:
    """Write Jupyter Server's configuration file."""
    (home / "config").mkdir()
    text = "\n".join(("c = get_config()", *lines))
    (home / "config" / "jupyter_server_config.py").write_text(text)


def version_in(file: Path) -> list[tuple[object, ...]]:
    sql = "SELECT version_num FROM jupyter_session_store_version"
    return Database("sqlite", f"sqlite:///{file}").rows(sql)


def is_at_head(engine: Engine) -> bool:
    found = status(engine)
    assert found.state in (State.CURRENT, State.EMPTY)
    return found.state is State.CURRENT


def no_password(database: Database, output: str) -> bool:
    """Return whether a text does not show the password; SQLite has none."""
    password = urlsplit(database.url).password
    return not password or (password not in output and unquote(password) not in output)


def test_from_the_first_to_the_last_command(
    database: Database, engine: Engine, tmp_path: Path
) -> None:
    all_of_them = f"+{len(migrating.revisions())}"
    expected = {
        ("current",): "exit 0",
        ("upgrade", "head"): "Running upgrade  -> 0001, Create the tables",
        ("current", "--verbose"): f"{versions.HEAD} (head)",
        ("history",): "<base> -> 0001, Create the tables",
        ("check",): "No new upgrade operations detected.",
        ("-x", "yes=true", "downgrade", "base"): "Running downgrade 0001 -> ",
        ("upgrade", all_of_them): "Running upgrade  -> 0001, Create the tables",
        ("upgrade", "heads"): "exit 0",
    }
    outputs = alembic_in_turn(*expected, home=tmp_path, JUPYTER_SESSION_STORE_URL=database.url)
    for command, output in zip(expected, outputs, strict=True):
        assert expected[command] in output, (command, output)
        assert output.endswith("exit 0\n"), (command, output)
        assert no_password(database, output), command
    assert versions.HEAD not in outputs[0]
    assert "Running" not in outputs[-1]
    assert is_at_head(engine)


def test_jupyters_configuration_file(database: Database, engine: Engine, tmp_path: Path) -> None:
    configure(
        tmp_path,
        f"c.SessionManager.database_filepath = {database.url!r}",
        # Seen in what is printed, whatever the database.
        "c.PersistentSessionManager.engine_options = {'echo': True}",
    )
    done = alembic("upgrade", "head", home=tmp_path)
    assert done.returncode == 0, done.stdout
    assert is_at_head(engine)
    assert "INFO sqlalchemy.engine.Engine" in done.stdout
    assert "CREATE TABLE jupyter_sessions" in done.stdout.replace(" IF NOT EXISTS", "")
    assert no_password(database, done.stdout)


def test_the_section_of_the_persistent_manager(tmp_path: Path) -> None:
    configure(
        tmp_path,
        "c.SessionManager.database_filepath = '/nowhere/at/all.db'",
        f"c.PersistentSessionManager.database_filepath = '{tmp_path}/section.db'",
    )
    done = alembic("upgrade", "head", home=tmp_path)
    assert done.returncode == 0, done.stdout
    assert version_in(tmp_path / "section.db") == [(versions.HEAD,)]


@pytest.mark.only("postgresql", "mysql", reason="SQLite has no passwords")
def test_a_password_file_of_the_configuration(
    database: Database, engine: Engine, tmp_path: Path
) -> None:
    parts = urlsplit(database.url)
    without = parts._replace(netloc=parts.netloc.replace(f":{parts.password}@", "@")).geturl()
    (tmp_path / "password").write_text(f"{unquote(parts.password or '')}\n")
    configure(
        tmp_path,
        f"c.SessionManager.database_filepath = {without!r}",
        f"c.PersistentSessionManager.engine_options = {{'password_file': '{tmp_path}/password'}}",
    )
    done = alembic("upgrade", "head", home=tmp_path)
    assert done.returncode == 0, done.stdout
    assert is_at_head(engine)


def test_options_from_the_environment(tmp_path: Path) -> None:
    done = alembic(
        *("upgrade", "head"),
        home=tmp_path,
        JUPYTER_SESSION_STORE_URL=f"{tmp_path}/variable.db",
        JUPYTER_SESSION_STORE_ENGINE_OPTIONS='{"echo": true}',
    )
    assert done.returncode == 0, done.stdout
    assert "INFO sqlalchemy.engine.Engine" in done.stdout
    assert version_in(tmp_path / "variable.db") == [(versions.HEAD,)]


def test_the_default_is_the_file_of_the_server(tmp_path: Path) -> None:
    done = alembic("upgrade", "head", home=tmp_path)
    assert done.returncode == 0, done.stdout
    file = tmp_path / "data" / "jupyter_session_store.db"
    assert version_in(file) == [(versions.HEAD,)]
    assert file.stat().st_mode & 0o777 == 0o600


def test_the_url_from_a_variable(database: Database, engine: Engine, tmp_path: Path) -> None:
    configure(tmp_path, f"c.SessionManager.database_filepath = '{tmp_path}/configured.db'")
    done = alembic(
        "-x", "url=env:MY_DATABASE", "upgrade", "head", home=tmp_path, MY_DATABASE=database.url
    )
    assert done.returncode == 0, done.stdout
    assert no_password(database, done.stdout)
    assert is_at_head(engine)
    assert not (tmp_path / "configured.db").exists()


def test_the_url_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "a url"
    file.write_text(f"sqlite:///{tmp_path}/named.db\n")
    done = alembic("-x", f"url=file:{file}", "upgrade", "head", home=tmp_path)
    assert done.returncode == 0, done.stdout
    assert version_in(tmp_path / "named.db") == [(versions.HEAD,)]


def test_the_url_from_alembic_ini(database: Database, engine: Engine, tmp_path: Path) -> None:
    text = (ROOT / "alembic.ini").read_text()
    url = database.url.replace("%", "%%")
    commented = "# sqlalchemy.url = postgresql://jupyter@db/jupyter"
    assert commented in text
    text = text.replace(commented, f"sqlalchemy.url = {url}")
    text = text.replace("%(here)s", str(ROOT))
    (tmp_path / "alembic.ini").write_text(text)
    done = alembic("upgrade", "head", home=tmp_path, cwd=tmp_path)
    assert done.returncode == 0, done.stdout
    assert no_password(database, done.stdout)
    assert is_at_head(engine)


def test_the_argument_beats_the_ini_which_beats_the_configuration(tmp_path: Path) -> None:
    configure(tmp_path, f"c.SessionManager.database_filepath = '{tmp_path}/configured.db'")
    text = (ROOT / "alembic.ini").read_text().replace("%(here)s", str(ROOT))
    ini = tmp_path / "some.ini"
    ini.write_text(
        text.replace("[loggers]", f"sqlalchemy.url = sqlite:///{tmp_path}/ini.db\n[loggers]", 1)
    )
    plain = ("upgrade", "head")
    for words, expected in (
        (("-c", str(ini), "-x", f"url={tmp_path}/argument.db", *plain), "argument.db"),
        (("-c", str(ini), *plain), "ini.db"),
        (plain, "configured.db"),
    ):
        done = alembic(*words, home=tmp_path, JUPYTER_SESSION_STORE_URL=f"{tmp_path}/variable.db")
        assert done.returncode == 0, done.stdout
        assert [file.name for file in tmp_path.glob("*.db")] == [expected]
        (tmp_path / expected).unlink()


PASSWORDS: Final = (
    f"postgresql://jupyter:{SECRET}@127.0.0.1:1/x",
    f"mysql://jupyter:{SECRET}@127.0.0.1:1/x",
    f"mysql+pymysql://jupyter:{SECRET}@127.0.0.1:1/x",
    f"postgresql://jupyter:{SECRET}@127.0.0.1:1/x?sslmode=disable",
    f"postgresql://jupyter:{SECRET}@@:1/x",
    f"postgresql://jupyter@127.0.0.1:1/x?password={SECRET}",
    f"mysql://jupyter@127.0.0.1:1/x?password={SECRET}",
    f"mysql://jupyter@127.0.0.1:1/x?passwd={SECRET}",
)


def test_a_password_in_an_argument_is_refused(tmp_path: Path) -> None:
    """Other users of the machine can read it in the list of processes."""
    online = [("-x", f"url={url}", "upgrade", "head") for url in PASSWORDS]
    commands = [*online, *((*words, "--sql") for words in online)]
    wrong = []
    for command, output in zip(commands, alembic_in_turn(*commands, home=tmp_path), strict=True):
        told = "env:NAME" in output or "percent-encoded" in output
        if "exit 1" not in output or "CREATE" in output or SECRET in output or not told:
            wrong.append((command[1], command[-1], output[-300:]))
    assert wrong == []


def test_an_argument_that_is_not_known_is_refused(tmp_path: Path) -> None:
    """Else a slip upgrades the file of the default, and says so nowhere."""
    given = {
        "uri=env:DATABASE": "an argument -x 'uri' that is not known here",
        "through-pooler=true": "Did you mean -x through_pooler=...?",
        f"postgresql://u:{SECRET}@h/d?a=b": "an argument -x that is not known here",
        f"{SECRET}": "an argument -x that is not known here",
        "yes=1": "-x yes has another value; expected -x yes=true",
        "yes": "-x yes has another value; expected -x yes=true",
        "url=": "The URL that was given is empty",
        "url": "The URL that was given is empty",
    }
    commands: list[tuple[str, ...]] = [("-x", one, "upgrade", "head") for one in given]
    given["url=one"] = "Found -x url twice"
    commands.append(("-x", "url=one", "-x", "url=two", "upgrade", "head"))
    for told, output in zip(given.values(), alembic_in_turn(*commands, home=tmp_path), strict=True):
        assert told in output
        assert SECRET not in output
        assert output.endswith("exit 1\n")
    assert not list(tmp_path.rglob("*.db"))


def test_the_database_is_named_before_it_is_touched(tmp_path: Path) -> None:
    file = tmp_path / "mine.db"
    done = alembic("-x", f"url={file}", "upgrade", "head", home=tmp_path)
    assert done.returncode == 0
    assert done.stdout.index(f"The database: sqlite {file}") < done.stdout.index("Running")
    lines = done.stdout.splitlines()
    assert len(lines) == len({*lines}), done.stdout


def test_a_downgrade_that_loses_data_is_agreed_to(
    database: Database, engine: Engine, tmp_path: Path
) -> None:
    migrating.upgrade(engine)
    name = describe(engine.url)
    in_turn = partial(alembic_in_turn, home=tmp_path, JUPYTER_SESSION_STORE_URL=database.url)
    base = ("downgrade", "base")
    [refused] = in_turn(base)
    for told in (
        "FAILED: Undoing",
        "Undoing 0001 loses every session.",
        f"Undo {int(versions.HEAD)} revisions of {name}?",
        "expected -x yes=true. Nothing was changed.",
    ):
        assert told in refused
    assert refused.endswith("exit 1\n")
    assert refused.count("FAILED") == 1
    no, yes, nothing = in_turn(base, base, base, answers="n\ny\n")
    assert f"Undo {int(versions.HEAD)} revisions of {name}? [y/N]" in no
    assert "It was not confirmed. Nothing was changed." in no
    assert "Running downgrade" not in no
    assert yes.index("loses every session") < yes.index("Running downgrade 0001 -> ")
    # Of what is not there nothing can be lost.
    assert "Undo" not in nothing
    assert nothing.endswith("exit 0\n")
    assert not is_at_head(engine)


def grants_in(output: str) -> list[str]:
    return re.findall(r"^  (GRANT .*;)$", output, re.MULTILINE)


@pytest.mark.only("postgresql", reason="the others' roles keep their rights when a table goes")
def test_the_grants_that_go_and_those_to_give_are_told(
    database: Database, engine: Engine, tmp_path: Path
) -> None:
    upgrade, downgrade = ("upgrade", "head"), ("-x", "yes=true", "downgrade", "base")
    in_turn = partial(alembic_in_turn, home=tmp_path, JUPYTER_SESSION_STORE_URL=database.url)
    with another_user(database) as url:
        role = role_of(database, url)
        [made] = in_turn(upgrade)
        told = grants_in(made)
        assert len(told) == len(TABLES)
        for statement in told:
            database.execute(statement.replace("TO ROLE", f"TO {role}"))
        with engine_of(url) as theirs, theirs.connect() as connection:
            assert rights.lacking(connection) == {}
        gone, again = in_turn(downgrade, upgrade)
        told = grants_in(gone.partition("these GRANTs")[2])
        assert len(told) == len(METADATA.tables)
        for statement in told:
            assert statement.endswith(f" TO {role};")
            database.execute(statement)
        with engine_of(url) as theirs, theirs.connect() as connection:
            assert rights.lacking(connection) == {}
        # Alembic's own table has stayed.
        assert len(grants_in(again)) == len(METADATA.tables)


@pytest.mark.only("postgresql", reason="no other database has PgBouncer before it")
def test_nothing_is_run_through_a_pooler_in_transaction_mode(
    database: Database, engine: Engine, tmp_path: Path
) -> None:
    """The lock would not hold, and would stay on a connection of the pooler."""
    upgrade, through = ("upgrade", "head"), ("-x", "through_pooler=true")
    locks = "SELECT COUNT(*) FROM pg_locks WHERE locktype = 'advisory'"
    with closing(PgBouncer(database)) as bouncer:
        refused, done, nothing, back = alembic_in_turn(
            *(upgrade, (*through, *upgrade), upgrade, ("-x", "yes=true", "downgrade", "base")),
            home=tmp_path,
            JUPYTER_SESSION_STORE_URL=bouncer.database.url,
        )
        for told in (refused, back):
            assert "is a pooler in transaction mode" in told
            assert "-x url=env:DIRECT_URL" in told
            assert "-x through_pooler=true" in told
            assert told.endswith("exit 1\n")
        assert "Running upgrade  -> 0001" in done
        assert nothing.endswith("exit 0\n")
        assert is_at_head(engine)
        assert database.rows(locks) == [(0,)]
    with closing(PgBouncer(database, mode="session")) as bouncer:
        [back] = alembic_in_turn(
            ("-x", "yes=true", "downgrade", "base"),
            home=tmp_path,
            JUPYTER_SESSION_STORE_URL=bouncer.database.url,
        )
        assert back.endswith("exit 0\n")
    assert not is_at_head(engine)


def test_a_revision_that_is_not_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is listed, and not run."""
    checkout = tmp_path / "checkout"
    versions_folder = release(checkout) / "versions"
    url = f"{tmp_path}/mine.db"
    given = ("-x", f"url={url}")
    outputs = alembic_in_turn(
        (*given, "upgrade", "head"),
        (*given, "revision", "--autogenerate", "-m", "stray"),
        (*given, "upgrade", "head"),
        home=tmp_path,
        cwd=checkout,
    )
    [stray] = versions_folder.glob("*_stray.py")
    assert "does not declare its KIND" in outputs[-1]
    assert f"Finish it, or remove it: rm {stray}" in outputs[-1]
    assert version_in(Path(url)) == [(versions.HEAD,)]
    monkeypatch.setattr(migrating, "migrations_folder", lambda: checkout / "migrations")
    found = migrating.revisions()
    assert [one.id for one in found[:-1]] == sorted(migrating.known_revisions())
    assert (found[-1].title, found[-1].kind) == ("stray", migrating.UNDECLARED)
    with engine_of(url) as engine, pytest.raises(ConfigurationError, match="does not declare"):
        migrating.upgrade(engine)
    (versions_folder / "broken.py").write_text("this is no Python\n")
    with pytest.raises(ConfigurationError, match=r"cannot be read \(SyntaxError") as refused:
        migrating.revisions()
    assert f"ls -lt {versions_folder}" in str(refused.value)


@pytest.mark.parametrize("options", [["--autogenerate"], []])
def test_no_revision_is_written_into_an_installed_package(
    options: list[str], tmp_path: Path
) -> None:
    """As the wheel has them: the migrations are inside the package."""
    package = tmp_path / "site" / "jupyter_session_store"
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "jupyter_session_store", package, ignore=ignored)
    shutil.copytree(ROOT / "migrations", package / "migrations", ignore=ignored)
    shutil.copy(ROOT / "alembic.ini", package)
    before = sorted(package.rglob("*.py"))
    done = run_python(
        *("-c", "from alembic.config import main; main()"),
        *("revision", *options, "-m", "stray"),
        home=tmp_path,
        cwd=tmp_path,
        PYTHONPATH=str(package.parent),
        ALEMBIC_CONFIG=str(package / "alembic.ini"),
    )
    assert done.returncode == 255, done.stdout
    assert "written into the installed package" in done.stdout
    assert "In a checkout" in done.stdout
    assert sorted(package.rglob("*.py")) == before


def test_what_is_wrong_with_a_url_names_where_it_was_typed(tmp_path: Path) -> None:
    given = {
        "nowhere://x": "-x url names the dialect",
        f"{tmp_path}/no/x.db": "-x url names a file",
    }
    commands = [("-x", f"url={url}", "upgrade", "head") for url in given]
    for told, output in zip(given.values(), alembic_in_turn(*commands, home=tmp_path), strict=True):
        assert told in output


def test_a_variable_or_a_file_that_is_not_there(tmp_path: Path) -> None:
    given = {
        "env:NO_SUCH_VARIABLE": "The environment variable 'NO_SUCH_VARIABLE' is not set",
        "file:no-such-file": "The file 'no-such-file' cannot be read",
    }
    commands = [("-x", f"url={where}", "upgrade", "head") for where in given]
    for told, output in zip(given.values(), alembic_in_turn(*commands, home=tmp_path), strict=True):
        assert told in output
        assert output.endswith("exit 1\n")


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("postgresql://nobody@127.0.0.1:1/x", "is unavailable: postgresql nobody@127.0.0.1:1/x"),
        ("nowhere://x", "names the dialect 'nowhere', which SQLAlchemy does not know"),
    ],
    ids=["unreachable", "unknown"],
)
def test_what_is_wrong_is_told_without_a_traceback(url: str, told: str, tmp_path: Path) -> None:
    done = alembic("upgrade", "head", home=tmp_path, JUPYTER_SESSION_STORE_URL=url)
    assert done.returncode == 255, "as with each of Alembic's own errors"
    assert "FAILED: " in done.stdout
    assert told in done.stdout
    assert "Traceback" not in done.stdout


@pytest.mark.only("postgresql", "mysql", reason="SQLite has no passwords")
def test_a_wrong_password_is_not_shown(database: Database, tmp_path: Path) -> None:
    parts = urlsplit(database.url)
    netloc = f"nobody:{SECRET}@{parts.hostname}:{parts.port}"
    url = parts._replace(netloc=netloc).geturl()
    done = alembic("upgrade", "head", home=tmp_path, JUPYTER_SESSION_STORE_URL=url)
    assert done.returncode != 0
    assert SECRET not in done.stdout
