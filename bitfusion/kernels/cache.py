"""Compiled kernels, kept in memory and on disk. Knows nothing of how they are made, and never imports the compiler.

One file per kernel, named by its key, written beside its place and moved there whole, so that any number of processes may share a
directory. A file holds a magic, the SHA-256 of the rest, and the rest: msgpack of ``[key, entry, ptx, raises]``. What does not read
so is no entry, and the next ``put`` replaces it. A disk that is full, read-only or gone makes things slower, never wrong.
"""

from __future__ import annotations

import functools
import importlib.metadata
import itertools
import logging
import os
import sys
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

from bitfusion.errors import RemoteProtocolError
from bitfusion.kernels.options import Options
from bitfusion.kernels.program import Program
from bitfusion.kernels.signatures import encode
from bitfusion.kernels.types import Signature
from bitfusion.limits import MIB
from bitfusion.wire import codec

log = logging.getLogger(__name__)

FORMAT = 3
"""The number of the gate's and the compiler's ways: an entry made by other ones is not found."""

MAGIC = b"bitfusion ptx 1\n"
HEADER_SIZE = len(MAGIC) + 32

SUFFIX = ".ptx"
TEMPORARY = ".new"

COMPILERS = ("numba", "numba-cuda", "llvmlite", "nvidia-nvvm", "nvidia-nvjitlink", "nvidia-cuda-nvrtc")
"""Distributions that decide what comes out."""

ENTRY_SIZE_MAX = 64 * MIB
"""A file above this is not one of ours; PTX of a kernel is some tens of KiB."""

DISK_SIZE_MAX = 256 * MIB
"""Some thousand kernels. Beyond it the ones that have not been used for longest go."""

MEMORY_SIZE_MAX = 16 * MIB
"""In one worker; a session asks for the same kernel again only after it has unloaded it."""


class Raised(NamedTuple):
    """An exception that a kernel may raise: its class's name, its text, and where; no file where that is not known."""

    exception: str
    text: str
    function: str
    file: str
    line: int


@dataclass(frozen=True, slots=True)
class Compiled:
    """PTX text, the name of the kernel in it, and by the numbers it stores what it may raise (with ``debug``)."""

    ptx: bytes
    entry: str
    raises: Mapping[int, Raised] = field(default_factory=dict)


def key(program: Program, signature: Signature, options: Options, capability: tuple[int, int]) -> bytes:
    """The SHA-256 of all that decides what the compiler makes."""
    parts = (
        FORMAT,
        versions(),
        program.identity(places=options.places or program.places),
        encode(signature),
        options.as_dict(),
        tuple(capability),
    )
    return sha256(codec.pack(parts)).digest()


@functools.cache
def versions() -> tuple[str, ...]:
    """The versions of Python, whose bytecode Numba reads, and of the compilers, without importing them."""
    return (f"python {sys.version_info[0]}.{sys.version_info[1]}", *map(_version, COMPILERS))


def _version(distribution: str) -> str:
    try:
        return f"{distribution} {importlib.metadata.version(distribution)}"
    except importlib.metadata.PackageNotFoundError:
        return f"{distribution} -"


class Cache:
    """``get`` and ``put`` by key. ``directory`` None keeps things in memory only."""

    def __init__(
        self, directory: Path | None, *, disk_size_max: int = DISK_SIZE_MAX, memory_size_max: int = MEMORY_SIZE_MAX
    ) -> None:
        self._memory = _Memory(memory_size_max)
        self._disk = None if directory is None else _Disk(directory, disk_size_max)

    def get(self, key: bytes) -> Compiled | None:
        """The kernel, or None if it has to be compiled."""
        found = self._memory.get(key)
        if found is None and self._disk is not None:
            found = self._disk.get(key)
            if found is not None:
                self._memory.put(key, found)
        return found

    def put(self, key: bytes, compiled: Compiled) -> None:
        """Keep a kernel. Never fails."""
        self._memory.put(key, compiled)
        if self._disk is not None:
            self._disk.put(key, compiled)


