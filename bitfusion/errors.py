"""The one error tree: every failure bitfusion reports, with its code on the wire.

::

    BitfusionError
    |- ConfigError                an option, a target or a setting that cannot work
    |  `- BindError               the address to serve on is taken or not ours
    |- ConnectError               no session could be opened
    |  |- ResolveError            DNS: the host has no address
    |  |- UnreachableError        TCP: refused, filtered or timed out
    |  |- TLSError                TLS: certificate or handshake
    |  |- TokenError              the credentials are missing or not accepted
    |  |- QuotaError              the user's quota does not allow the lease
    |  |- CapacityError           no GPU has room for the lease
    |  |- LeaseError              there is no such lease, or its key is another
    |  `- VersionMismatchError    no common wire version
    |- ProtocolError
    |  |- LocalProtocolError      we broke the protocol (a bug of ours)
    |  `- RemoteProtocolError     the peer broke the protocol
    |- SessionError               the session has ended
    |  |- SessionClosedError      it was closed on this side
    |  |- ConnectionLostError     the connection was cut
    |  |- WorkerDiedError         the worker that held the session died
    |  `- LeaseEndedError         the lease was released, taken back, or its time was over
    |- DeadlineError              an answer did not come in time
    |- DeviceError                the device refused or failed an operation; ``name`` is CUDA's
    |  |- DeviceMemoryError       out of memory: requested, used, limit (bytes)
    |  |- InvalidValueError       an argument is out of range
    |  |- InvalidHandleError      a stream, event, function or module that is not the session's
    |  |- InvalidAddressError     memory that is not (or no longer) the session's
    |  |- LaunchError             a launch configuration or its arguments do not fit
    |  |- KernelFaultError        a kernel failed while running; the session is poisoned
    |  |- KernelRaisedError       a kernel compiled with debug raised an exception, or an assertion in it failed
    |  `- UnsupportedError        this device cannot do it; names the instruction or feature (also a NotImplementedError)
    `- KernelError                a kernel could not be made
       |- KernelSourceError       the source is not a kernel, or captures what cannot travel
       |- KernelTypeError         argument types that do not fit (also a TypeError)
       `- KernelCompileError      Numba could not compile it; its message, the user's file and line

A failure travels as ``[code, message, details]``: the class by its wire code, the message, and the keyword
details (plain values only). ``encode`` and ``decode`` are the only two places that know this. Code 0 is the
root class: what it means to a peer that does not know a newer code.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

Detail = int | float | str | bool | None


class BitfusionError(Exception):
    """Any failure bitfusion reports. ``message`` says what happened and what to do; ``details`` are plain values.

    ``operation`` names the operation that failed, where it was posted earlier than the call that reports it.
    """

    code: ClassVar[int] = 0
    name: ClassVar[str] = "ERROR"

    def __init__(self, message: str, /, **details: Detail) -> None:
        super().__init__(message)
        self.message = message
        self.details: dict[str, Detail] = details

    @property
    def operation(self) -> str | None:
        """The operation that failed, or None where the failing call itself is meant."""
        value = self.details.get("operation")
        return value if isinstance(value, str) else None

    def again(self) -> BitfusionError:
        """The same error to be raised once more: an exception that is raised again grows a longer traceback, which keeps what it met."""
        return type(self)(self.message, **self.details)


OPEN_ANOTHER = "connect again (with bitfusion.cuda: cuda.close(), and the next use opens another session)"
"""What to do where a session has ended, for both faces."""


class ConfigError(BitfusionError):
    """An option, a target or a setting that cannot work."""

    code = 1
    name = "CONFIG"


class BindError(ConfigError):
    """The address to serve on is taken, or not this machine's."""

    code = 2
    name = "BIND"


class ConnectError(BitfusionError):
    """No session could be opened."""

    code = 10
    name = "CONNECT"


class ResolveError(ConnectError):
    """DNS: the host has no address."""

    code = 11
    name = "DNS"


class UnreachableError(ConnectError):
    """TCP: refused, filtered or timed out."""

    code = 12
    name = "TCP"


class TLSError(ConnectError):
    """TLS: certificate or handshake."""

    code = 13
    name = "TLS"


class TokenError(ConnectError):
    """The credentials are missing or not accepted."""

    code = 14
    name = "TOKEN"


class QuotaError(ConnectError):
    """The user's quota does not allow the lease."""

    code = 15
    name = "QUOTA"


class CapacityError(ConnectError):
    """No GPU has room for the lease; the message gives the reason for each."""

    code = 16
    name = "CAPACITY"


class LeaseError(ConnectError):
    """There is no such lease (any more), or its key is another: the two are not told apart."""

    code = 18
    name = "LEASE"


class VersionMismatchError(ConnectError):
    """The two sides have no common wire version."""

    code = 17
    name = "VERSION"


class ProtocolError(BitfusionError):
    """A rule of the wire was broken; the session ends."""

    code = 20
    name = "PROTOCOL"


class LocalProtocolError(ProtocolError):
    """We broke the protocol: a mistake in this side's code."""

    code = 21
    name = "PROTOCOL_LOCAL"


class RemoteProtocolError(ProtocolError):
    """The peer broke the protocol: nothing it sent after that is believed."""

    code = 22
    name = "PROTOCOL_REMOTE"


class SessionError(BitfusionError):
    """The session has ended; its memory, kernels and streams are gone."""

    code = 30
    name = "SESSION"


