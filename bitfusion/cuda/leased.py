"""The lease of a program on several GPUs: one session for each, opened on first use. Owns the lease where it was asked for here."""

from __future__ import annotations

import os

from bitfusion.client import embedded
from bitfusion.client.client import Client, connect
from bitfusion.client.control import Control, open_control
from bitfusion.client.settings import Key, Settings, key_of, target_of


class Leased:
    """A lease that is there, or with ``control`` one that ends with that connection. ``count`` None: not asked for yet."""

    def __init__(
        self, server: str, key: Key, count: int | None = None, control: Control | None = None, private: bool = False
    ) -> None:
        self._server = server
        self._key = key
        self._count = count
        self._control = control
        self._private = private

    @property
    def count(self) -> int:
        """How many GPUs it has. LeaseError if it has ended, and the rest of the ConnectError branch."""
        if self._count is None:
            with open_control(self._server) as control:
                self._count = len(control.show(self._key.lease, self._key.key).gpus)
        return self._count

    def connect(self, number: int) -> Client:
        """A session on GPU ``number``. Raises the ConnectError branch."""
        return connect(self._server, lease=self._key.lease, key=self._key.key, gpu=number)

    def close(self) -> None:
        """The sessions are over; so is the lease, if it was asked for here."""
        if self._control is not None:
            self._control.close()
        if self._private:
            embedded.release()
            self._private = False


def of_environment() -> Leased | None:
    """The lease that BITFUSION_LEASE names, unless BITFUSION_GPU says that the program is to see one GPU of it only. ConfigError."""
    target, key = target_of(None), key_of(None, None, None, of_environment=True)
    if key is None or target is None or os.environ.get("BITFUSION_GPU"):
        return None
    return Leased(str(target), key)


def asked_for(settings: Settings, wait: float | None) -> Leased:
    """A lease of several GPUs, on the environment's server or a private appliance, which lets nobody wait. ConnectError."""
    target = target_of(None)
    server = str(target or embedded.acquire())
    try:
        control = open_control(server)
        try:
            wait = 0 if target is None else wait
            memory, fraction = settings.memory, settings.fraction
            lease = control.request(gpus=settings.gpus, memory=memory, fraction=fraction, wait=wait, held=True)
        except BaseException:
            control.close()
            raise
    except BaseException:
        if target is None:
            embedded.release()
        raise
    return Leased(server, Key(lease.id, lease.key), len(lease.gpus), control, target is None)
