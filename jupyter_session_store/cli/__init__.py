"""``jupyter session-store``: what operators run.

Nothing here imports SQLAlchemy or Jupyter Server before it is needed: help
is shown at once.
"""
