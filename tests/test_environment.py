"""What makes the virtual environments hands pip's configuration on to uv, or does without uv."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module, where nothing is set for uv."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "tools"))
    for name in os.environ:
        if name.startswith(("PIP_", "UV_")) or name == "SSL_CERT_FILE":
            monkeypatch.delenv(name)
    return importlib.import_module("environment")


def test_settings_are_those_of_pip_and_the_environment_wins(
    environment: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "pip.conf"
    file.write_text(
        "[global]\nindex-url = https://all.test/simple\nextra-index-url =\n  https://a.test\n"
        "  https://b.test\nretries = 9\n[install]\nindex-url = https://install.test/simple\n"
    )
    monkeypatch.setenv("PIP_CONFIG_FILE", str(file))
    monkeypatch.setenv("PIP_FIND_LINKS", "/one /two")
    found = environment.pip_configuration(Path(sys.executable))
    assert found["index-url"] == "https://install.test/simple"
    given = environment.uv_environment(found)
    assert given is not None
    assert given["UV_DEFAULT_INDEX"] == "https://install.test/simple"
    assert given["UV_INDEX"] == "https://a.test https://b.test"
    assert given["UV_FIND_LINKS"] == "/one,/two"
    # As pip does, and as uv by itself does not.
    assert given["UV_INDEX_STRATEGY"] == "unsafe-best-match"
    monkeypatch.setenv("PIP_INDEX_URL", "https://environment.test/simple")
    found = environment.pip_configuration(Path(sys.executable))
    assert found["index-url"] == "https://environment.test/simple"


def test_what_a_user_has_set_for_uv_wins(environment: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UV_DEFAULT_INDEX", "https://mine.test/simple")
    given = environment.uv_environment({"index-url": "https://all.test/simple"})
    assert given == {"UV_INDEX_STRATEGY": "unsafe-best-match"}


def test_a_setting_that_uv_does_not_have_is_left_to_pip(environment: Any) -> None:
    assert environment.uv_environment({"no-binary": "lxml"}) is None
    assert environment.uv_environment({"compile": "0", "timeout": "60"}) is not None
    # pip takes an empty one for none.
    assert environment.uv_environment({"no-binary": "", "index-url": ""}) == {
        "UV_INDEX_STRATEGY": "unsafe-best-match"
    }


@pytest.mark.parametrize(
    "url", ["https://u:secret@host:port/simple", "https://u:secret@/simple", "u:secret"]
)
def test_a_malformed_index_is_left_to_pip(environment: Any, url: str) -> None:
    assert environment.uv_environment({"index-url": url}) is None
    assert environment.uv_environment({"extra-index-url": f"https://a.test {url}"}) is None


def test_pip_tells_its_settings_where_it_is_set_to_be_quiet(
    environment: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "pip.conf"
    file.write_text("[global]\nquiet = 3\nindex-url = https://all.test/simple\n")
    monkeypatch.setenv("PIP_CONFIG_FILE", str(file))
    monkeypatch.setenv("PIP_QUIET", "3")
    found = environment.pip_configuration(Path(sys.executable))
    assert found["index-url"] == "https://all.test/simple"


def test_where_pip_tells_no_settings_uv_is_not_used(
    environment: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bare = tmp_path / "bare"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", bare], check=True)
    assert environment.pip_configuration(bare / "bin" / "python") is None
    (tmp_path / "pip.conf").write_text("nothing of a section\n")
    monkeypatch.setenv("PIP_CONFIG_FILE", str(tmp_path / "pip.conf"))
    assert environment.pip_configuration(Path(sys.executable)) is None
    assert not environment._with_uv(tmp_path / "made", Path(sys.executable), ["wheel"], None)
    assert not (tmp_path / "made").exists()


def program(folder: Path, content: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a file of this content found as uv."""
    folder.mkdir()
    (folder / "uv").write_text(content)
    (folder / "uv").chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)


def test_each_command_of_uv_has_the_settings(
    environment: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", "https://mine.test/simple")
    log = tmp_path / "log"
    program(tmp_path / "bin", f'#!/bin/sh\necho "$1 $UV_DEFAULT_INDEX" >>"{log}"\n', monkeypatch)
    assert environment._with_uv(tmp_path / "made", Path(sys.executable), ["wheel"], None)
    assert log.read_text().splitlines() == [
        "venv https://mine.test/simple",
        "pip https://mine.test/simple",
    ]


def test_a_uv_that_does_not_run_is_one_that_has_failed(
    environment: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    program(tmp_path / "bin", "\x7fELF of another system", monkeypatch)
    assert not environment._with_uv(tmp_path / "made", Path(sys.executable), ["wheel"], None)
    assert str(tmp_path / "bin" / "uv") in capfd.readouterr().err


def test_an_environment_on_another_is_made_anew_when_that_has_changed(
    environment: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def make(venv: Path, python: Path, requests: object, on: object) -> bool:
        subprocess.run([python, "-m", "venv", "--without-pip", venv], check=True)
        return True

    monkeypatch.setattr(environment, "_with_uv", make)
    lower, upper = tmp_path / "lower", tmp_path / "upper"
    (lower / ".installed").mkdir(parents=True)
    environment.ensure(upper, ["wheel"], on=lower)
    (upper / "there").touch()
    environment.ensure(upper, ["wheel"], on=lower)
    assert (upper / "there").exists()
    (lower / ".installed" / "more").touch()
    environment.ensure(upper, ["wheel"], on=lower)
    assert not (upper / "there").exists()
