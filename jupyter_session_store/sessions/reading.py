"""The half of the session manager that reads: what is there, and whether its kernel lives."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any

from jupyter_core.utils import ensure_async
from tornado import web

from ..errors import InvalidValue, SessionStoreError
from ..kernels.usage import KernelUses
from ..records import (
    CLOSING,
    READY,
    STARTING,
    STATES,
    STOCK_COLUMNS,
    Liveness,
    SessionRecord,
    check_text,
)
from ..telemetry.events import CLOSED
from .leasing import LeaseHolder
from .models import last_known_model, rest_model


class SessionReader(LeaseHolder):
    """Reads sessions; :class:`.PersistentSessionManager` is what users name."""

    _columns: set[str] = set(STOCK_COLUMNS)  # noqa: RUF012 (as in the stock manager)
    _uses: KernelUses
    _gone: dict[str, SessionRecord]
    #: Sessions that were said to be odd.
    _odd: set[str]

    async def session_exists(self, path: str) -> bool:
        """Return whether a session with this path, and a kernel, is there."""
        return await self._model_at(path) is not None

    async def get_session(self, **kwargs: Any) -> dict[str, Any]:
        """Return the model of the session that equals every keyword.

        Parameters
        ----------
        **kwargs : str
            At least one of session_id, path, name, type and kernel_id.

        Raises
        ------
        TypeError
            If there is no keyword, or an unknown one.
        tornado.web.HTTPError
            404 if there is no such session, or its kernel is gone.
        """
        if not kwargs:
            raise TypeError("must specify a column to query")
        self._check_columns(kwargs)
        reason = ", ".join(f"{key}={value!r}" for key, value in kwargs.items())
        records = await self._find(**kwargs)
        for record, model in zip(records, await self._models_of(records), strict=True):
            if model is not None:
                return model
            reason = _culled(record)
        raise web.HTTPError(404, f"Session not found: {reason}")

    async def list_sessions(self) -> list[dict[str, Any]]:
        """Return the models of all sessions whose kernels are not gone, the oldest first."""
        store = await self._current_store()
        records = []
        for record in await store.find(self.scope):
            if record.state != READY:
                if record.state == STARTING:
                    continue
                self._note_if_odd(record)
            records.append(record)
        return [model for model in await self._models_of(records) if model is not None]

    async def count_sessions(self) -> dict[str, int]:
        """Return how many sessions the store has, by their state.

        Raises
        ------
        SessionStoreError
            If the store cannot answer.
        """
        store = await self._current_store()
        counts = dict.fromkeys(sorted(STATES), 0)
        for record in await store.find(self.scope):
            state = record.state if record.state in STATES else READY
            # A row without a path that is being started only names a kernel to look for.
            counts[state] += state != STARTING or record.path is not None
        return counts

    async def kernel_culled(self, kernel_id: str) -> bool:
        """Return whether this server's kernel manager does not hold a kernel.

        That alone is no reason to remove a session: its authority is asked.
        """
        return kernel_id not in self.kernel_manager

    async def row_to_model(
        self, row: SessionRecord, tolerate_culled: bool = False
    ) -> dict[str, Any] | None:
        """Return the model of a session.

        Parameters
        ----------
        row : SessionRecord
        tolerate_culled : bool
            Whether to return ``None`` for a session whose kernel is gone.

        Raises
        ------
        KeyError
            If the kernel is gone and that is not tolerated. The session is
            removed soon after.
        """
        (model,) = await self._plain_models_of([row])
        if model is not None:
            return model
        if tolerate_culled:
            self.log.warning("%s  Continuing...", _culled(row))
            return None
        raise KeyError(_culled(row))

    async def _models_of(self, records: Sequence[SessionRecord]) -> list[dict[str, Any] | None]:
        """Return the models of sessions; ``None`` for each whose kernel is gone.

        However many there are, their authority is asked once.
        """
        if type(self).row_to_model is SessionReader.row_to_model:
            return await self._plain_models_of(records)
        models = []
        for record in records:
            try:
                models.append(await self.row_to_model(record))
            except KeyError:
                models.append(None)
        return models

    async def _plain_models_of(
        self, records: Sequence[SessionRecord]
    ) -> list[dict[str, Any] | None]:
        # What others may end is asked for, whether it is held here or not.
        shared = self._kernels.shared
        models = [None if shared else self._model_now(record) for record in records]
        if None not in models:
            return models
        ask_for = {
            record.kernel_id
            for record, model in zip(records, models, strict=True)
            if model is None and record.kernel_id
        }
        known = await self._kernels.look(ask_for) if ask_for else {}
        models = [
            model or await self._model_if_known(record, known)
            for record, model in zip(records, models, strict=True)
        ]
        if shared and Liveness.GONE in known.values():
            await self._follow(records, models)
        return models

    async def _follow(
        self, records: Sequence[SessionRecord], models: list[dict[str, Any] | None]
    ) -> None:
        """Put in the models of sessions that another server has moved since they were read.

        The kernel that such a session has left is gone, and the session is not.
        """
        now = {record.session_id: record for record in await self._find()}
        moved = {
            place: now[old.session_id]
            for place, (old, model) in enumerate(zip(records, models, strict=True))
            if model is None
            and old.session_id in now
            and now[old.session_id].kernel_id not in (None, old.kernel_id)
        }
        if moved:
            known = await self._kernels.look({str(new.kernel_id) for new in moved.values()})
            for place, new in moved.items():
                models[place] = await self._model_if_known(new, known)

    async def _model_if_known(
        self, record: SessionRecord, known: Mapping[str, Liveness]
    ) -> dict[str, Any] | None:
        """Return a session's model, given what is known of its kernel; ``None`` if it is gone."""
        kernel_id = record.kernel_id
        if not kernel_id:
            self._note_if_odd(record)
            return None
        kernel_model = None
        if await self._is_held(kernel_id):
            kernel_model = await self._known_model(kernel_id)
        if kernel_model is None:
            if known[kernel_id] is Liveness.GONE:
                self._remove_soon(record)
                return None
            kernel_model = last_known_model(record)
        return rest_model(record, kernel_model)

    def _model_now(self, record: SessionRecord) -> dict[str, Any] | None:
        """Return a session's model if nobody has to be asked or waited for, else ``None``.

        A list does this for each session, where coroutines would cost the most.
        """
        kernel_id = record.kernel_id
        if not self._culls_as_stock or kernel_id not in self.kernel_manager:
            return None
        try:
            kernel_model: Any = self.kernel_manager.kernel_model(kernel_id)
        except (KeyError, web.HTTPError):
            return None
        if isinstance(kernel_model, dict):
            return rest_model(record, kernel_model)
        if isinstance(kernel_model, Coroutine):
            kernel_model.close()
        return None

    async def _model_of(self, record: SessionRecord) -> dict[str, Any]:
        """Return a session's model; ``KeyError`` if its kernel is gone."""
        model = await self.row_to_model(record)
        assert model is not None
        return model

    async def _known_model(self, kernel_id: str) -> Any:
        """Return a held kernel's model; ``None`` if it went away this very moment."""
        try:
            return await ensure_async(self.kernel_manager.kernel_model(kernel_id))
        except (KeyError, web.HTTPError):
            return None

    async def _find(self, **criteria: Any) -> list[SessionRecord]:
        """Find sessions that are not just being started; what cannot be stored equals none."""
        try:
            for field, value in criteria.items():
                check_text(field, value)
        except InvalidValue:
            return []
        store = await self._current_store()
        return [r for r in await store.find(self.scope, **criteria) if r.state != STARTING]

    async def _model_at(self, path: str) -> dict[str, Any] | None:
        while True:
            records = await self._find(path=path)
            for record in records:
                if record.state == CLOSING and await self._uses.ended(record.kernel_id):
                    break
                (model,) = await self._models_of([record])
                if model is not None:
                    return model
            else:
                return None

    @property
    def _culls_as_stock(self) -> bool:
        return type(self).kernel_culled is SessionReader.kernel_culled

    async def _is_held(self, kernel_id: str) -> bool:
        # A subclass may override it by a plain function, as in Jupyter Server.
        culled: Any = self.kernel_culled(kernel_id)
        return not await ensure_async(culled)

    async def _is_gone(self, record: SessionRecord) -> bool:
        if not record.kernel_id:
            return record.state != STARTING
        if await self._is_held(record.kernel_id):
            return False
        return await self._kernels.missing(record.kernel_id) is Liveness.GONE

    def _remove_soon(self, record: SessionRecord) -> None:
        """Remove a session whose kernel is gone, after the read that found it."""
        first = not self._gone
        self._gone[record.session_id] = record
        if first:
            self._spawn(self._remove_gone())

    async def _remove_gone(self) -> None:
        # One statement for all that one list finds.
        await asyncio.sleep(0)
        records, self._gone = list(self._gone.values()), {}
        try:
            count = await self.store.remove(self.scope, records)
        except SessionStoreError:
            # The next read finds them again.
            return
        self._let_go(records)
        if count:
            self._tell(CLOSED, records)
            self.log.warning(
                "Removed %d session(s) whose kernels are gone: %s",
                count,
                ", ".join(f"{r.session_id} (kernel {r.kernel_id})" for r in records),
            )

    def _note_if_odd(self, record: SessionRecord) -> None:
        """Log, once, what no server writes: somebody has edited the row."""
        if record.state not in STATES:
            found = f"the unknown state {record.state!r}, and is taken as {READY!r}"
        elif not record.kernel_id:
            found = "no kernel, and is left alone"
        else:
            return
        if record.session_id not in self._odd:
            self._odd.add(record.session_id)
            self.log.warning(
                "The session %s in the store has %s. If nobody needs it: DELETE /api/sessions/%s.",
                record.session_id,
                found,
                record.session_id,
            )

    def _check_columns(self, given: Mapping[str, Any]) -> None:
        for column in given:
            if column not in self._columns:
                raise TypeError(f"No such column: {column}")


def _culled(record: SessionRecord) -> str:
    """Say, as the stock manager does, why there is no session any more."""
    return (
        f"Kernel '{record.kernel_id}' appears to have been culled or died unexpectedly, "
        f"invalidating session '{record.session_id}'. The session has been removed."
    )


def check_texts(given: Mapping[str, Any]) -> None:
    """Check that each value can be stored in the field of its name."""
    for field, value in given.items():
        check_text(field, value)
