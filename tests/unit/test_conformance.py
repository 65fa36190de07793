"""What the conformance suite says of repositories with faults, and of one without."""

from __future__ import annotations

import re
from typing import Final

import pytest

from tests.unit.kept import FAULTS, KeptRepository

pytestmark = pytest.mark.usefixtures("few_plugins")

_FILE: Final = "from tests.unit.kept import suite\nTestIt = suite({!r}, unreachable={!r})\n"


def run(
    pytester: pytest.Pytester,
    repository: type[KeptRepository],
    *options: str,
    unreachable: bool = True,
) -> pytest.RunResult:
    """Run the suite against a repository."""
    pytester.makepyfile(test_it=_FILE.format(repository.__name__, unreachable))
    return pytester.runpytest_inprocess("-q", "--tb=no", "-p", "no:cacheprovider", *options)


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_fails_the_suite(pytester: pytest.Pytester, fault: type[KeptRepository]) -> None:
    result = run(pytester, fault, "-W", "error")
    failed = {
        found[1] for line in result.outlines if (found := re.match(r"FAILED .*::(\S+)", line))
    }
    assert failed == FAULTS[fault]
    outcomes = result.parseoutcomes()
    assert outcomes.pop("passed") > 100
    assert outcomes.pop("failed", 0) == len(failed)
    assert outcomes == {}


def test_what_is_not_proven_is_told(pytester: pytest.Pytester) -> None:
    result = run(pytester, KeptRepository, "-W", "default", unreachable=False)
    outcomes = result.parseoutcomes()
    assert (outcomes["skipped"], outcomes.get("failed", 0)) == (2, 0)
    assert outcomes["warnings"] > 0
    result.stdout.fnmatch_lines(["*UnprovenContract: Suite has no fixture 'unreachable'.*"])
    # Where warnings are errors, it is one.
    assert run(pytester, KeptRepository, "-W", "error", unreachable=False).ret != 0
