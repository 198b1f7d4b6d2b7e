"""The file that keeps a lease between commands: what ``request_gpus`` writes, ``client`` and ``release_gpus`` read.

Whoever has a lease's key may use the lease, so the file is its owner's alone (mode 0600), and one that is not is not believed: it could
send a program, and all it computes, to somebody else's appliance.
"""

from __future__ import annotations

import json
import os
import stat
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from bitfusion.errors import ConfigError, LeaseError
from bitfusion.limits import LEASE_TEXT_SIZE_MAX
from bitfusion.transport.address import parse_target

PREFIX = "bitfusion"
"""Of the names of the files, which go on at random, as Bitfusion's do."""

FORMAT = 1
"""The version that is written, and the only one that is read."""

SIZE_MAX = 1 << 20
"""Bytes: a lease of a thousand GPUs takes a tenth of it."""

ASK = "ask for a new lease with `bitfusion request_gpus`"


class LeaseFileError(LeaseError):
    """A lease file that is not there, not its reader's own, damaged, or of a lease that has ended."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU of a lease, for people: ``memory`` bytes of it."""

    index: int
    name: str
    memory: int


@dataclass(frozen=True, slots=True)
class SavedLease:
    """All that is needed to use a lease: where it is, which one, and its key."""

    server: str
    id: str
    key: str
    gpus: tuple[Gpu, ...]


def create(path: Path | None) -> Path:
    """A new empty file, ours alone; in the temporary directory, at random, without ``path``. LeaseFileError.

    It is made before the lease is asked for: a lease that could be kept nowhere would be lost until its time is over.
    """
    try:
        if path is None:
            descriptor, name = tempfile.mkstemp(prefix=PREFIX)
            path = Path(name)
        else:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        raise LeaseFileError(
            f"{path} is there already, perhaps with a lease in it: release that (bitfusion release_gpus -f {path}), or name another file"
        ) from None
    except OSError as error:
        raise LeaseFileError(f"the lease cannot be kept in {path or tempfile.gettempdir()}: {error.strerror}") from None
    os.close(descriptor)
    return path


def write(path: Path, lease: SavedLease) -> None:
    """Fill a file of ``create``. LeaseFileError, for instance where the disk is full."""
    text = json.dumps({"version": FORMAT, **asdict(lease)}, indent=2) + "\n"
    try:
        path.write_text(text)
    except OSError as error:
        raise LeaseFileError(f"the lease cannot be kept in {path}: {error.strerror}") from None


def read(path: Path) -> SavedLease:
    """The lease in ``path``. LeaseFileError says what is wrong with the file and what to do."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        raise LeaseFileError(f"the lease file {path} cannot be read: {error.strerror}; {ASK}") from None
    try:
        _check_own(path, os.fstat(descriptor))
        with open(descriptor, "rb", closefd=False) as file:
            return _parse(path, file.read(SIZE_MAX + 1))
    finally:
        os.close(descriptor)


def newest() -> tuple[Path, SavedLease]:
    """The lease file of ours in the temporary directory that was written last, and its lease. LeaseFileError if there is none."""
    place = Path(tempfile.gettempdir())
    found = sorted(_own_files(place), key=lambda item: item[0], reverse=True)
    for _, path in found:
        try:
            return path, read(path)
        except LeaseFileError:
            continue  # one of another kind, or half a lease: an older one may be whole
    raise LeaseFileError(f"there is no lease file of yours in {place}: {ASK}, or name the file with -f")


def _own_files(place: Path) -> list[tuple[int, Path]]:
    """Those that may be lease files, with their times."""
    found = []
    for entry in os.scandir(place):
        if entry.name.startswith(PREFIX) and entry.is_file(follow_symlinks=False):
            try:
                status = entry.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue
            if status.st_uid == os.geteuid():
                found.append((status.st_mtime_ns, Path(entry.path)))
    return found


def _check_own(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise LeaseFileError(f"{path} is not a file; name the one that `bitfusion request_gpus` printed")
    if status.st_uid != os.geteuid():
        raise LeaseFileError(f"the lease file {path} is another user's (uid {status.st_uid}) and not believed; {ASK}")
    if status.st_mode & 0o077:
        raise LeaseFileError(
            f"the lease file {path} can be read or written by others (mode {stat.S_IMODE(status.st_mode):04o}), who could use the lease or "
            f"change it; if nobody has, `chmod 600 {path}`, else release it and {ASK}"
        )


def _parse(path: Path, data: bytes) -> SavedLease:
    """Check what a file says: it may be cut short, or something else altogether."""
    if not data.strip():
        raise LeaseFileError(
            f"the lease file {path} is empty: its `request_gpus` was ended early, or still waits; {ASK}"
        )
    try:
        value = json.loads(data) if len(data) <= SIZE_MAX else None
    except (ValueError, RecursionError):
        value = None
    match value:
        case {"version": int(version)} if version != FORMAT:
            raise LeaseFileError(
                f"the lease file {path} has version {version}, this bitfusion reads {FORMAT}: use the one that wrote it"
            )
        case {"version": int(), "server": str(server), "id": str(id_), "key": str(key), "gpus": list(gpus)} if (
            _can_be_sent(id_) and _can_be_sent(key)
        ):
            return SavedLease(_server(path, server), id_, key, tuple(_gpu(path, gpu) for gpu in gpus))
        case _:
            raise _damaged(path)


def _can_be_sent(text: str) -> bool:
    """Whether a server could have written this id or key: then it can be sent there, and shown on a terminal."""
    return 0 < len(text) <= LEASE_TEXT_SIZE_MAX and text.isascii() and text.isprintable()


def _server(path: Path, text: str) -> str:
    try:
        return str(parse_target(text))
    except ConfigError:
        raise _damaged(path) from None


def _gpu(path: Path, value: object) -> Gpu:
    match value:
        case {"index": int(index), "name": str(name), "memory": int(memory)}:
            return Gpu(index, name, memory)
        case _:
            raise _damaged(path)


def _damaged(path: Path) -> LeaseFileError:
    return LeaseFileError(f"the lease file {path} is damaged or cut short; {ASK}")
