"""What the lists of the command line show of each session."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from ..records import SessionRecord

SESSION_COLUMNS: Final = {
    "namespace": "NAMESPACE",
    "path": "PATH",
    "state": "STATE",
    "kernel_id": "KERNEL",
    "updated_at": "CHANGED (UTC)",
    "session_id": "SESSION",
}


def session_row(record: SessionRecord) -> dict[str, Any]:
    """Return all fields of a session, with the kernel's model decoded."""
    row = record._asdict()
    # A model that is not JSON, because an operator edited it, is shown as it is.
    with suppress(ValueError, RecursionError):
        row["kernel_model"] = json.loads(record.kernel_model or "null")
    return row
