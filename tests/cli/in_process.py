"""Runs the command in this process, which takes a hundredth of the time of one of its own."""

from __future__ import annotations

from jupyter_session_store.cli.app import SessionStoreApp


def run(*words: str) -> int:
    """Run the command, and return its exit code."""
    app = SessionStoreApp()
    try:
        app.initialize([*words])
        app.start()
    except SystemExit as ended:
        return int(ended.code or 0)
    finally:
        if app.subapp is not None:
            type(app.subapp).clear_instance()
    raise AssertionError("it did not exit")
