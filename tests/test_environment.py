"""What makes the virtual environments hands pip's configuration on to uv, or does without uv."""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module, where nothing is set for uv."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "tools"))
    for name in os.environ:
        if name.startswith("UV_") or name == "SSL_CERT_FILE":
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
