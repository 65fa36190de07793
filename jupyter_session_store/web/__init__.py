"""The HTTP handlers, and the server extension."""
