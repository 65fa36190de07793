"""The REST models: what a client sees of a session and of its kernel."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final

from jupyter_client.jsonutil import json_default

from ..records import LIMITS, SessionRecord

#: Made once: ``json.dumps`` with a default makes one for each text.
_ENCODER: Final = json.JSONEncoder(default=json_default)


def rest_model(record: SessionRecord, kernel_model: Any) -> dict[str, Any]:
    """Return a session's model, with the deprecated key ``notebook`` for a notebook."""
    model = {
        "id": record.session_id,
        "path": record.path,
        "name": record.name,
        "type": record.type,
        "kernel": kernel_model,
    }
    if record.type == "notebook":
        model["notebook"] = {"path": record.path, "name": record.name}
    return model


def last_known_model(record: SessionRecord) -> dict[str, Any]:
    """Return the model of a kernel that cannot be asked for now.

    JupyterLab disposes every session that is missing from a list, so what is
    unknown is shown as unknown.
    """
    model: Any = None
    if record.kernel_model is not None:
        # Nested too deeply, where it was edited by hand.
        with suppress(ValueError, RecursionError):
            model = json.loads(record.kernel_model)
    if not isinstance(model, dict):
        model = {
            "name": record.kernel_name,
            "last_activity": record.updated_at.isoformat().replace("+00:00", "Z"),
            "connections": 0,
        }
    return {**model, "id": record.kernel_id, "execution_state": "unknown"}


def stored_of_kernel(kernel_model: Any) -> dict[str, str | None]:
    """Return what is stored of a kernel besides its id; an over-long model is not."""
    name = kernel_model.get("name") if isinstance(kernel_model, dict) else None
    text = _ENCODER.encode(kernel_model) if kernel_model else None
    if text is not None and len(text) > LIMITS["kernel_model"]:
        text = None
    return {"kernel_name": name, "kernel_model": text}


def is_news(record: SessionRecord, known: Mapping[str, str | None]) -> bool:
    """Return whether what is `known` of a kernel says more than who is connected to it."""
    return bool(_news(record.kernel_model) != _news(known["kernel_model"]))


def _news(kernel_model: str | None) -> Any:
    model: Any = None if kernel_model is None else json.loads(kernel_model)
    return {**model, "connections": None} if isinstance(model, dict) else model
