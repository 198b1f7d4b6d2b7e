"""The lease file: what was written is read again by its owner, and nothing else is believed."""

from __future__ import annotations

import json
import os
import tempfile

import pytest

from bitfusion.cli import lease_file
from bitfusion.cli.lease_file import Gpu, LeaseFileError, SavedLease

LEASE = SavedLease(
    "gpu1:56001", "0123456789abcdef", "secret", (Gpu(0, "Virtual GPU", 1 << 30), Gpu(3, "Null", 2 << 20))
)


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def kept(path=None, lease=LEASE):
    path = lease_file.create(path)
    lease_file.write(path, lease)
    return path


def test_what_was_written_is_read_again(place):
    path = kept()
    assert path.parent == place and path.name.startswith("bitfusion")
    assert path.stat().st_mode & 0o777 == 0o600
    assert lease_file.read(path) == LEASE
    assert lease_file.newest() == (path, LEASE)


def test_a_file_of_ones_own_choice_must_not_be_there(tmp_path):
    path = kept(tmp_path / "lease")
    assert path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(LeaseFileError, match="is there already"):
        lease_file.create(path)
    with pytest.raises(LeaseFileError, match="No such file or directory"):
        lease_file.create(tmp_path / "no" / "lease")


def test_the_newest_that_is_whole(place):
    first, second = kept(), kept()
    half = lease_file.create(None)
    (place / "bitfusion-directory").mkdir()
    (place / "bitfusion-link").symlink_to(first)
    for number, path in enumerate([first, second, half]):
        os.utime(path, (number, number))
    assert lease_file.newest()[0] == second
    second.unlink()
    assert lease_file.newest()[0] == first
    first.unlink()
    with pytest.raises(LeaseFileError, match="no lease file of yours"):
        lease_file.newest()


WHOLE = {"version": 1, "server": "a:1", "id": "x", "key": "y", "gpus": []}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is empty"),
        (" \n", "is empty"),
        ("{", "damaged or cut short"),
        ("[]", "damaged or cut short"),
        ("null", "damaged or cut short"),
        ("[" * 100_000, "damaged or cut short"),
        ("\xff\xfe", "damaged or cut short"),
        (json.dumps({**WHOLE, "version": 2}), "has version 2, this bitfusion reads 1"),
        (json.dumps({**WHOLE, "version": "1"}), "damaged or cut short"),
        (json.dumps({**WHOLE, "server": 5}), "damaged or cut short"),
        (json.dumps({**WHOLE, "id": ""}), "damaged or cut short"),
        (json.dumps({**WHOLE, "id": "x" * 65}), "damaged or cut short"),
        (json.dumps({**WHOLE, "id": "\ud800"}), "damaged or cut short"),
        (json.dumps({**WHOLE, "id": "x\x1b[2J"}), "damaged or cut short"),
        (json.dumps({**WHOLE, "key": "\udfff"}), "damaged or cut short"),
        (json.dumps({**WHOLE, "key": "y" * 65}), "damaged or cut short"),
        (json.dumps({**WHOLE, "key": "y\n"}), "damaged or cut short"),
        (json.dumps({**WHOLE, "gpus": [{}]}), "damaged or cut short"),
        (json.dumps({**WHOLE, "gpus": {}}), "damaged or cut short"),
        (json.dumps({**WHOLE, "server": "http://a/"}), "damaged or cut short"),
        (json.dumps({key: value for key, value in WHOLE.items() if key != "key"}), "damaged or cut short"),
        (json.dumps(WHOLE) + " " * lease_file.SIZE_MAX, "damaged or cut short"),
    ],
)
def test_what_is_no_lease(text, words, tmp_path):
    path = lease_file.create(tmp_path / "lease")
    path.write_text(text, encoding="latin-1")
    with pytest.raises(LeaseFileError, match=words):
        lease_file.read(path)


def test_every_cut_is_noticed(tmp_path):
    path = kept(tmp_path / "lease")
    whole = path.read_bytes().rstrip()
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        with pytest.raises(LeaseFileError):
            lease_file.read(path)


def test_files_that_others_could_have_written(tmp_path, place):
    path = kept(place / "bitfusion-mine")
    for mode in (0o640, 0o604, 0o660, 0o602):
        path.chmod(mode)
        with pytest.raises(LeaseFileError, match=r"can be read or written by others.*chmod 600"):
            lease_file.read(path)
        with pytest.raises(LeaseFileError, match="no lease file of yours"):
            lease_file.newest()
    path.chmod(0o600)
    link = tmp_path / "link"
    link.symlink_to(path)
    with pytest.raises(LeaseFileError, match="cannot be read"):
        lease_file.read(link)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_another_users_file_is_not_believed(place):
    path = kept()
    os.chown(path, 12345, -1)
    with pytest.raises(LeaseFileError, match="another user's"):
        lease_file.read(path)
    with pytest.raises(LeaseFileError, match="no lease file of yours"):
        lease_file.newest()


def test_what_is_no_file(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe, 0o600)
    with pytest.raises(LeaseFileError, match="is not a file"):
        lease_file.read(pipe)
    with pytest.raises(LeaseFileError, match="is not a file"):
        lease_file.read(tmp_path)
    with pytest.raises(LeaseFileError, match="No such file or directory"):
        lease_file.read(tmp_path / "nothing")