class _Memory:
    """The kernels used last, up to a size."""

    def __init__(self, size_max: int) -> None:
        self._size_max = size_max
        self._size = 0
        self._entries: OrderedDict[bytes, Compiled] = OrderedDict()

    def get(self, key: bytes) -> Compiled | None:
        found = self._entries.get(key)
        if found is not None:
            self._entries.move_to_end(key)
        return found

    def put(self, key: bytes, compiled: Compiled) -> None:
        if key in self._entries:
            self._size -= len(self._entries.pop(key).ptx)
        self._entries[key] = compiled
        self._size += len(compiled.ptx)
        while self._size > self._size_max:
            _, dropped = self._entries.popitem(last=False)
            self._size -= len(dropped.ptx)


class _Disk:
    """A directory of entries."""

    _numbers = itertools.count()

    def __init__(self, directory: Path, size_max: int) -> None:
        self._directory = directory
        self._size_max = size_max
        self._unchecked: int | None = None
        """Bytes written since the directory was last looked over; None before the first time."""

    def get(self, key: bytes) -> Compiled | None:
        path = self._path(key)
        try:
            with path.open("rb") as file:
                if os.fstat(file.fileno()).st_size > ENTRY_SIZE_MAX:
                    return None
                found = _decode(key, file.read(ENTRY_SIZE_MAX))
            if found is not None:
                os.utime(path)  # what is used stays
        except OSError:
            return None
        return found

    def put(self, key: bytes, compiled: Compiled) -> None:
        data = _encode(key, compiled)
        temporary = self._directory / f"{os.getpid()}-{next(self._numbers)}-{key.hex()[:16]}{TEMPORARY}"
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            try:
                with temporary.open("xb") as file:
                    file.write(data)
                temporary.replace(self._path(key))
            except OSError:
                temporary.unlink(missing_ok=True)
                raise
            self._look_over(len(data))
        except OSError as error:
            log.info("a compiled kernel could not be kept: %s", error)

    def _path(self, key: bytes) -> Path:
        return self._directory / f"{key.hex()}{SUFFIX}"

    def _look_over(self, written: int) -> None:
        """Now and then, see that the directory is within its size."""
        if self._unchecked is not None and self._unchecked + written < self._size_max // 16:
            self._unchecked += written
            return
        self._unchecked = 0
        entries = [(stat.st_mtime_ns, stat.st_size, path) for path, stat in self._entries()]
        size = sum(size for _, size, _ in entries)
        for _, entry_size, path in sorted(entries):
            if size <= self._size_max:
                break
            path.unlink(missing_ok=True)
            size -= entry_size

    def _entries(self) -> list[tuple[Path, os.stat_result]]:
        """Our files; a half-written one that its process left behind is among them and gets old."""
        found = []
        with os.scandir(self._directory) as items:
            for item in items:
                if item.name.endswith((SUFFIX, TEMPORARY)):
                    try:
                        found.append((Path(item.path), item.stat(follow_symlinks=False)))
                    except FileNotFoundError:  # another process has just evicted it
                        pass
        return found


def _encode(key: bytes, compiled: Compiled) -> bytes:
    raises = [(number, *raised) for number, raised in compiled.raises.items()]
    body = codec.pack((key, compiled.entry, compiled.ptx, raises))
    return MAGIC + sha256(body).digest() + body


def _decode(key: bytes, data: bytes) -> Compiled | None:
    """The kernel in a file, or None if the file is not an entry for ``key``, whole and unchanged."""
    digest, body = data[len(MAGIC) : HEADER_SIZE], data[HEADER_SIZE:]
    if not data.startswith(MAGIC) or sha256(body).digest() != digest:
        return None
    try:
        value = codec.unpack(body)
    except RemoteProtocolError:
        return None
    match value:
        case (bytes(named), str(entry), bytes(ptx), tuple(raises)) if named == key and all(map(_is_raised, raises)):
            return Compiled(ptx, entry, {item[0]: Raised(*item[1:]) for item in raises})  # type: ignore[index, misc]  # _is_raised has looked
    return None


def _is_raised(value: object) -> bool:
    match value:
        case (int(), str(), str(), str(), str(), int()):
            return True
    return False
