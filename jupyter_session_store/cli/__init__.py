"""``jupyter session-store``, the operators' command: one file a subcommand, named after it.

SQLAlchemy and Jupyter Server are imported inside the functions that need them,
so that help is shown at once.
"""
