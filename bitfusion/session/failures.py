"""The sticky failure of posted work (docs/reference/wire.md section 5.2).

When a posted operation fails, the failure is kept, later work on streams is skipped, and the next call reports it with the
operation that caused it, after which the session goes on; a kernel fault poisons the session for good, as in CUDA, and what is
reported from the second time on says that it is an earlier launch's.
"""

from __future__ import annotations

from bitfusion.errors import OPEN_ANOTHER, BitfusionError, KernelFaultError


class PostedFailures:
    """What has failed in one session and was not reported yet."""

    __slots__ = ("pending",)

    def __init__(self) -> None:
        self.pending: BitfusionError | None = None
        """The failure that the next call must report; while there is one, work on streams is skipped."""

    @property
    def poisoned(self) -> bool:
        """Whether a kernel fault has ended all work on the device."""
        return isinstance(self.pending, KernelFaultError)

    def keep(self, error: BitfusionError, operation: str) -> None:
        """Keep the first failure; a fault outranks others and stays."""
        if self.pending is None or (isinstance(error, KernelFaultError) and not self.poisoned):
            error.details.setdefault("operation", operation)
            self.pending = error

    def take(self) -> BitfusionError | None:
        """The failure that the call now being answered must report, if any."""
        failure = self.pending
        self.pending = _repeated(failure) if isinstance(failure, KernelFaultError) else None
        return failure


def _repeated(fault: KernelFaultError) -> KernelFaultError:
    """The fault as the calls after the first report it."""
    if fault.details.get("earlier"):
        return fault
    message = f"an earlier launch failed and ended all work of this session; close it and {OPEN_ANOTHER}. It was: {fault.message}"
    return KernelFaultError(message, **{**fault.details, "earlier": True})
