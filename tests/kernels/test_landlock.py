"""What a process gives up by Landlock, in processes of their own."""

from __future__ import annotations

import subprocess
import sys

import pytest

from bitfusion.kernels import landlock

needs_landlock = pytest.mark.skipif(not landlock.version(), reason="this kernel has no Landlock")

CHILD = """
import os, signal, socket, subprocess, sys
from bitfusion.kernels import landlock
inside, outside, deed = sys.argv[1:]
port = socket.create_server(("127.0.0.1", 0))
landlock.read_only([inside])
try:
    exec(deed)
except OSError as error:
    print(type(error).__name__)
else:
    print("done")
"""


@needs_landlock
@pytest.mark.parametrize(
    ("deed", "outcome"),
    [
        ("open(f'{inside}/file').read()", "done"),
        ("os.listdir(inside)", "done"),
        ("open(f'{outside}/file').read()", "PermissionError"),
        ("open(f'{inside}/link').read()", "PermissionError"),
        ("open(f'{inside}/../outside/file').read()", "PermissionError"),
        ("os.listdir(outside)", "PermissionError"),
        ("open(f'{inside}/file', 'w')", "PermissionError"),
        ("open(f'{inside}/new', 'w')", "PermissionError"),
        ("os.unlink(f'{inside}/file')", "PermissionError"),
        ("os.mkdir(f'{outside}/new')", "PermissionError"),
        ("os.execv(sys.executable, [sys.executable, '-c', ''])", "PermissionError"),
    ],
)
def test_what_is_left(tmp_path, deed, outcome):
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    for place in (inside, outside):
        place.mkdir()
        (place / "file").write_text("text")
    (inside / "link").symlink_to(outside / "file")
    assert _child(str(inside), str(outside), deed) == outcome
    assert (inside / "file").read_text() == (outside / "file").read_text() == "text"


@pytest.mark.skipif(landlock.version() < 4, reason="this kernel's Landlock does not govern TCP")
def test_no_connections(tmp_path):
    assert _child(str(tmp_path), "", "socket.create_connection(port.getsockname())") == "PermissionError"


@pytest.mark.skipif(landlock.version() < 6, reason="this kernel's Landlock does not govern signals")
def test_no_signals_to_others(tmp_path):
    assert _child(str(tmp_path), "", "os.kill(os.getppid(), 0)") == "PermissionError"


@needs_landlock
def test_a_place_that_is_not_there_is_an_error_and_confines_nothing(tmp_path):
    with pytest.raises(FileNotFoundError):
        landlock.read_only([str(tmp_path / "none")])
    assert list(tmp_path.iterdir()) == []


def _child(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", CHILD, *arguments], capture_output=True, text=True, timeout=60, check=True
    )
    return done.stdout.strip()
