"""The settings: defaults, the environment, and what is refused at start with the trait's name."""

from __future__ import annotations

import hashlib
import os
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from hypothesis import HealthCheck, given
from hypothesis import strategies as st
from traitlets import TraitError, Unicode
from traitlets.config import Config, Configurable

from jupyter_session_store import repository
from jupyter_session_store.config.settings import Settings
from jupyter_session_store.config.traits import StoreSettings
from jupyter_session_store.errors import ConfigurationError
from jupyter_session_store.kernels.gateway.naming import gateway_name_of
from tests.unit.dummies import make_manager


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in list(os.environ):
        if name.startswith(("JUPYTER_", "JUPYTERHUB_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("JUPYTER_CONFIG_DIR", str(tmp_path / "config"))
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("JUPYTER_CONFIG_PATH", "")
    monkeypatch.setenv("JUPYTER_NO_CONFIG", "")


def settings(**traits: Any) -> StoreSettings:
    return StoreSettings(**traits)  # type: ignore[no-untyped-call]


def test_the_default_is_a_file_in_the_data_directory(tmp_path: Path) -> None:
    url = settings().database_filepath
    assert Path(url) == tmp_path / "data" / "jupyter_session_store.db"
    assert (tmp_path / "data").is_dir()
    assert not Path(url).exists()


def test_the_environment_gives_the_url_where_no_config_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("JUPYTER_SESSION_STORE_URL", "postgresql://db/jupyter")
    assert settings().database_filepath == "postgresql://db/jupyter"
    config = Config()
    config.SessionManager.database_filepath = ":memory:"
    assert settings(config=config).database_filepath == ":memory:"


def test_a_bad_url_in_the_environment_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUPYTER_SESSION_STORE_URL", "nonsense://db/jupyter")
    with pytest.raises(TraitError, match="database_filepath"):
        _ = settings().database_filepath


def test_the_environment_gives_the_options(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUPYTER_SESSION_STORE_ENGINE_OPTIONS", '{"pool_size": 2}')
    assert settings().engine_options == {"pool_size": 2}
    for bad in ("{", "[1]", '"x"'):
        monkeypatch.setenv("JUPYTER_SESSION_STORE_ENGINE_OPTIONS", bad)
        with pytest.raises(TraitError, match="JUPYTER_SESSION_STORE_ENGINE_OPTIONS"):
            _ = settings().engine_options


@pytest.mark.parametrize("value", [[("password", "sesame")], "sesame", {5: "sesame"}, None])
def test_options_of_another_type_are_refused_and_not_shown(value: Any) -> None:
    with pytest.raises(TraitError, match="engine_options") as refused:
        settings(engine_options=value)
    assert "sesame" not in str(refused.value)


@pytest.mark.parametrize("connect_args", ["password=sesame", None])
def test_malformed_connect_args_are_refused_with_the_setting(connect_args: Any) -> None:
    with pytest.raises(TraitError, match=r"PersistentSessionManager\.engine_options") as refused:
        make_manager(engine_options={"connect_args": connect_args})
    assert "sesame" not in str(refused.value)


def test_an_unknown_repository_is_refused_with_the_known_ones() -> None:
    with pytest.raises(
        TraitError, match=r"'nonsense'; the installed ones are .*memory, sqlalchemy"
    ):
        make_manager(repository="nonsense")


def test_this_packages_repositories_are_known_without_a_look_at_what_is_installed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    entries = distribution("jupyter_session_store").entry_points
    installed = entries.select(group=repository.ENTRY_POINT_GROUP)
    monkeypatch.setattr(repository, "entry_points", None)
    repository.load_repository.cache_clear()
    assert {one.name for one in installed} == {"memory", "sqlalchemy"}
    for one in installed:
        assert repository.load_repository(one.name) is one.load()


def test_the_repository_validates_its_url() -> None:
    with pytest.raises(TraitError, match="must be ':memory:'"):
        make_manager("postgresql://db/jupyter", repository="memory")
    with pytest.raises(TraitError, match="takes no engine_options"):
        make_manager(repository="memory", engine_options={"pool_size": 1})


@pytest.mark.parametrize("name", ["claim_timeout", "connection_idle_seconds"])
@pytest.mark.parametrize("seconds", [0, -1.5, float("nan"), 86_401, float("inf")])
def test_seconds_that_no_wait_can_last_are_refused(name: str, seconds: float) -> None:
    with pytest.raises(TraitError, match=rf"PersistentSessionManager\.{name} is .* more than 0"):
        settings(**{name: seconds})


@pytest.mark.parametrize(
    "namespace", ["", "x" * 256, "a\0b", " a", "a ", "a\n", "\u00a0a", "\ud800"], ids=ascii
)
def test_a_bad_namespace_is_refused(namespace: str) -> None:
    with pytest.raises(TraitError, match=r"PersistentSessionManager\.namespace"):
        settings(namespace=namespace)


def test_an_empty_setting_is_refused() -> None:
    with pytest.raises(TraitError, match=r"PersistentSessionManager\.namespace is empty"):
        make_manager(namespace="")
    with pytest.raises(TraitError, match="database_filepath is empty"):
        make_manager("")


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u:sesame@db/jupyter",
        "postgresql://u:ses/ame@db/jupyter",
        "postgresql://u:ses?ame@db/jupyter",
        "postgresql://u:ses#ame@db/jupyter",
        "postgresql://db/jupyter?user=u&password=sesame",
        "postgresql://u@db/jupyter?sslmode=require&ssl%70assword=sesame",
        "mysql://u@db/jupyter?passwd=sesame",
    ],
)
def test_a_password_on_the_command_line_is_refused(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["jupyter-server", f"--SessionManager.database_filepath={url}"])
    with pytest.raises(TraitError, match="command line") as refused:
        settings(database_filepath=url)
    assert url.partition("://")[2] not in str(refused.value)
    with pytest.raises(ValueError, match="command line"):
        Settings.from_argument(url)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u@db/jupyter",
        "postgresql://u@db:5432/jupyter?passfile=/run/pgpass",
        "sqlite:////tmp/passwords.db",
        "/tmp/password=x.db",
    ],
)
def test_a_url_without_a_password_may_be_typed(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["jupyter-server", f"--SessionManager.database_filepath={url}"])
    assert settings(database_filepath=url).database_filepath == url
    assert Settings.from_argument(url).url == url


