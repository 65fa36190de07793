"""Ports for kernels that no other process takes; a test's server runs this with its configuration.

Jupyter Client asks the system for a free port, and lets go of it until the kernel listens there.
With many servers at once another kernel has it by then now and then, and keeps it: a pipe that each
kernel has for itself is on such a port, too. The kernel ends, and is started again and again on
the same ports: Jupyter Client forgets only ports that it did not choose before it wrote them
(``ConnectionFileMixin.cleanup_random_ports``).
"""

from __future__ import annotations

import os
import random
import re
import socket

from jupyter_client.connect import LocalPortCache

#: Below those of the tests' servers (``tests/databases/local.py``), and of the system.
_LOWEST = 10_000
_HIGHEST = 20_000
#: A process of tests has some of them for itself: the claims of a server end with it, and its
#: kernels, which may not listen there yet, go on.
_SHARES = 8
_SHARE = (_HIGHEST - _LOWEST) // _SHARES
#: One UDP socket for each port: as long as it is open, no process claims the same.
_claims: dict[int, socket.socket] = {}


def _find_available_port(cache: LocalPortCache, ip: str) -> int:
    worker = re.sub(r"\D", "", os.environ.get("PYTEST_XDIST_WORKER", "")) or "0"
    lowest = _LOWEST + int(worker) % _SHARES * _SHARE
    while True:
        port = random.SystemRandom().randrange(lowest, lowest + _SHARE)
        claim = socket.socket(type=socket.SOCK_DGRAM)
        try:
            claim.bind((ip, port))
            with socket.socket() as probe:
                probe.bind((ip, port))
        except OSError:
            claim.close()
        else:
            _claims[port] = claim
            return port


def _return_port(cache: LocalPortCache, port: int) -> None:
    if port in _claims:
        _claims.pop(port).close()


LocalPortCache.find_available_port = _find_available_port  # type: ignore[assignment, method-assign]
LocalPortCache.return_port = _return_port  # type: ignore[assignment, method-assign]
