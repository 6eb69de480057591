"""The socket that a server started by hand listens on."""

from __future__ import annotations

import socket

from flywheel.common.errors import FlywheelError


def listen(host: str, port: int, error: type[FlywheelError]) -> socket.socket:
    """Return a socket bound to an address.

    Args:
        port: 0 for any free one.
        error: what is raised where the address cannot be had.
    """
    listening = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
    except OSError as refused:
        listening.close()
        reason = f"cannot listen there: {refused.strerror}; choose another --port"
        raise error(f"{host}:{port}: {reason}") from None
    return listening
