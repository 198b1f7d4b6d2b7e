"""The lock on a state directory, where its disk is full."""

from __future__ import annotations

import resource

import pytest

from bitfusion.daemon.state_lock import LOCK, locked
from bitfusion.errors import ConfigError


def test_a_full_disk_does_not_open_the_lock(tmp_path):
    (tmp_path / LOCK).write_text("4711\n")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        with (
            locked(tmp_path),
            pytest.raises(ConfigError, match=r"pid \(unknown\) has the state directory"),
            locked(tmp_path),
        ):
            pass
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
