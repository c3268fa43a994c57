"""The listening socket. Apart from the rest, so that it can be taken before anything heavy is imported."""

import errno
import socket

from tradewind.base.errors import ConfigError, PortInUse

BACKLOG = 2048


def bind(host: str, port: int) -> socket.socket:
    """A listening socket; connections wait in its queue until there is a server. Port 0 takes any free one.

    Raises PortInUse, or ConfigError for an address that cannot be used.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError as error:
        raise ConfigError(f"--host {host}: {error.strerror}", field="host") from None
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            other = "choose another with --port, or --port 0 for any free one"
            raise PortInUse(f"port {port} on {host} is taken by another program; {other}", field="port") from None
        raise ConfigError(f"cannot listen on {host}, port {port}: {error.strerror}", field="port") from None
    return listener
