"""Exit codes of every ``bitfusion`` command, and which error gives which (docs/guide/exit-codes.md)."""

from __future__ import annotations

from enum import IntEnum

from bitfusion.errors import (
    BindError,
    BitfusionError,
    CapacityError,
    ConfigError,
    ConnectError,
    DeadlineError,
    DeviceError,
    KernelError,
    LeaseError,
    ProtocolError,
    QuotaError,
    ResolveError,
    SessionError,
    TLSError,
    TokenError,
    UnreachableError,
    VersionMismatchError,
)


class ExitCode(IntEnum):
    """What a command's exit says. ``bitfusion run`` otherwise passes on its program's own."""

    OK = 0
    FAILED = 1
    USAGE = 2
    BIND = 4
    CONNECT = 10
    DNS = 11
    TCP = 12
    TLS = 13
    TOKEN = 14
    QUOTA = 15
    CAPACITY = 16
    VERSION = 17
    LEASE = 18
    SESSION = 30
    TIMEOUT = 40
    DEVICE = 50
    KERNEL = 60
    NOT_EXECUTABLE = 126
    NOT_FOUND = 127
    INTERRUPTED = 130
    UNREAD = 141


CODES: tuple[tuple[type[BitfusionError], ExitCode], ...] = (
    (BindError, ExitCode.BIND),
    (ConfigError, ExitCode.USAGE),
    (ResolveError, ExitCode.DNS),
    (UnreachableError, ExitCode.TCP),
    (TLSError, ExitCode.TLS),
    (TokenError, ExitCode.TOKEN),
    (QuotaError, ExitCode.QUOTA),
    (CapacityError, ExitCode.CAPACITY),
    (VersionMismatchError, ExitCode.VERSION),
    (LeaseError, ExitCode.LEASE),
    (ConnectError, ExitCode.CONNECT),
    (SessionError, ExitCode.SESSION),
    (ProtocolError, ExitCode.SESSION),
    (DeadlineError, ExitCode.TIMEOUT),
    (DeviceError, ExitCode.DEVICE),
    (KernelError, ExitCode.KERNEL),
)


def exit_code(error: BitfusionError) -> ExitCode:
    """The exit code for ``error``: that of the nearest class in CODES."""
    return next((code for cls, code in CODES if isinstance(error, cls)), ExitCode.FAILED)
