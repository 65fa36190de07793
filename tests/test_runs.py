"""What holds for a run of the tests: what it leaves out, and how it was started."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from .forking import USABLE, forker

pytestmark = pytest.mark.usefixtures("few_plugins")


def test_rounds_and_seeds(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JSS_TEST_SEED", "17")
    pytester.makeconftest(
        'pytest_plugins = ["tests.leaving_out"]\n'
        "from tests.conftest import pytest_runtest_makereport, seed"
    )
    pytester.makepyfile(
        """
        def test_few(rounds):
            assert [rounds(number) for number in (1, 2, 20, 100)] == [1, 1, 10, 50]

        def test_seed(seed):
            assert seed != 17
        """
    )
    result = pytester.runpytest("--rounds-fraction=0.5")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines("JSS_TEST_SEED=17 repeats this")


MARKED = """
    import pytest

    def test_always():
        pass

    @pytest.mark.extended("browsers")
    @pytest.mark.parametrize("which", range(2))
    def test_long(which):
        pass

    @pytest.mark.extended("hours", all_rounds=True)
    def test_longest():
        pass

    @pytest.mark.torture
    def test_race(rounds):
        print("of 100 rounds:", rounds(100))
"""


@pytest.mark.parametrize("way", ["-q", "-n1"])
def test_the_last_line_says_what_was_left_out(way: str, pytester: pytest.Pytester) -> None:
    pytester.makepyfile(MARKED)
    plugin = ("-p", "xdist.plugin", "-p", "tests.leaving_out", "-rP", way)
    some = pytester.runpytest(*plugin)
    some.assert_outcomes(passed=2, deselected=0 if way == "-n1" else 3)
    some.stdout.fnmatch_lines("of 100 rounds: 2")
    assert some.outlines[-1] == (
        "Left out: 2 tests (browsers), 98 % of the rounds of 1 test. `make test-all` runs them."
    )
    others = pytester.runpytest(*plugin, "--extended")
    others.assert_outcomes(passed=3, deselected=0 if way == "-n1" else 2)
    others.stdout.fnmatch_lines("of 100 rounds: 5")
    assert "Left out" not in others.stdout.str()


SPREADING = """
    import pytest

    KINDS = ("mysql", "postgresql", "sqlite")

    @pytest.fixture
    def kind(request):
        return request.param

    def pytest_generate_tests(metafunc):
        if "kind" in metafunc.fixturenames:
            metafunc.parametrize("kind", KINDS, indirect=True)
        if "case" in metafunc.fixturenames:
            metafunc.parametrize("case", range(int(metafunc.function.__name__[-1])))

    def test_cases_5(kind, case):
        print("ran", kind, case)

    def test_cases_2(kind, case):
        pass

    def test_one(kind):
        pass

    @pytest.mark.spread
    def test_spread(kind):
        pass
"""


def test_each_case_on_one_database(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(SPREADING)
    plugin = ("-p", "tests.leaving_out", "-rP")
    some = pytester.runpytest(*plugin)
    # Five cases, once; two on three kinds; one on three; and one once.
    some.assert_outcomes(passed=5 + 6 + 3 + 1, deselected=10 + 2)
    ran = sorted(line.split()[1:] for line in some.outlines if line.startswith("ran "))
    assert [case for _, case in sorted(ran, key=lambda one: one[1])] == list("01234")
    assert {kind for kind, _ in ran} == {"mysql", "postgresql", "sqlite"}
    assert some.outlines[-1] == (
        "Left out: 12 tests (a case on another database). `make test-all` runs them."
    )
    others = pytester.runpytest(*plugin, "--extended")
    others.assert_outcomes(passed=10 + 2, deselected=5 + 6 + 3 + 1)
    pytester.runpytest(*plugin, "--rounds-fraction=1").assert_outcomes(passed=15 + 6 + 3 + 3)
    pytester.runpytest(*plugin, "--spread").assert_outcomes(passed=5 + 2 + 1 + 1, deselected=18)
    # Whoever names a case gets it, on whichever kind.
    pytester.runpytest(*plugin, "-k", "sqlite-3").assert_outcomes(passed=1, deselected=26)


def test_nothing_was_left_out(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(MARKED)
    every = pytester.runpytest("-p", "tests.leaving_out", "--rounds-fraction=1", "-k", "race")
    assert "Left out" not in every.stdout.str()


@pytest.mark.timeout(600)
def test_children_heed_ctrl_c_wherever_the_tests_were_started(tmp_path: Path) -> None:
    """A shell has what it starts in the background ignore it."""
    test = tmp_path / "test_it.py"
    test.write_text(
        "import signal, subprocess, sys\n"
        "def test_child():\n"
        "    code = 'import signal; print(signal.getsignal(signal.SIGINT).__name__)'\n"
        "    child = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)\n"
        "    assert child.stdout == 'default_int_handler\\n'\n"
    )
    command = f"trap '' INT; exec {shlex.quote(sys.executable)} -m pytest -q -p tests.interrupts"
    for way in ("", " -n1"):
        done = subprocess.run(
            ["bash", "-c", f"{command} --noconftest {shlex.quote(str(test))}{way}"],
            cwd=Path(__file__).resolve().parents[1],
            capture_output=True,
            text=True,
            timeout=250,
            check=False,
        )
        assert done.returncode == 0, done.stdout


@pytest.mark.extended("the tests' own tools")
@pytest.mark.skipif(not USABLE, reason="processes are started one by one here")
def test_threads_that_fork_at_once_get_each_its_own_process(tmp_path: Path) -> None:
    (tmp_path / "ends.py").write_text("import sys\nsys.exit(int(sys.argv[1]))\n")

    def run(number: int) -> int:
        ended = forker().fork(
            ["-m", "ends", str(number)],
            cwd=tmp_path,
            env=dict(os.environ),
            stdout=subprocess.DEVNULL,
        )
        return ended.wait(60)

    with ThreadPoolExecutor(10) as threads:
        assert list(threads.map(run, range(1, 101))) == list(range(1, 101))
