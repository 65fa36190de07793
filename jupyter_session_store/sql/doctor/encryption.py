"""What is thought of a connection's TLS, whatever the database."""

from __future__ import annotations

from ipaddress import ip_address

from .findings import Outcome, ok, warning


def judge(host: str | None, protocol: str | None, verified: bool | None, how: str) -> Outcome:
    """Judge it.

    Parameters
    ----------
    host : str or None
        A name, an address, or the path of a socket.
    protocol : str or None
        Which is spoken; ``None`` if none.
    verified : bool or None
        Whether the server has to prove that it is the right one; ``None`` if
        that cannot be told.
    how : str
        What says so.
    """
    cure = (
        "PostgreSQL: ?sslmode=verify-full&sslrootcert=PATH in the URL. MySQL: engine_options = "
        '{"connect_args": {"ssl": {"ca": "PATH", "check_hostname": True}}}'
    )
    local = _is_local(host)
    if protocol is None:
        if local:
            return ok(f"Off, {how}: the server is on this machine.")
        return warning(
            f"Off, {how}: what is sent can be read and changed on its way; expected TLS.", cure
        )
    text = f"{protocol}, {how}"
    if verified is False and not local:
        return warning(
            f"{text}: whoever is on the way can pass for the server; expected that its "
            "certificate is verified.",
            cure,
        )
    return ok(f"{text}.")


def _is_local(host: str | None) -> bool:
    if not host or host == "localhost" or host.startswith(("/", "@")):
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
