"""How fast, beside the stock manager, a naive port and the bare driver."""
