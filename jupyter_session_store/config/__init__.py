"""The settings, for the server, the command line and the migrations alike."""

from typing import Final

#: The section of a configuration that holds the settings, named after the manager.
SECTION: Final = "PersistentSessionManager"
#: All sections that servers and commands read them from: a later one wins.
SECTIONS: Final = ("SessionManager", SECTION)
