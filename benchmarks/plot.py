"""The growth of each operation as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from .operations import GROWTH, OPERATIONS
from .peers import BARE, NAIVE, OURS, STOCK
from .results import Results

_COLOURS: Final = {"sqlite": "#2a78d6", "postgresql": "#1baf7a", "mysql": "#eda100"}
_TITLES: Final = {"sqlite": "SQLite", "postgresql": "PostgreSQL", "mysql": "MySQL/MariaDB"}
_STYLES: Final[dict[str, dict[str, Any]]] = {
    STOCK: {"color": "#52514e", "linewidth": 2, "marker": "s"},
    OURS: {"linewidth": 2, "marker": "o"},
    NAIVE: {"linewidth": 1, "linestyle": "--", "alpha": 0.7},
    BARE: {"linewidth": 1, "linestyle": ":", "alpha": 0.9},
}


def draw(results: Results, path: Path) -> None:
    """Draw time against rows, an operation to a panel, both axes logarithmic.

    Raises
    ------
    ImportError
        If matplotlib is not installed.
    """
    import matplotlib

    matplotlib.use("Agg")
    # Text as text: smaller, and it can be searched.
    matplotlib.rcParams["svg.fonttype"] = "none"
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, 3, figsize=(12, 7), sharex=True, sharey=True)
    for axis, measure in zip(axes.flat, OPERATIONS, strict=True):
        for kind, style in _STYLES.items():
            for database in ("sqlite",) if kind == STOCK else _COLOURS:
                points = [
                    (rows, median / 1000)
                    for rows in GROWTH
                    if (median := results.median("growth", kind, database, measure, rows=rows))
                ]
                if points:
                    axis.plot(
                        *zip(*points, strict=True),
                        label=f"{kind}, {_TITLES[database]}",
                        markersize=4,
                        **{"color": _COLOURS[database], **style},
                    )
        axis.set(xscale="log", yscale="log", title=measure)
        axis.minorticks_off()
        axis.grid(color="#e4e3df", linewidth=0.6)
        axis.spines[["top", "right"]].set_visible(False)
    for axis in axes[-1]:
        axis.set_xlabel("rows in the table")
    for axis in axes[:, 0]:
        axis.set_ylabel("median, ms")
    handles, labels = axes.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncols=5, frameon=False)
    figure.tight_layout(rect=(0, 0.09, 1, 1))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
