"""Barriers in shared memory against a model of their phases (PTX ISA, 9.7.13.15)."""

from __future__ import annotations

import numpy as np

from tests.device.virtual.ptx import kernel, run

RANDOM = np.random.default_rng(37)


class Model:
    """A barrier: threads of a phase, those still to come, phases that are over."""

    def __init__(self, count):
        self.expected = self.pending = count
        self.phase = 0

    def arrive(self, count, leaving):
        """Count down; what the phase and the count were before."""
        before = self.phase, self.pending
        self.expected -= count if leaving else 0
        self.pending -= count
        if not self.pending:
            self.phase, self.pending = self.phase + 1, self.expected
        return before


def test_phases(gpu):
    """Random arrivals by one thread. After each: is the phase of its state over, are those of both parities, what was still to come."""
    model, lines, expected = Model(12), ["mbarrier.init.shared.b64 [%r2], 12;"], []
    for _ in range(24):
        count = int(RANDOM.integers(1, model.pending + 1))
        leaving = count < model.expected and RANDOM.random() < 0.1
        form = "arrive_drop" if leaving else "arrive"
        form += ".noComplete" if count < model.pending else ""
        phase, pending = model.arrive(count, leaving)
        parity = model.phase % 2
        expected.append([phase != model.phase, parity != 0, parity != 1, pending])
        lines.append(
            f"""mbarrier.{form}.shared.b64 %rd2, [%r2], {count};
            mbarrier.test_wait.shared.b64 %p0, [%r2], %rd2; selp.u32 %r3, 1, 0, %p0;
            mbarrier.test_wait.parity.shared::cta.b64 %p0, [%r2], 0; selp.u32 %r4, 1, 0, %p0;
            mbarrier.try_wait.parity.acquire.cta.shared::cta.b64 %p0, [%r2], 1, 100; selp.u32 %r5, 1, 0, %p0;
            mbarrier.pending_count.b64 %r6, %rd2; st.global.v4.u32 [%rd0+{16 * len(expected) - 16}], {{%r3, %r4, %r5, %r6}};"""
        )
    assert model.phase > 3 and model.expected < 12
    out = np.zeros((len(expected), 4), np.uint32)
    run(gpu, kernel("mov.u32 %r2, s;" + "\n".join(lines), declarations=".shared .align 8 .b8 s[8];"), out)
    np.testing.assert_array_equal(out, expected)


def test_threads_wait_for_all_others(gpu):
    """Every phase, each thread reads what its neighbour wrote in it; one in four leaves after the first. By generic addresses."""
    block, phases = 64, 5
    text = kernel(
        f"""mov.u64 %rd2, s; cvta.shared.u64 %rd2, %rd2; mov.u32 %r9, 0; setp.ne.u32 %p1, %r0, 0;
        @!%p1 mbarrier.init.b64 [%rd2], {block}; bar.sync 0;
        mul.wide.u32 %rd3, %r0, 4; mov.u64 %rd4, t; add.u64 %rd3, %rd3, %rd4;
        add.u32 %r1, %r0, 4; and.b32 %r1, %r1, {block - 1}; mul.wide.u32 %rd5, %r1, 4; add.u64 %rd5, %rd5, %rd4;
        mad.wide.u32 %rd6, %r0, {4 * phases}, %rd0;
        again: mad.lo.u32 %r2, %r9, 1000, %r0; st.shared.u32 [%rd3], %r2;
        and.b32 %r3, %r0, 3; setp.eq.u32 %p2, %r3, 3; @%p2 bra leave;
        mbarrier.arrive.b64 %rd7, [%rd2];
        wait: mbarrier.test_wait.b64 %p3, [%rd2], %rd7; @!%p3 bra wait;
        ld.shared.u32 %r4, [%rd5]; st.global.u32 [%rd6], %r4;
        mbarrier.arrive.b64 _, [%rd2];
        drain: mbarrier.try_wait.parity.b64 %p3, [%rd2], 1; @!%p3 bra drain;
        add.u64 %rd6, %rd6, 4; add.u32 %r9, %r9, 1; setp.lt.u32 %p4, %r9, {phases}; @%p4 bra again; ret;
        leave: mbarrier.arrive_drop.b64 _, [%rd2];""",
        declarations=f".shared .align 8 .b8 s[8]; .shared .align 4 .b8 t[{4 * block}];",
    )
    out = np.zeros((block, phases), np.uint32)
    run(gpu, text, out, block=block)
    thread = np.arange(block)[:, None]
    expected = np.where(thread % 4 == 3, 0, 1000 * np.arange(phases) + (thread + 4) % block)
    np.testing.assert_array_equal(out, expected)
