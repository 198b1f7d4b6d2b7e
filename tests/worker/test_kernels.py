"""A session's kernels: sources by hash, their limits, and compiles that the cache saves."""

from __future__ import annotations

import os
import subprocess
import sys
from hashlib import sha256

import pytest

from bitfusion import limits
from bitfusion.errors import (
    InvalidHandleError,
    InvalidValueError,
    KernelCompileError,
    KernelSourceError,
    KernelTypeError,
    RemoteProtocolError,
)
from bitfusion.kernels.signatures import encode
from bitfusion.kernels.source import capture
from bitfusion.kernels.types import float32, int32, void
from bitfusion.worker import kernels
from bitfusion.worker.kernels import Kernels
from tests.kernels import sample

AXPY = capture(sample.axpy)
SIGNATURE = encode(void(float32, float32[::1], float32[::1]))
CC = (8, 0)


def test_a_source_is_compiled_for_each_signature(tmp_path):
    session = Kernels(tmp_path)
    session.add_source(AXPY.digest, AXPY.data)
    session.add_source(AXPY.digest, AXPY.data)
    made, label = session.compile(AXPY.digest, SIGNATURE, {}, CC)
    assert f".visible .entry {made.entry}(".encode() in made.ptx
    assert label == f"axpy (sample.py:{sample.axpy.__code__.co_firstlineno})"
    other, _ = session.compile(AXPY.digest, encode(void(float32, float32[:], float32[:])), None, CC)
    assert other.ptx != made.ptx
    assert len(list(tmp_path.iterdir())) == 2
    assert session.compile(AXPY.digest, SIGNATURE, {}, CC) == (made, label)


WARM = """
import sys
from pathlib import Path
from bitfusion.worker.kernels import Kernels
data, signature, directory = sys.argv[1:]
session = Kernels(Path(directory))
import hashlib
source = bytes.fromhex(data)
session.add_source(hashlib.sha256(source).digest(), source)
from bitfusion.kernels.signatures import encode, parse_signature
print(session.compile(hashlib.sha256(source).digest(), encode(parse_signature(signature)), {}, (8, 0))[0].entry)
assert not [name for name in sys.modules if name.startswith(("numba", "llvmlite"))]
"""


def test_another_process_takes_it_from_disk_without_the_compiler(tmp_path):
    session = Kernels(tmp_path)
    session.add_source(AXPY.digest, AXPY.data)
    made, _ = session.compile(AXPY.digest, SIGNATURE, {}, CC)
    text = "void(float32, float32[::1], float32[::1])"
    arguments = [sys.executable, "-c", WARM, AXPY.data.hex(), text, str(tmp_path)]
    assert subprocess.run(arguments, check=True, capture_output=True, text=True).stdout.strip() == made.entry


def test_a_hash_that_is_not_the_sources_breaks_the_protocol():
    with pytest.raises(RemoteProtocolError, match="does not have the hash"):
        Kernels(None).add_source(bytes(32), AXPY.data)


def test_a_source_that_was_not_sent():
    with pytest.raises(InvalidHandleError, match="has not been sent"):
        Kernels(None).compile(AXPY.digest, SIGNATURE, {}, CC)


def test_a_session_can_send_so_many_sources(monkeypatch):
    monkeypatch.setattr(kernels, "SOURCE_COUNT_MAX", 2)
    session = Kernels(None)
    for number in range(2):
        session.add_source(sha256(bytes([number])).digest(), bytes([number]))
    session.add_source(sha256(b"\0").digest(), b"\0")
    with pytest.raises(InvalidValueError, match="2 kernels"):
        session.add_source(sha256(b"\2").digest(), b"\2")


def test_a_session_can_send_so_many_bytes(monkeypatch):
    monkeypatch.setattr(kernels, "SOURCES_SIZE_MAX", 3 * limits.SOURCE_SIZE_MAX)
    session = Kernels(None)
    for number in range(3):
        source = bytes([number]) * limits.SOURCE_SIZE_MAX
        session.add_source(sha256(source).digest(), source)
    with pytest.raises(InvalidValueError, match="bytes of source"):
        session.add_source(sha256(b"one more").digest(), b"one more")


@pytest.mark.parametrize(
    ("source", "signature", "options", "error"),
    [
        (b"not a kernel", SIGNATURE, {}, KernelSourceError),
        (os.urandom(64), SIGNATURE, {}, KernelSourceError),
        (AXPY.data, encode(void(float32)), {}, KernelCompileError),
        (AXPY.data, encode(int32(float32)), {}, KernelTypeError),
        (AXPY.data, "void(float32)", {}, RemoteProtocolError),
        (AXPY.data, encode(float32), {}, RemoteProtocolError),
        (AXPY.data, SIGNATURE, {"fastmath": 1}, KernelTypeError),
        (AXPY.data, SIGNATURE, {"link": "/etc/passwd"}, KernelTypeError),
        (AXPY.data, SIGNATURE, {"max_registers": 10**6}, KernelTypeError),
        (AXPY.data, SIGNATURE, {"max_registers": True}, KernelTypeError),
        (AXPY.data, SIGNATURE, {"opt": 4}, KernelTypeError),
        (AXPY.data, SIGNATURE, ["fastmath"], KernelTypeError),
    ],
)
def test_what_cannot_be_compiled_is_a_typed_error(source, signature, options, error):
    session = Kernels(None)
    session.add_source(sha256(source).digest(), source)
    with pytest.raises(error):
        session.compile(sha256(source).digest(), signature, options, CC)


def test_nothing_is_kept_of_a_kernel_that_failed(tmp_path):
    session = Kernels(tmp_path)
    session.add_source(AXPY.digest, AXPY.data)
    for _ in range(2):
        with pytest.raises(KernelCompileError):
            session.compile(AXPY.digest, encode(void(float32)), {}, CC)
    assert list(tmp_path.iterdir()) == []