class SessionClosedError(SessionError):
    """The session was closed on this side."""

    code = 31
    name = "SESSION_CLOSED"


class ConnectionLostError(SessionError):
    """The connection was cut."""

    code = 32
    name = "CONNECTION_LOST"


class WorkerDiedError(SessionError):
    """The worker process that held the session died."""

    code = 33
    name = "WORKER_DIED"


class LeaseEndedError(SessionError):
    """The lease that the session was on has ended: it was released, taken back, or its time was over."""

    code = 34
    name = "LEASE_ENDED"


class DeadlineError(BitfusionError):
    """An answer did not come in time."""

    code = 40
    name = "DEADLINE"


class DeviceError(BitfusionError):
    """The device refused or failed an operation. ``name`` is CUDA's name where CUDA has one."""

    code = 50
    name = "CUDA_ERROR_UNKNOWN"

    @property
    def cuda_name(self) -> str:
        """CUDA's error name (``CUresult`` in cuda.h), e.g. ``CUDA_ERROR_ILLEGAL_ADDRESS``."""
        value = self.details.get("cuda_name")
        return value if isinstance(value, str) else self.name


class DeviceMemoryError(DeviceError):
    """Out of device memory. ``requested``, ``used`` and ``limit`` are bytes."""

    code = 51
    name = "CUDA_ERROR_OUT_OF_MEMORY"

    def __init__(
        self, message: str, /, *, requested: int = 0, used: int = 0, limit: int = 0, **details: Detail
    ) -> None:
        super().__init__(message, requested=requested, used=used, limit=limit, **details)
        self.requested = requested
        self.used = used
        self.limit = limit


class InvalidValueError(DeviceError):
    """An argument is out of range."""

    code = 52
    name = "CUDA_ERROR_INVALID_VALUE"


class InvalidHandleError(DeviceError):
    """A stream, event, function or module that is not the session's."""

    code = 53
    name = "CUDA_ERROR_INVALID_HANDLE"


class InvalidAddressError(DeviceError):
    """Memory that is not, or no longer, the session's."""

    code = 54
    name = "CUDA_ERROR_INVALID_VALUE"


class LaunchError(DeviceError):
    """A launch configuration or its arguments do not fit the function or the device."""

    code = 55
    name = "CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES"


class KernelFaultError(DeviceError):
    """A kernel failed while it ran; as in CUDA the session is poisoned: every later call reports this error.

    Details where known: ``cuda_name``, ``kernel``, ``address``, ``block`` and ``thread`` (``"(x, y, z)"``), ``file`` and ``line`` of a
    kernel compiled with ``lineinfo`` or ``debug``; ``earlier`` is true where the call that raises it is not the first to report it.
    """

    code = 56
    name = "CUDA_ERROR_LAUNCH_FAILED"


class KernelRaisedError(DeviceError):
    """A kernel compiled with ``debug`` raised an exception, or an assertion in it failed; the session goes on, as in Numba.

    The first one of a launch. Details: ``exception`` (its class's name), ``text``, ``kernel``, ``block`` and ``thread``
    (``"(x, y, z)"``), and ``file`` and ``line`` where known.
    """

    code = 58
    name = "KERNEL_RAISED"


class UnsupportedError(DeviceError, NotImplementedError):
    """This device cannot do it. Details: ``instruction`` or ``feature``."""

    code = 57
    name = "CUDA_ERROR_NOT_SUPPORTED"


class KernelError(BitfusionError):
    """A kernel could not be made."""

    code = 60
    name = "KERNEL"


class KernelSourceError(KernelError):
    """The source is not a kernel, or it captures something that cannot travel. Details: ``file``, ``line``."""

    code = 61
    name = "KERNEL_SOURCE"


class KernelTypeError(KernelError, TypeError):
    """Argument types that do not fit the kernel. Also a ``TypeError``, as in Numba."""

    code = 62
    name = "KERNEL_TYPE"


class KernelCompileError(KernelError):
    """Numba could not compile the kernel. The message is Numba's, with the user's file and line."""

    code = 63
    name = "KERNEL_COMPILE"


def _tree(root: type[BitfusionError]) -> list[type[BitfusionError]]:
    return [root, *(leaf for child in root.__subclasses__() for leaf in _tree(child))]


BY_CODE: Mapping[int, type[BitfusionError]] = {cls.code: cls for cls in _tree(BitfusionError)}

MESSAGE_SIZE_MAX = 64 * 1024
"""Characters of a message that travel: a Numba typing error is some kilobytes, a hostile one is cut."""


def encode(error: BitfusionError) -> list[object]:
    """The error as plain values for the wire: ``[code, message, details]``."""
    return [error.code, error.message[:MESSAGE_SIZE_MAX], error.details]


def decode(value: object) -> BitfusionError:
    """The error a peer sent. A shape that is not ours gives a RemoteProtocolError, an unknown code the root class."""
    match value:
        case [int(code), str(message), dict(details)]:
            plain = {
                key: item
                for key, item in details.items()
                if isinstance(key, str) and (item is None or isinstance(item, int | float | str | bool))
            }
            try:
                return BY_CODE.get(code, BitfusionError)(message, **plain)
            except TypeError:  # a detail that the class's own signature does not take
                return BY_CODE.get(code, BitfusionError)(message)
        case _:
            return RemoteProtocolError("the peer sent a failure that is not [code, message, details]")
