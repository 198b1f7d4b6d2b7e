"""Fuzzing for as long as one likes: the targets again and again, each round from another seed, until one fails or the time is over.

    make fuzz SECONDS=600
    python -m tests.fuzz --seconds 600 [a pytest selection, such as tests/fuzz/test_ptx.py]

A failure names its seed; hypothesis keeps the smallest example of it in .hypothesis, where the next run finds it.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import time
from pathlib import Path

ROUND_LIMIT_S = 600
"""A round takes half a minute; one that takes this long hangs."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60, help="start no round after that (default: 60)")
    parser.add_argument("selection", nargs="*", default=[str(Path(__file__).parent)])
    options = parser.parse_args()
    started, rounds = time.monotonic(), 0
    while rounds == 0 or time.monotonic() - started < options.seconds:
        seed = random.randrange(1 << 32)
        command = [sys.executable, "-m", "pytest", "-q", "-x", f"--hypothesis-seed={seed}", *options.selection]
        done = subprocess.run(command, capture_output=True, text=True, timeout=ROUND_LIMIT_S)
        if done.returncode:
            print(done.stdout + done.stderr)
            print(f"failed in round {rounds + 1}: --hypothesis-seed={seed}")
            return 1
        rounds += 1
        print(f"{time.monotonic() - started:.0f} s, {rounds} rounds: {done.stdout.splitlines()[-1]}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
