"""A bounded directory of compiled code that outlives processes.

Owns the files and their integrity; knows nothing of what is in them.

Many workers share a directory without locks: an entry appears by an atomic rename, a damaged one is removed by whoever
notices, and the least recently used ones go when there are too many.
"""

from __future__ import annotations

import hashlib
import logging
import os
import secrets
from functools import cache
from pathlib import Path
from typing import Final

from bitfusion.device import cooperative
from bitfusion.limits import MIB

log = logging.getLogger(__name__)

SIZE_MAX: Final = 256 * MIB
"""Bytes of a cache: a kernel's object code is 2 to 50 KiB, so this is thousands of kernels."""

KEPT_SHARE: Final = 0.75
"""Of the limit: what trimming leaves, so that it is rare."""

_DIGEST_SIZE: Final = hashlib.sha256().digest_size


def cache_key(*parts: str | bytes) -> str:
    """A name for what is made from ``parts``; different parts never have the same name."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()


@cache
def compiler_key() -> str:
    """A name for this version of the compiler: what an older one made must not be taken for ours."""
    sources = [*sorted(Path(__file__).parent.glob("*.py")), Path(cooperative.__file__)]
    return cache_key(*(source.read_bytes() for source in sources))


class ObjectCache:
    """``directory`` is made when the first entry is stored; None keeps nothing.

    A cache that cannot be written is not an error.
    """

    def __init__(self, directory: Path | None, size_max: int = SIZE_MAX) -> None:
        self._directory = directory
        self._size_max = size_max

    def load(self, key: str) -> bytes | None:
        """The entry's data, or None if there is none or it is damaged (then it is removed)."""
        if self._directory is None:
            return None
        path = self._directory / key
        try:
            entry = path.read_bytes()
            os.utime(path)
        except OSError:
            return None
        digest, data = entry[:_DIGEST_SIZE], entry[_DIGEST_SIZE:]
        if hashlib.sha256(data).digest() == digest:
            return data
        log.warning("! the cached object %s was damaged and is made again", path)
        _remove(path)
        return None

    def store(self, key: str, data: bytes) -> None:
        """Keep ``data``; whoever loads sees all of it or nothing."""
        if self._directory is None:
            return
        partial = self._directory / f".{key}.{secrets.token_hex(8)}"
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            partial.write_bytes(hashlib.sha256(data).digest() + data)
            partial.rename(self._directory / key)
            self._trim()
        except OSError as error:
            log.warning("! the object cache cannot be written: %s", error)
            _remove(partial)

    def _trim(self) -> None:
        """Remove the least recently used entries when all together are too large."""
        assert self._directory is not None
        with os.scandir(self._directory) as scan:
            entries = [(status.st_mtime_ns, status.st_size, entry.path) for entry in scan if (status := _status(entry))]
        total = sum(size for _, size, _ in entries)
        if total <= self._size_max:
            return
        for _, size, path in sorted(entries):
            _remove(Path(path))
            total -= size
            if total <= self._size_max * KEPT_SHARE:
                return


def _status(entry: os.DirEntry[str]) -> os.stat_result | None:
    try:
        return entry.stat(follow_symlinks=False)
    except OSError:  # another worker removed it
        return None


def _remove(path: Path) -> None:
    try:
        path.unlink()
    except OSError:  # another worker was faster, or the directory is read-only
        pass
