"""Servers that are started with mistyped settings: they serve, or say why not."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from ..system.server import JupyterServer
from .spellings import SETTINGS
from .test_fuzz import PIECES

#: No name server is asked, and nobody answers there.
_ELSEWHERE = re.compile(r"db\.example\.org|10\.0\.0\.\d|\bDB\b")


@pytest.mark.system
@pytest.mark.torture
@pytest.mark.timeout(1800)
def test_a_server_serves_or_says_why_not(rounds: Callable[[int], int]) -> None:
    outcomes: Counter[str] = Counter()

    @settings(
        max_examples=rounds(100),
        # The same in each run of a few; a run of all draws others each time.
        derandomize=rounds(100) < 100,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        print_blob=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(setting=SETTINGS)
    def check(setting: Any) -> None:
        written = _ELSEWHERE.sub("127.0.0.1", repr(setting))
        with closing(JupyterServer(f"c.SessionManager.database_filepath = {written}")) as server:
            home = server.directory / "home"
            before = set(os.listdir(home))
            server.launch()
            try:
                server.wait()
            except AssertionError:
                outcomes["refused"] += 1
                assert server.exit_code() != 0
                assert "Bad config encountered" in server.log, server.log
                assert set(os.listdir(home)) == before
            else:
                outcomes["started"] += 1
                server.stop()
            assert "Traceback" not in server.log, server.log
            assert not [piece for piece in PIECES if piece in server.log], server.log

    check()
    print(f"{sum(outcomes.values())} rounds of a start: {dict(sorted(outcomes.items()))}")