def test_the_namespace_under_jupyterhub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUPYTERHUB_USER", "a/b")
    assert settings().namespace == "hub:a%2Fb/"
    monkeypatch.setenv("JUPYTERHUB_SERVER_NAME", "gpu")
    assert settings().namespace == "hub:a%2Fb/gpu"


# How long an example takes says something of the machine's load alone.
@hypothesis.settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    one=st.tuples(st.text(min_size=1, max_size=300), st.text(max_size=300)),
    two=st.tuples(st.text(min_size=1, max_size=300), st.text(max_size=300)),
)
def test_no_two_users_and_servers_collide(one: tuple[str, str], two: tuple[str, str]) -> None:
    names = []
    for user, server in (one, two):
        if "\0" in user + server or any("\ud800" <= c <= "\udfff" for c in user + server):
            return
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("JUPYTERHUB_USER", user)
            patch.setenv("JUPYTERHUB_SERVER_NAME", server)
            names.append(settings().namespace)
    assert (names[0] == names[1]) == (one == two)
    assert all(0 < len(name) <= 255 for name in names)


def test_the_namespace_of_a_directory(tmp_path: Path) -> None:
    awkward = tmp_path / "ends with a space "
    awkward.mkdir()
    long = tmp_path
    for _ in range(30):
        long = long / "abcdefghij"
    long.mkdir(parents=True)
    names = set()
    for folder in (tmp_path, awkward, long):
        manager = make_manager(namespace="x")
        manager.kernel_manager.root_dir = str(folder)
        other = settings(kernel_manager=manager.kernel_manager)
        names.add(other.namespace)
        manager.close()
    assert f"dir:{tmp_path}" in names
    assert len(names) == 3


class App(Configurable):
    root_dir = Unicode()


def namespace_of(root: str) -> str:
    return str(settings(parent=App(root_dir=root)).namespace)


def test_a_directory_need_not_be_utf_8() -> None:
    roots = [os.fsdecode(raw) for raw in (b"/caf\xe9", b"/caf\xe8", "/caf\u00e9".encode())]
    names = [namespace_of(root) for root in roots]
    assert len(set(names)) == 3
    assert names == [namespace_of(root) for root in roots]
    assert names[2] == "dir:/caf\u00e9"
    # The SHA-256 is of the bytes, and thus the same on each server.
    assert names[0] == f"dir-sha256:{hashlib.sha256(b'dir:/caf' + bytes([0xE9])).hexdigest()}"


