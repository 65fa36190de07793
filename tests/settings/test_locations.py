"""What ``database_filepath`` may be: a path or a URL, and nothing that is neither."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from traitlets import TraitError
from traitlets.config import Config

from jupyter_session_store.config.database import DatabaseSettings
from jupyter_session_store.config.settings import Settings
from jupyter_session_store.errors import ConfigurationError
from jupyter_session_store.locations import Kind, clean, kind_of
from jupyter_session_store.sql.engine.factory import check, create
from jupyter_session_store.sql.engine.url import sqlite_file

SECRET = "Zq7Xw9Kp3Vb2"


def refusal(setting: Any, **others: Any) -> str:
    section = {"database_filepath": setting, **others}
    with pytest.raises((TraitError, ConfigurationError)) as refused:
        DatabaseSettings(config=Config({"DatabaseSettings": section})).database_filepath  # noqa: B018
    text = str(refused.value)
    assert SECRET not in text
    return text


@pytest.mark.parametrize(
    ("text", "looks"),
    [
        (f"host=h port=5432 user=u password={SECRET} dbname=d", "libpq"),
        (f"password={SECRET}", "libpq"),
        (f"Server=h;Database=d;User Id=u;Password={SECRET};", "ADO"),
        (f"u:{SECRET}@tcp(h:3306)/d", "Go"),
        (f"u:{SECRET}@unix(/run/mysqld.sock)/d", "Go"),
        (f"{{'ENGINE': 'django.db.backends.postgresql', 'PASSWORD': '{SECRET}'}}", "Django"),
        (f"jdbc:postgresql://h/d?user=u&password={SECRET}", "JDBC"),
        (f"mysql -h h -u u -p{SECRET} d", "arguments of a command"),
        (f"postgresql:/u:{SECRET}@h/d", "without its '://'"),
        (f"postgresql:u:{SECRET}@h/d", "without its '://'"),
        (f"postgresql//u:{SECRET}@h/d", "without its '://'"),
        (f"//u:{SECRET}@h/d", ""),
        (f"/u:{SECRET}@h/d", ""),
        (f"u:{SECRET}@h/d", ""),
        (f"./h password={SECRET}", ""),
        (f"/u:{SECRET[:3]}/{SECRET[3:]}@h/d", ""),
        (f"/tmp/d?password={SECRET}", ""),
    ],
)
def test_what_is_neither_a_path_nor_a_url_is_refused(
    text: str, looks: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    told = refusal(text)
    assert "neither a database URL nor a plain file path" in told
    assert looks in told
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        f"postgresql://u:{SECRET}h/d",
        f"postgresql:///u:{SECRET}@h/d",
        f"postgresql://h/duser=u&password={SECRET}",
        f"postgresql://h/d:{SECRET}",
        f"postgresql://u:{SECRET[:4]}@{SECRET[4:]},h:5432/d@h",
        f"postgresql://u:pa@{SECRET},x@h/d",
        f"postgresql://u@h:{SECRET},h2:5432/d",
        f"mysql://u:pa@{SECRET},h/d",
        f"postgresql://u:pa@ss?{SECRET}=1@h/d",
        f"sqlite://u:{SECRET}@h/d",
        f"sqlite:////u:{SECRET}@h/d",
        f"sqlite:///postgresql://u:{SECRET}@h/d",
        f"sqlite://{SECRET}/d",
        f"{SECRET}\n://h/d",
        f"postgresql://h/d\n{SECRET}",
    ],
)
def test_a_part_in_a_wrong_place_is_refused(text: str) -> None:
    assert "xpected" in refusal(text)


@pytest.mark.parametrize(
    "value",
    [
        (f"postgresql://u:{SECRET}@h/d",),
        [f"postgresql://u:{SECRET}@h/d"],
        {"url": f"postgresql://u:{SECRET}@h/d"},
        b"\xff" + SECRET.encode(),
    ],
)
def test_a_value_of_another_type_is_not_repeated(value: object) -> None:
    told = refusal(value)
    assert f"c.SessionManager.database_filepath is of type {type(value).__name__}" in told
    assert ("Remove the comma" in told) is isinstance(value, tuple)


def test_a_setting_that_is_given_twice_is_not_repeated() -> None:
    twice: Any = DatabaseSettings.class_traits()["database_filepath"]
    with pytest.raises(TraitError, match="given 2 times") as refused:
        twice.from_string_list([f"postgresql://u:{SECRET}@h/d", "x"])
    assert SECRET not in str(refused.value)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("mysql://h/d?ssl-mode=REQUIRED", "Write: ssl_ca=PATH"),
        ("mysql://h/d?useSSL=true", "Write: ssl_ca=PATH"),
        ("mysql://h/d?ssl_ca=/x&ssl_disabled=false", "{'ssl_disabled': True}"),
        ("mysql://h/d?ssl_ca=/x&ssl_verify_cert=true", "Write: ssl_ca=PATH"),
        ("mysql://h/d?ssl_ca=/x&ssl_verify_identity=true", "Write: ssl_ca=PATH"),
        (f"mysql://h/d?connect_timeout={'1' * 5000}", "expected a whole number"),
        (f"sqlite:///x.db?detect_types={'1' * 5000}", "expected a whole number"),
        ("mysql://h/d?connect_timeout=abc", "expected a whole number"),
        ("mysql://h/d?charset=latin1", "expected utf8mb4"),
        ("mysql://h/d?foo=1", "which pymysql does not know"),
        ("postgresql://h/d?schema=foo", "Write: options=-csearch_path"),
        ("postgresql://h/d?sslmod=require", "Write: sslmode"),
        ("postgresql://h/d?connect_timeout=abc", "expected a whole number"),
        ("postgresql://h/d?keepalives_idle=10s", "expected a whole number"),
        ("postgresql://h/d?sslmode=required", "expected disable or allow"),
        ("postgresql://h/d?target_session_attrs=master", "expected read-write or primary or any"),
        ("postgresql://h/d?sslmode=REQUIRE", "expected disable or allow"),
        ("postgresql://h/d?require_auth=md5,scram", "expected some of password, md5"),
        ("postgresql://h/d?require_auth=!none,md5", "all or none with a '!'"),
        ("postgresql://h/d?port=abc", "expected a number from 1 to 65535"),
        ("postgresql://h:70000/d", "expected a number from 1 to 65535"),
        ("postgresql://h:0/d", "expected a number from 1 to 65535"),
        ("postgresql://u@/d?host=a:5432&host=b:70000", "expected a number from 1 to 65535"),
        ("postgresql://u@/d?host=a&host=b&port=1,2,3", "hosts and ports that do not belong"),
        ("mysql://h:70000/d", "expected a number from 1 to 65535"),
        ("postgresql://h/d?client_encoding=latin1", "expected utf8"),
        ("sqlite:///x.db?foo=1", "which pysqlite does not know"),
        ("sqlite:///x.db?timeout=abc", "expected a number"),
    ],
)
def test_a_parameter_that_the_driver_refuses_is_refused_at_start(text: str, told: str) -> None:
    assert told in refusal(text)


@pytest.mark.parametrize(
    "text",
    [
        "postgresql://h/d?sslmode=verify-full&sslrootcert=/x&connect_timeout=3",
        "postgresql://u@/d?host=h1:5432&host=h2:5432&target_session_attrs=read-write",
        "postgresql://h/d?options=-csearch_path%3Dfoo",
        "postgresql://h/d?ssl_min_protocol_version=TLSV1.2&client_encoding=UTF8",
        "postgresql://h/d?require_auth=!password,!md5",
        "postgresql://u@[::1]:5433/d",
        "postgresql://u@/d?host=h1,h2&port=5433,5434",
        "postgresql://u@[::1]:5433,[::2]:5434/d",
        "postgresql://u:pa,ss@h/d",
        "postgresql://u,v:pa,ss@h1,h2/d",
        "postgresql://u@h1:5433, h2:5434/d",
        "mysql://h/d?ssl_ca=/x&ssl_check_hostname=true&charset=utf8mb4&read_timeout=3",
        "mysql://h/d?port=3307",
        "sqlite:///x.db?timeout=3",
        "sqlite:///file:x.db?mode=ro&uri=true",
    ],
)
def test_what_the_drivers_know_is_taken(text: str) -> None:
    check(text)


@pytest.mark.parametrize(
    ("url", "arguments", "told"),
    [
        ("postgresql://h/d", {"sslmod": SECRET}, "knows no argument 'sslmod'. Write: sslmode"),
        ("postgresql://h/d", {"schema": SECRET}, "Write: options=-csearch_path=SCHEMA"),
        ("postgresql://h/d", {"prepare_treshold": 5}, "Write: prepare_threshold"),
        ("postgresql://h/d", {"password=" + SECRET: ""}, "knows not all of them"),
        ("postgresql://h/d", {5: SECRET}, "knows not all of them"),
        ("postgresql://h/d", {"port": 5433}, "connect_args'] holds port; expected the place"),
        ("postgresql://h/d", {"host": "a,b", "port": 1}, "holds host and port; expected"),
        ("mysql://h/d", {"sslmode": SECRET}, "no argument 'sslmode'. Write: ssl_ca=PATH"),
        ("mysql://h/d", {"conect_timeout": 3}, "Write: connect_timeout"),
        ("mysql://h/d", {"host": SECRET}, "holds host; expected the place of the database"),
        ("mysql://h/d", {"read_timeout": "3"}, "expected a number, and not a text"),
        ("x.db", {"timout": 3}, "the driver pysqlite knows no argument 'timout'. Write: timeout"),
        ("x.db", {"database": SECRET}, "no argument 'database'"),
        ("x.db", {"timeout": "3"}, "expected a number, and not a text"),
    ],
)
def test_arguments_that_the_driver_refuses_are_refused_at_start(
    url: str, arguments: dict[Any, Any], told: str
) -> None:
    with pytest.raises(ConfigurationError) as refused:
        create(url, {"connect_args": arguments})
    assert told in str(refused.value)
    assert SECRET not in str(refused.value)


@pytest.mark.parametrize(
    ("url", "arguments"),
    [
        ("postgresql://h/d", {"sslmode": "require", "prepare_threshold": 5, "row_factory": None}),
        ("mysql://h/d", {"ssl": {"ca": "/x"}, "cursorclass": None, "read_timeout": 3}),
        ("x.db", {"timeout": 3, "factory": None}),
    ],
)
def test_arguments_that_the_drivers_know_are_taken(url: str, arguments: dict[str, Any]) -> None:
    create(url, {"connect_args": arguments}).dispose()


def test_arguments_of_a_driver_of_ones_own_are_left_to_it() -> None:
    options = {"connect_args": {"anything": 1}, "creator": lambda: None}
    create("postgresql://h/d", options).dispose()


@pytest.mark.parametrize("end", ["\n", "\r\n", " \n"])
def test_a_line_end_after_a_url_is_left_out(
    end: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = "postgresql://u@h/d"
    assert clean(url + end) == url
    settings = DatabaseSettings(
        config=Config({"DatabaseSettings": {"database_filepath": url + end}})
    )
    assert settings.database_filepath == url
    monkeypatch.setenv("JUPYTER_SESSION_STORE_URL", url + end)
    assert DatabaseSettings().database_filepath == url
    monkeypatch.setenv("MINE", url + end)
    assert Settings.from_argument("env:MINE", Config()).url == url
    file = tmp_path / "url"
    file.write_text(url + end)
    assert Settings.from_argument(f"file:{file}", Config()).url == url


@pytest.mark.parametrize(
    "path",
    [
        "a.db",
        "a b.db",
        "a(1).db",
        "~x.db",
        "./a=b:c.db",
        "/x/12:30/a.db",
        "/x/a@b.db",
        r"C:\a@b\x.db",
        "x" * 200,
    ],
)
def test_these_are_paths(path: str) -> None:
    assert kind_of(path) is Kind.PATH


@pytest.mark.parametrize(
    "url",
    [
        "sqlite:///file:{path}?uri=true",
        "sqlite:///file:{path}",
        "sqlite:///file:{path}?mode=rwc",
        "sqlite:///file:{path}?timeout=10&uri=true",
    ],
)
def test_a_uri_of_a_file_gets_all_that_a_path_gets(url: str, tmp_path: Path) -> None:
    path = tmp_path / "a b.db"
    engine = create(url.format(path=str(path).replace(" ", "%20")))
    assert sqlite_file(engine.url) == path
    with engine.connect():
        assert path.stat().st_mode & 0o777 == 0o600
    engine.dispose()


def test_a_pipe_is_refused(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    assert "a pipe, a socket or a device" in refusal(str(pipe))
    assert "a pipe, a socket or a device" in refusal("/dev/null")


def test_a_name_that_is_too_long_is_refused(tmp_path: Path) -> None:
    assert "cannot be used" in refusal(str(tmp_path / ("x" * 300)))


@pytest.mark.parametrize(
    "options",
    [
        {"pool_size": SECRET},
        {"pool_size": -1},
        {"pool_timeout": -1},
        {"pool_recycle": {"a": SECRET}},
        {"creator": SECRET},
        {"poolclass": SECRET},
        {"plugins": SECRET},
        {"module": SECRET},
        {"password_provider": SECRET},
        {"password_file": [SECRET]},
        {"connect_args": SECRET},
    ],
)
def test_options_of_a_wrong_kind_are_refused_and_not_repeated(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError) as refused:
        create("postgresql://u@h/d", options)
    assert SECRET not in str(refused.value)
