"""The lease of a server in the store, and the observation of the other servers."""
