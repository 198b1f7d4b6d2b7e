"""An appliance that is stopped, or killed, and started again: what it keeps, and what it says of what it could not."""

from __future__ import annotations

import signal

import numpy as np
import pytest

from bitfusion.client.client import connect
from bitfusion.client.control import open_control
from bitfusion.errors import LeaseError, QuotaError
from bitfusion.pool.store import FILE
from tests.appliance import Appliance
from tests.processes import ends

DEVICES = "virtual:2x64MiB"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_what_was_there_is_there_again(tmp_path, number):
    with Appliance(DEVICES, tmp_path) as first:
        control, own = open_control(first.address), connect(first.address, memory="4MiB")
        ended = control.request(memory="4MiB")
        control.release(ended.id, ended.key)
        control.set_quota({"subject": "user:*", "gpus": 0.5})
        held = control.request(memory="4MiB", held=True)
        grant = control.request(gpus=2, memory="8MiB", weight=300)
        client = connect(first.address, lease=grant.id, key=grant.key, gpu=1)
        client.to_device(np.ones(10))
        server, history, workers = control.list()["server"]["id"], control.history(), first.workers()
        first.stop(number)
        assert all(ends(pid) for pid in workers)
        for connection in (control, own, client):
            connection.close()
    with Appliance(DEVICES, tmp_path) as second, open_control(second.address) as control:
        listed = control.list()
        assert listed["server"]["id"] == server
        leases = [lease for gpu in listed["gpus"] for lease in gpu["leases"]]
        assert [lease["id"] for lease in leases] == [grant.id] * 2, "what a connection held has ended with it"
        assert {lease["weight"] for lease in leases} == {300} and not any(lease["sessions"] for lease in leases)
        now = control.history()
        assert now[-1:] == history and {entry["id"] for entry in now} >= {ended.id, held.id} and len(now) == 3
        with pytest.raises(QuotaError):
            control.request(fraction=0.5, wait=0)
        with connect(second.address, lease=grant.id, key=grant.key, gpu=1) as client:
            assert client.to_device(np.ones(10)).copy_to_host().all()
        with pytest.raises(LeaseError):
            connect(second.address, lease=grant.id, key="0" * 32)
        control.release(grant.id, grant.key)
        assert not any(gpu["leases"] for gpu in control.list()["gpus"])


def test_a_gpu_that_is_gone_takes_its_leases_with_it(tmp_path):
    with Appliance(DEVICES, tmp_path) as first, open_control(first.address) as control:
        grants = [control.request(gpus=count, memory="16MiB") for count in (1, 2)]
    with Appliance("virtual:1x64MiB", tmp_path) as second, open_control(second.address) as control:
        assert second.wait_log(f"lease {grants[1].id} cannot be restored: .* is not here any more")
        assert [lease["id"] for gpu in control.list()["gpus"] for lease in gpu["leases"]] == [grants[0].id]
        assert "not here any more" in control.history()[0]["reason"]
    for path in tmp_path.glob(FILE + "*"):
        path.write_bytes(b"garbage" * 1000)
    with pytest.raises(RuntimeError, match=FILE):  # never an empty pool in silence
        Appliance(DEVICES, tmp_path)
