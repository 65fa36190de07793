"""The configuration of the server in the container; the database comes from the environment."""

c = get_config()  # noqa: F821  # type: ignore[name-defined]

c.ServerApp.session_manager_class = "jupyter_session_store.PersistentSessionManager"
# The service `upgrade` of compose.yaml changes the schema, and no server does.
c.PersistentSessionManager.auto_upgrade = "never"
# Each container has another host name; the sessions are found under this one.
c.PersistentSessionManager.namespace = "compose"
