"""Keeping the settings that hold passwords out of the log of a Jupyter application."""

from __future__ import annotations

import logging
import re
from typing import Any, Final

from traitlets.config import Application, Config

_HIDDEN: Final = re.compile(r"database_filepath|engine_options|passw|token|secret", re.I)
_SHOWN: Final = "(not shown)"


class _HideSettings(logging.Filter):
    """Hides settings where a configuration is logged: traitlets does so with ``--debug``."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Let every record pass, changed where it has a configuration."""
        # A mapping that is the only argument stands for all of them.
        if isinstance(record.args, Config):
            record.args = (_hidden(record.args),)
        return True


def _hidden(settings: Any) -> Any:
    if not isinstance(settings, dict):
        return settings
    return {
        name: _SHOWN if _HIDDEN.search(str(name)) else _hidden(value)
        for name, value in settings.items()
    }


def hide_settings_in_log() -> None:
    """Hide settings in what the running application logs from now on, if there is one.

    To be called at the import of the session manager: an application imports it while
    it loads its configuration, and logs that afterwards.
    """
    if Application.initialized():
        log: Any = Application.instance().log
        logger = getattr(log, "logger", log)
        if not any(isinstance(one, _HideSettings) for one in logger.filters):
            logger.addFilter(_HideSettings())
