"""The cache of compiled code: what was made once is made no more, and what is damaged is made again."""

from __future__ import annotations

import logging
import os

import numpy as np
import pytest

from bitfusion.device.virtual import program
from bitfusion.device.virtual.jit import target_name
from bitfusion.device.virtual.layout import CompileOptions
from bitfusion.device.virtual.objects import ObjectCache, cache_key
from tests.device.virtual.gpu import Gpu
from tests.device.virtual.test_functions import POINTERS
from tests.device.virtual.test_shared import reverse


def run(directory, **options):
    """Two kernels from the cache in ``directory``."""
    gpu = Gpu(cache_dir=directory, options=CompileOptions(**options))
    x = np.arange(128, dtype=np.float32)
    y = np.zeros_like(x)
    gpu.run(reverse, 2, 64, x, y, shared=256)
    np.testing.assert_array_equal(y, x.reshape(2, 64)[:, ::-1].ravel())
    out = gpu.array(np.zeros(8, np.uint32))
    gpu.device.launch(gpu.stream, gpu.load(POINTERS), (1, 1, 1), (8, 1, 1), 0, out.address.to_bytes(8, "little"))
    np.testing.assert_array_equal(out.host(), [18 + (i * i if i % 2 else 2 * i) for i in range(8)])
    gpu.device.close()


@pytest.fixture
def compiled(monkeypatch):
    """How it was compiled: one entry for each piece of machine code."""
    made = []
    compile_ir = program.compile_ir
    monkeypatch.setattr(program, "compile_ir", lambda ir, **how: made.append(how) or compile_ir(ir, **how))
    return made


def test_a_second_device_compiles_nothing(tmp_path, compiled):
    run(tmp_path)
    assert len(compiled) == 3  # two kernels, one table of device functions
    run(tmp_path)
    assert len(compiled) == 3


def test_other_options_are_other_code(tmp_path, compiled):
    run(tmp_path)
    run(tmp_path, bounds_check=False)
    assert len(compiled) == 6


def test_scalars_are_packed_where_no_thread_stops(tmp_path, compiled):
    run(tmp_path)
    assert compiled == [{"pack": False}, {}, {"pack": True}]  # a kernel with a barrier, functions, a kernel without


def truncate(path):
    os.truncate(path, path.stat().st_size // 2)


def flip(path):
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("damage", [truncate, flip, lambda path: path.write_bytes(b"")])
def test_damaged_entries_are_noticed_and_made_again(tmp_path, compiled, caplog, damage):
    run(tmp_path)
    entries = sorted(tmp_path.iterdir())
    good = [entry.read_bytes() for entry in entries]
    for entry in entries:
        damage(entry)
    run(tmp_path)
    assert len(compiled) == 6
    assert "damaged" in caplog.text
    assert [entry.read_bytes() for entry in sorted(tmp_path.iterdir())] == good


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path, caplog):
    (tmp_path / "file").write_bytes(b"")
    with caplog.at_level(logging.WARNING):
        run(tmp_path / "file")
    assert "cannot be written" in caplog.text


def test_entries_are_private_to_the_user(tmp_path):
    cache = ObjectCache(tmp_path / "cache")
    cache.store(cache_key("a"), b"data")
    assert (tmp_path / "cache").stat().st_mode & 0o077 == 0
    assert cache.load(cache_key("a")) == b"data"
    assert cache.load(cache_key("b")) is None
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [cache_key("a")]


def test_the_least_recently_used_entries_go(tmp_path):
    cache = ObjectCache(tmp_path, size_max=10_000)
    for index in range(9):
        cache.store(cache_key(str(index)), bytes(1000))
        os.utime(tmp_path / cache_key(str(index)), ns=(index, index))
    assert cache.load(cache_key("0")) is not None  # used now
    cache.store(cache_key("last"), bytes(1000))
    kept = [index for index in range(9) if cache.load(cache_key(str(index))) is not None]
    assert kept == [0, 4, 5, 6, 7, 8]
    assert cache.load(cache_key("last")) is not None


def test_no_cache_keeps_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cache = ObjectCache(None)
    cache.store(cache_key("a"), b"data")
    assert cache.load(cache_key("a")) is None
    assert list(tmp_path.iterdir()) == []


def test_keys_tell_parts_apart():
    assert cache_key("ab", "c") != cache_key("a", "bc") != cache_key("abc")
    assert cache_key("a") == cache_key(b"a")


def test_the_target_names_cpu_and_compiler():
    assert "LLVM" in target_name() and "O3" in target_name()
