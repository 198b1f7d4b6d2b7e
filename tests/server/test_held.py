"""What the daemon keeps of a lease's sessions."""

from __future__ import annotations

from bitfusion.pool.request import Holder
from bitfusion.server.held import SAMPLE_S, SessionRow


def test_a_sessions_part_of_the_gpus_time():
    row = SessionRow("cafe", 0, 0, Holder())
    assert row.sample(5.0, 100.0) is None
    assert row.sample(5.1, 100.0 + SAMPLE_S / 2) is None, "too soon to say"
    assert row.sample(5.0 + SAMPLE_S / 4, 100.0 + SAMPLE_S) == 0.25
    assert row.sample(9.0, 100.1 + SAMPLE_S) == 0.25, "too soon to say another"
    assert row.sample(9e9, 200.0) == 1.0
    assert row.sample(0.0, 300.0) == 0.0, "a ledger that somebody has spoilt"
