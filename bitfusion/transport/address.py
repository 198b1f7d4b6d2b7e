"""Targets and sockets: how ``host:port`` becomes a connected socket, with errors that tell DNS from TCP.

Owns the form of a target, name resolution and the socket options of a session. Not the session itself.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import sys
import time
from dataclasses import dataclass

from bitfusion.errors import OPEN_ANOTHER, ConfigError, ResolveError, UnreachableError

PORT_DEFAULT = 56001
"""The port of VMware Bitfusion's control connection, which this system follows."""

CONNECT_TIMEOUT_S = 10.0
"""A dead host answers nothing; TCP's own patience is two minutes."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where an appliance listens."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_target(text: str) -> Target:
    """``host``, ``host:port``, ``[v6]`` or ``[v6]:port``; ConfigError says what is wrong."""
    text = text.strip()
    if "/" in text:
        raise ConfigError(f"{text!r} is not a server address; write host:port, without http:// and without a path")
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise ConfigError(f"{text!r} is not a server address; write host:port or [v6]:port")
        port = rest[1:]
        _check_v6(host, text)
    elif text.count(":") > 1:
        host, port = text, ""
        _check_v6(host, text)
    else:
        host, _, port = text.partition(":")
    if not host or (port and not port.isdecimal()) or not 0 < int(port or PORT_DEFAULT) < 65536:
        raise ConfigError(f"{text!r} is not a server address; write host:port, port 1 to 65535")
    return Target(host, int(port or PORT_DEFAULT))


def _check_v6(host: str, text: str) -> None:
    """More than one colon is an IPv6 address's, and nothing else has brackets."""
    try:
        ipaddress.IPv6Address(host)
    except ValueError:
        raise ConfigError(f"{text!r} is not a server address; write host:port or [v6]:port") from None


def resolve(target: Target) -> list[tuple[int, tuple[str, int]]]:
    """The addresses of ``target`` as (family, sockaddr); ResolveError if the name has none."""
    try:
        found = socket.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise ResolveError(
            f"the name {target.host!r} of the server does not resolve ({error}); check the spelling, or give the IP address"
        ) from None
    return [(int(family), address) for family, _, _, _, address in found]  # type: ignore[misc]  # host and port come first in both families


def unreachable(target: Target, error: OSError) -> UnreachableError:
    """What to do when TCP did not come through."""
    if isinstance(error, TimeoutError):
        reason = "did not answer in time: a firewall in between, or the wrong address"
    elif error.errno == errno.ECONNREFUSED:
        reason = (
            "refused the connection: no appliance listens there; start one with `bitfusion serve`, or check the port"
        )
    else:
        reason = f"could not be reached: {error.strerror or error}"
    return UnreachableError(f"the server {target} {reason}", host=target.host, port=target.port)


def connect(target: Target, timeout_s: float = CONNECT_TIMEOUT_S) -> socket.socket:
    """A connected blocking socket, every address of the target tried in turn. ResolveError, UnreachableError."""
    deadline = time.monotonic() + timeout_s
    failure: OSError = TimeoutError()
    for family, address in resolve(target):
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            sock.settimeout(max(deadline - time.monotonic(), 0.001))
            sock.connect(address)
        except OSError as error:
            sock.close()
            failure = error
            continue
        sock.settimeout(None)
        prepare(sock)
        return sock
    raise unreachable(target, failure)


def prepare(sock: socket.socket) -> None:
    """The options of a session's socket: small frames leave at once; a dead peer is noticed within minutes."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if sys.platform == "linux":
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 60)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 15)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 4)


def lost(error: OSError | None) -> str:
    """The sentence for a connection that was cut."""
    reason = "the server closed it" if error is None else (os.strerror(error.errno) if error.errno else str(error))
    return (
        f"the connection to the server was lost ({reason}); memory and kernels of the session are gone, {OPEN_ANOTHER}"
    )
