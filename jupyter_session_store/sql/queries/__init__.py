"""The statements on sessions and servers that running servers make."""