def test_a_user_need_not_be_utf_8(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUPYTERHUB_USER", os.fsdecode(b"caf\xe9"))
    assert settings().namespace == "hub:caf%E9/"


@pytest.mark.parametrize(
    ("one", "two", "same"),
    [
        ("http://gw:8888", "http://gw:8888/", True),
        ("http://gw", "http://gw:80", True),
        ("https://GW", "https://gw:443/", True),
        ("http://user:secret@gw:8888", "http://gw:8888", True),
        ("http://gw:8888/a", "http://gw:8888/b", False),
        ("http://gw:8888", "https://gw:8888", False),
        ("http://gw:8888", "http://gw:8889", False),
        ("http://[::2]:8888", "http://[::3]:8888", False),
    ],
)
def test_gateway_names(one: str, two: str, same: bool) -> None:
    assert (gateway_name_of(one) == gateway_name_of(two)) is same
    assert "secret" not in gateway_name_of(one)


@pytest.mark.parametrize(
    "url",
    [
        "http://localhost:8888",
        "http://127.0.0.1:8888",
        "http://127.1.2.3",
        "http://[::1]:8888",
        "http+unix://%2Ftmp%2Fgw.sock",
    ],
)
def test_a_local_gateway_is_another_on_each_host(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    monkeypatch.setattr(socket, "gethostname", lambda: "one")
    first = gateway_name_of(url)
    monkeypatch.setattr(socket, "gethostname", lambda: "two")
    assert first != gateway_name_of(url)


@pytest.mark.parametrize(
    "url",
    [
        "http://user:s3cr3t#pw@gw:8888",
        "http://user:s3cr3t/pw@gw:8888/prefix",
        "http://user:s3cr3t?pw@gw",
        "http://[s3cr3t:8888",
        "http://user:s3cr3t[@gw]:8888",
        "http://gw:s3cr3t",
        "http://gw:99999999/s3cr3t",
        "https://s3cr3t@gw:8888x",
        "http://s3cr3t\u2100@gw",
    ],
)
def test_a_gateway_url_that_cannot_be_read_is_not_repeated(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Client:
        """A configured gateway."""

        @classmethod
        def instance(cls) -> Any:
            """Return it."""
            return cls()

        @property
        def url(self) -> str:
            """Its URL."""
            return url

    monkeypatch.setattr("jupyter_server.gateway.gateway_client.GatewayClient", Client)
    with pytest.raises(TraitError, match=r"c\.GatewayClient\.url") as refused:
        _ = settings().gateway_name
    text = str(refused.value)
    assert "s3cr3t" not in text
    assert "pw" not in text
    assert "percent-encoded" in text
    assert refused.value.__cause__ is None


@pytest.mark.parametrize(
    "name",
    [
        "",
        " s3cr3t",
        "s3cr3t\n",
        "s3\0cr3t",
        "s3cr3t\ud800",
        "http://user:s3cr3t@gw:8888",
        "https://s3cr3t@gw",
        "http://127.0.0.1:s3cr3t@host",
        5,
        ["s3cr3t"],
    ],
)
def test_a_gateway_name_that_cannot_be_one_is_not_repeated(name: Any) -> None:
    with pytest.raises(TraitError, match="gateway_name") as refused:
        settings(gateway_name=name)
    assert "s3cr3t" not in str(refused.value)


@pytest.mark.parametrize(
    "name", ["the gateway", "g", "http://gw:8888/prefix", "http://127.0.0.1:8888@host", "é" * 300]
)
def test_gateway_names_that_may_be_given(name: str) -> None:
    assert settings(gateway_name=name).gateway_name == name


def test_only_a_directory_is_a_default_that_another_host_may_have(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def made(**traits: Any) -> bool:
        manager = make_manager(repository="memory", **traits)
        manager.close()
        return manager.has_default_namespace

    assert made() is True
    assert made(namespace="dir:/srv") is False
    monkeypatch.setenv("JUPYTERHUB_USER", "bob")
    assert made() is False


def test_settings_without_a_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "jupyter_server_config.py").write_text(
        "c.SessionManager.database_filepath = 'postgresql://db/jupyter'\n"
        "c.PersistentSessionManager.engine_options = {'pool_size': 2}\n"
        # What only a server reads is nothing to warn of.
        "c.PersistentSessionManager.auto_upgrade = 'never'\n"
        "c.PersistentSessionManager.namespace = 'alice'\n"
    )
    found = Settings.from_jupyter()
    assert (found.url, found.engine_options) == ("postgresql://db/jupyter", {"pool_size": 2})
    monkeypatch.setenv("OTHER", "mysql://u:p@db/x")
    given = Settings.from_argument("env:OTHER")
    assert (given.url, given.engine_options) == ("mysql://u:p@db/x", {"pool_size": 2})
    assert "mysql" not in repr(given)
    file = tmp_path / "url"
    file.write_text(" sqlite:///x.db\n")
    assert Settings.from_argument(f"file:{file}").url == "sqlite:///x.db"


def test_a_file_with_a_url_that_is_not_utf_8_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "url"
    file.write_bytes("mysql://u:s\u00e9same@db/x".encode("latin-1"))
    with pytest.raises(ConfigurationError, match="UTF-8"):
        Settings.from_argument(f"file:{file}")


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("env:NOT_SET_AT_ALL", "NOT_SET_AT_ALL"),
        ("file:/no/such/file", "/no/such/file"),
        ("mysql://u:sesame@db/x", "env:NAME"),
    ],
)
def test_bad_arguments_are_refused(argument: str, said: str) -> None:
    with pytest.raises(ValueError, match=said) as refused:
        Settings.from_argument(argument)
    assert "sesame" not in str(refused.value)
