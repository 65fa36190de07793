"""The methods of the session manager that Jupyter's extensions override."""

from __future__ import annotations

import weakref
from typing import Any

#: What the stock REST handlers call on the session manager, directly or through its methods.
HOOKS = frozenset(
    {
        "create_session",
        "delete_session",
        "get_kernel_env",
        "get_session",
        "kernel_culled",
        "list_sessions",
        "new_session_id",
        "row_to_model",
        "save_session",
        "session_exists",
        "start_kernel_for_session",
        "update_session",
    }
)


class Hooks:
    """Calls a method of the session manager, a subclass's where there is one.

    The parts of the manager call these methods through this object alone
    (``hooks.save_session(...)``), so that an override counts wherever the method
    is needed. Where there is none (:meth:`overrides`), a part takes its own,
    faster way. The methods of `base` are no overrides.
    """

    def __init__(self, manager: object, base: type) -> None:
        # No reference that would keep it from being closed when nobody uses it any more.
        self._manager = weakref.ref(manager)
        self._base = base

    def overrides(self, *names: str) -> bool:
        """Return whether a subclass overrides any of these methods."""
        manager = self._manager()
        if manager is None:
            return False
        kind, own = type(manager), vars(manager)
        for name in names:
            if name in own:
                return True
            if kind is not self._base and getattr(kind, name) is not getattr(self._base, name):
                return True
        return False

    def __getattr__(self, name: str) -> Any:
        if name not in HOOKS:
            raise AttributeError(name)
        return getattr(self._manager(), name)
