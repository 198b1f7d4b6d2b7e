"""The cache of compiled kernels: what keys tell apart, and what files, disks and other processes can do to it."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys

import pytest

from bitfusion.kernels import cache, program
from bitfusion.kernels.cache import Cache, Compiled, Raised, key
from bitfusion.kernels.options import Options
from bitfusion.kernels.signatures import encode
from bitfusion.kernels.types import float32, int32, void

KEY = bytes(range(32))
OTHER = bytes(32)
RAISES = {
    1 << 30: Raised("ValueError", "negative", "kernel", "train.py", 7),
    2**31 - 1: Raised("AssertionError", "", "", "", 0),
}
KERNEL = Compiled(b".version 8.0 // " + b"x" * 1000, "kernel", RAISES)


def only_file(directory):
    (path,) = directory.iterdir()
    return path


# keys


def function(**changes):
    values = {"name": "kernel", "file": "train.py", "line": 3, "text": "def kernel(x): pass\n"} | changes
    return program.Program((program.Function(**values),))


BINDING = (program.Binding("TILE", program.CONSTANT, 16),)
SIGNATURE = void(float32[::1])


@pytest.mark.parametrize(
    ("captured", "signature", "options", "capability", "same"),
    [
        (function(), SIGNATURE, Options(), (8, 0), True),
        (function(file="other.py", line=70), SIGNATURE, Options(), (8, 0), True),
        (function(name="other"), SIGNATURE, Options(), (8, 0), False),
        (function(text="def kernel(x): return\n"), SIGNATURE, Options(), (8, 0), False),
        (function(bindings=BINDING), SIGNATURE, Options(), (8, 0), False),
        (function(defaults=(1,)), SIGNATURE, Options(), (8, 0), False),
        (function(signatures=(encode(SIGNATURE),)), SIGNATURE, Options(), (8, 0), False),
        (function(), void(float32[:]), Options(), (8, 0), False),
        (function(), void(float32[::1], int32), Options(), (8, 0), False),
        (function(), SIGNATURE, Options(fastmath=True), (8, 0), False),
        (function(), SIGNATURE, Options(max_registers=32), (8, 0), False),
        (function(), SIGNATURE, Options(), (9, 0), False),
    ],
)
def test_keys_tell_apart_what_compiles_differently(captured, signature, options, capability, same):
    assert (key(captured, signature, options, capability) == key(function(), SIGNATURE, Options(), (8, 0))) is same


@pytest.mark.parametrize("options", [Options(lineinfo=True), Options(debug=True, opt=False)])
def test_places_count_where_they_are_compiled_in(options):
    assert key(function(), SIGNATURE, options, (8, 0)) != key(function(line=4), SIGNATURE, options, (8, 0))


def test_the_versions_of_the_compilers_count(monkeypatch):
    before = key(function(), SIGNATURE, Options(), (8, 0))
    assert any(item.startswith("numba-cuda 0.") for item in cache.versions())
    monkeypatch.setattr(cache, "versions", lambda: ("numba-cuda 99",))
    assert key(function(), SIGNATURE, Options(), (8, 0)) != before


# files


def test_what_is_put_is_got_by_another_session(tmp_path):
    directory = tmp_path / "made" / "on demand"
    Cache(directory).put(KEY, KERNEL)
    assert Cache(directory).get(KEY) == KERNEL
    assert Cache(directory).get(OTHER) is None
    assert directory.stat().st_mode & 0o077 == 0


def test_without_a_directory_it_stays_in_memory(tmp_path):
    memory = Cache(None)
    assert memory.get(KEY) is None
    memory.put(KEY, KERNEL)
    assert memory.get(KEY) == KERNEL
    assert Cache(None).get(KEY) is None


def spoil(how, path, directory):
    data = path.read_bytes()
    match how:
        case "truncated":
            path.write_bytes(data[:-1])
        case "empty":
            path.write_bytes(b"")
        case "header only":
            path.write_bytes(data[:40])
        case "bit rot":
            path.write_bytes(data[:60] + bytes([data[60] ^ 1]) + data[61:])
        case "another format":
            path.write_bytes(data.replace(b"ptx 1", b"ptx 2", 1))
        case "another's entry":
            Cache(directory).put(OTHER, KERNEL)
            (directory / f"{OTHER.hex()}.ptx").replace(path)
        case "foreign":
            path.write_bytes(os.urandom(5000))
        case "whole but not an entry":
            body = b"\x93\x01\x02\x03"
            path.write_bytes(cache.MAGIC + cache.sha256(body).digest() + body)
        case "a directory":
            path.unlink()
            path.mkdir()
        case "a broken link":
            path.unlink()
            path.symlink_to("nowhere")
        case "huge":
            os.truncate(path, cache.ENTRY_SIZE_MAX + 1)


SPOILT = "truncated,empty,header only,bit rot,another format,another's entry,foreign,whole but not an entry,a broken link,huge"


@pytest.mark.parametrize("how", SPOILT.split(","))
def test_spoilt_files_are_no_entries_and_are_replaced(tmp_path, how):
    Cache(tmp_path).put(KEY, KERNEL)
    spoil(how, only_file(tmp_path), tmp_path)
    assert Cache(tmp_path).get(KEY) is None
    Cache(tmp_path).put(KEY, KERNEL)
    assert Cache(tmp_path).get(KEY) == KERNEL
    assert only_file(tmp_path).name == f"{KEY.hex()}.ptx"


def test_a_directory_in_an_entrys_place_only_costs_time(tmp_path):
    Cache(tmp_path).put(KEY, KERNEL)
    spoil("a directory", only_file(tmp_path), tmp_path)
    kept = Cache(tmp_path)
    assert kept.get(KEY) is None
    kept.put(KEY, KERNEL)
    assert kept.get(KEY) == KERNEL
    assert Cache(tmp_path).get(KEY) is None


def test_a_file_in_the_directorys_place_only_costs_time(tmp_path):
    path = tmp_path / "cache"
    path.write_text("not a directory")
    kept = Cache(path)
    kept.put(KEY, KERNEL)
    assert kept.get(KEY) == KERNEL
    assert path.read_text() == "not a directory"


def test_a_full_disk_only_costs_time(tmp_path):
    """RLIMIT_FSIZE makes the write fail half-way, as a full disk does; nothing half-written stays."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, limits[1]))
    try:
        kept = Cache(tmp_path)
        kept.put(KEY, KERNEL)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert kept.get(KEY) == KERNEL
    assert list(tmp_path.iterdir()) == []


