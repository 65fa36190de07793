"""Sessions in a relational database. Nothing here knows of traitlets, tornado or a server."""
