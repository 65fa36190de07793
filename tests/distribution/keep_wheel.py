"""Keep the wheel of this version as test data: ``python -m tests.distribution.keep_wheel``."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Final

from .building import ROOT, build

WHEELS: Final = ROOT / "tests" / "data" / "wheels"


def main() -> None:
    """Build the wheel and copy it, in place of an earlier build of the same version."""
    with tempfile.TemporaryDirectory() as folder:
        wheel = build(Path(folder)).wheel
        WHEELS.mkdir(exist_ok=True)
        shutil.copy(wheel, WHEELS)
    print(f"kept {WHEELS / wheel.name}")


if __name__ == "__main__":
    main()
