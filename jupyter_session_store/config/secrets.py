"""Keeping the settings that hold passwords out of the log of a Jupyter application.

With ``--debug`` an application, and each of its extensions, logs its whole configuration.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from typing import Any, Final

from traitlets.config import Application, Config

_HIDDEN: Final = re.compile(
    r"database_filepath|engine_options|passw|pwd|token|secret|headers|^url$", re.I
)
_SHOWN: Final = "(not shown)"


class _HidingFactory:
    """Makes log records as another factory does, configurations without what is secret."""

    def __init__(self, make: Callable[..., logging.LogRecord]) -> None:
        self._make = make

    def __call__(self, *args: Any, **kwargs: Any) -> logging.LogRecord:
        record = self._make(*args, **kwargs)
        # A mapping that is the only argument stands for all of them.
        if isinstance(record.args, Config):
            record.args = (_without_secrets(record.args),)
        return record


def _without_secrets(settings: Any) -> Any:
    if not isinstance(settings, dict):
        return settings
    return {
        name: _SHOWN if _HIDDEN.search(str(name)) else _without_secrets(value)
        for name, value in settings.items()
    }


def hide_secrets() -> None:
    """Hide secret settings in what this process logs, if it is a Jupyter application.

    To be called when the session manager is imported, or asked for: an application does that
    while it loads its configuration, and logs that afterwards. Its extensions have loggers of
    their own, and copies of the configuration: only where records are made is one place for all.
    """
    make = logging.getLogRecordFactory()
    if Application.initialized() and not isinstance(make, _HidingFactory):
        logging.setLogRecordFactory(_HidingFactory(make))
