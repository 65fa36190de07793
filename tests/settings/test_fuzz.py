"""Settings as people mistype them: refused or usable, and no secret in any text."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from sqlalchemy import Engine, event, make_url
from sqlalchemy.exc import SQLAlchemyError
from traitlets import TraitError
from traitlets.config import Config

from jupyter_session_store.config.database import DatabaseSettings
from jupyter_session_store.errors import ConfigurationError, StoreUnavailable
from jupyter_session_store.sql.engine.backend import backend_of
from jupyter_session_store.sql.engine.factory import create
from jupyter_session_store.sql.engine.url import describe, reason_of

from .spellings import OPTIONS, PIECE, SECRET, SETTINGS

PIECES = {SECRET[at : at + PIECE] for at in range(len(SECRET) - PIECE + 1)}


def is_a_name(setting: Any) -> bool:
    """Return whether the secret is a name's part in a URL, and nothing tells that it is none.

    Such as that of a user, where the colon before a password is missing.
    """
    try:
        url = make_url(setting)
        found = (url.username, url.host, url.database, url.query.get("user"))
    except (SQLAlchemyError, ValueError):
        return False
    names = [str(name) for name in found if not set("@=:") & set(str(name))]
    return any(piece in name for piece in PIECES for name in names)


def engine_from(setting: Any, options: Mapping[str, Any]) -> Engine:
    section = {"database_filepath": setting, "engine_options": options}
    found = DatabaseSettings(config=Config({"DatabaseSettings": section}))
    return create(found.database_filepath, found.engine_options)


def reason_of_a_failed_connect(engine: Engine) -> str:
    """Return what is told when nobody answers; nothing is connected to."""

    @event.listens_for(engine, "do_connect", insert=True)
    def _fail(dialect: Any, _record: Any, _arguments: Any, _names: Any) -> None:
        raise dialect.loaded_dbapi.OperationalError("connection refused")

    try:
        engine.connect()
    except SQLAlchemyError as error:
        return reason_of(error, engine.url)
    except StoreUnavailable as error:
        return str(error)
    raise AssertionError("it connected")


@pytest.mark.torture
@pytest.mark.timeout(1800)
def test_a_setting_is_refused_or_gives_an_engine(
    rounds: Callable[[int], int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.chdir(tmp_path)
    outcomes: Counter[str] = Counter()

    @settings(
        max_examples=rounds(20_000),
        # The same in each run of a few; a run of all draws others each time.
        derandomize=rounds(20_000) < 20_000,
        deadline=None,
        database=None,
        print_blob=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(setting=SETTINGS, options=OPTIONS)
    def check(setting: Any, options: dict[str, Any]) -> None:
        assume(not isinstance(setting, str) or not is_a_name(setting))
        caplog.clear()
        try:
            engine = engine_from(setting, options)
        except (TraitError, ConfigurationError) as error:
            outcomes["refused"] += 1
            texts = [str(error)]
        else:
            outcomes["engines"] += 1
            texts = [describe(engine.url)]
            if not backend_of(engine).is_embedded:
                texts.append(reason_of_a_failed_connect(engine))
            engine.dispose()
        texts += [record.getMessage() for record in caplog.records]
        shown = [piece for piece in PIECES for text in texts if piece in text]
        assert not shown, texts
        made = set(os.listdir(tmp_path)) - {".hypothesis"}
        assert not made, "a file was made"

    check()
    print(f"{sum(outcomes.values())} inputs: {dict(sorted(outcomes.items()))}")
    assert all(outcomes[one] for one in ("refused", "engines"))
