"""The lock on a state directory, so that two appliances never keep their leases in one, and the name of the server that lives there."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import secrets
from collections.abc import Iterator
from pathlib import Path

from bitfusion.errors import ConfigError

LOCK = "lock"
"""The kernel lets it go with the process that holds it, however that ends; the pid in it is for people."""

SERVER_ID = "server-id"

_ID = re.compile("[0-9a-f]{16}")


@contextlib.contextmanager
def locked(state_dir: Path) -> Iterator[None]:
    """The directory is ours for the block. ConfigError names the process that has it, or why it cannot be locked."""
    try:
        descriptor = os.open(state_dir / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ConfigError(f"the state directory {state_dir} cannot be locked: {error.strerror}") from None
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid = os.read(descriptor, 32).decode("ascii", "replace").strip()
            raise ConfigError(
                f"the appliance with pid {pid or '(unknown)'} has the state directory {state_dir}: "
                "stop it, or give this one another --state-dir"
            ) from None
        with contextlib.suppress(OSError):  # on a full disk the lock is as good without it
            os.truncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)


def server_id(state_dir: Path | None) -> str:
    """The server's own name, the same after a restart where it has a directory to keep it in."""
    if state_dir is None:
        return secrets.token_hex(8)
    path = state_dir / SERVER_ID
    with contextlib.suppress(OSError, UnicodeDecodeError):
        if _ID.fullmatch(kept := path.read_text().strip()):
            return kept
    made = secrets.token_hex(8)
    with contextlib.suppress(OSError):
        path.write_text(made + "\n")
    return made