READ_ONLY = """
import os, sys
from pathlib import Path
from bitfusion.kernels.cache import Cache, Compiled
directory, key, kernel = Path(sys.argv[1]), bytes(32), Compiled(b"ptx", "kernel")
os.chmod(directory, 0o500)
if os.geteuid() == 0:
    os.setresuid(65534, 65534, 65534)
kept = Cache(directory)
kept.put(key, kernel)
assert kept.get(key) == kernel
"""


def test_a_directory_that_cannot_be_written_only_costs_time(tmp_path):
    directory = tmp_path / "cache"
    directory.mkdir()
    os.chmod(tmp_path, 0o755)
    subprocess.run([sys.executable, "-c", READ_ONLY, str(directory)], check=True, cwd="/")
    assert list(directory.iterdir()) == []


# size


def keys(count):
    return [bytes([number]) * 32 for number in range(count)]


def test_the_oldest_entries_go_when_the_disk_holds_too_much(tmp_path):
    size = len(cache._encode(KEY, KERNEL))
    first, *others = keys(6)
    for number, item in enumerate([first, *others]):
        Cache(tmp_path).put(item, KERNEL)
        os.utime(tmp_path / f"{item.hex()}.ptx", (number, number))
    foreign = tmp_path / "mine.txt"
    foreign.write_bytes(b"x" * 10 * size)
    left_behind = tmp_path / "1-0-0123.new"
    left_behind.write_bytes(b"x" * size)
    os.utime(left_behind, (0, 0))
    assert Cache(tmp_path).get(first) == KERNEL  # used now, so no longer the oldest
    Cache(tmp_path, disk_size_max=3 * size).put(KEY, KERNEL)
    left = {path.stem for path in tmp_path.glob("*.ptx")}
    assert left == {first.hex(), others[-1].hex(), KEY.hex()}
    assert foreign.exists() and not left_behind.exists()


def test_one_session_does_not_fill_the_disk(tmp_path):
    size = len(cache._encode(KEY, KERNEL))
    kept = Cache(tmp_path, disk_size_max=32 * size)
    for item in keys(100):
        kept.put(item, KERNEL)
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= (32 + 2) * size


def test_memory_is_bounded():
    kept = Cache(None, memory_size_max=3 * len(KERNEL.ptx))
    first, *others = keys(3)
    for item in (first, *others):
        kept.put(item, KERNEL)
    kept.put(first, KERNEL)
    kept.put(KEY, KERNEL)
    assert [kept.get(item) is not None for item in (first, *others, KEY)] == [True, False, True, True]


# processes

WRITER = """
import json, sys
from pathlib import Path
from bitfusion.kernels.cache import Cache, Compiled
wrong = found = 0
for turn in range(300):
    for number in range(4):
        key = bytes([number]) * 32
        kernel = Compiled(bytes([number]) * 20000, f"kernel{number}")
        kept = Cache(Path(sys.argv[1]), disk_size_max=60000)
        got = kept.get(key)
        found += got is not None
        wrong += got not in (None, kernel)
        kept.put(key, kernel)
print(json.dumps([wrong, found, sorted(name for name in sys.modules if name.startswith(("numba", "llvmlite")))]))
"""


def test_processes_share_a_directory(tmp_path):
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True) for _ in "12"
    ]
    for writer in writers:
        wrong, found, compilers = json.loads(writer.communicate(timeout=60)[0])
        assert writer.returncode == 0
        assert wrong == 0 and found > 0
        assert compilers == []
    assert not list(tmp_path.glob("*.new"))
