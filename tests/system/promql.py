"""As much of Prometheus' query language as the dashboard's panel of sessions needs."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Final

#: The labels of a series, the name of the metric among them, and its value.
Series = tuple[Mapping[str, str], float]

_AGGREGATES: Final[Mapping[str, Callable[[list[float]], float]]] = {"sum": sum, "max": max}
_AGGREGATION: Final = re.compile(r"(\w+)\s*(?:by\s*\(([^)]*)\)\s*)?\((.*)\)", re.DOTALL)
_SELECTOR: Final = re.compile(r"(\w+)(?:\{([^}]*)\})?")
_MATCHER: Final = re.compile(r'(\w+)(=~|=)"([^"]*)"')


def evaluate(query: str, series: Iterable[Series]) -> list[Series]:
    """Return what Prometheus answers to a query; ``ValueError`` for what this does not know."""
    aggregation = _AGGREGATION.fullmatch(query.strip())
    if aggregation is not None:
        name, by, inner = aggregation.groups()
        labels = [label.strip() for label in (by or "").split(",") if label.strip()]
        groups: dict[tuple[str, ...], list[float]] = {}
        for found, value in evaluate(inner, series):
            groups.setdefault(tuple(found.get(label, "") for label in labels), []).append(value)
        return [
            (dict(zip(labels, group, strict=True)), _AGGREGATES[name](values))
            for group, values in groups.items()
        ]
    selector = _SELECTOR.fullmatch(query.strip())
    if selector is None:
        raise ValueError(query)
    wanted = _MATCHER.findall(selector[2] or "")
    return [
        (labels, value)
        for labels, value in series
        if labels["__name__"] == selector[1]
        and all(_matches(labels.get(label, ""), *how) for label, *how in wanted)
    ]


def _matches(value: str, operator: str, wanted: str) -> bool:
    return value == wanted if operator == "=" else re.fullmatch(wanted, value) is not None
