"""What a command says of its lease on standard error: the lines of Bitfusion's start-up and release, in our form."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING

from bitfusion.cli.console import say
from bitfusion.cli.words import gpus_text, mib_text

if TYPE_CHECKING:
    from bitfusion.client.control import Grant

COMMAND_SIZE_MAX = 60
"""Characters of the program's command line that are repeated."""


class Voice:
    """Says nothing if ``quiet``, more if ``verbose``."""

    def __init__(self, quiet: bool, verbose: bool) -> None:
        self.quiet = quiet
        self.verbose = verbose

    def say(self, text: str) -> None:
        """A line, unless --quiet."""
        if not self.quiet:
            say(text)

    def detail(self, text: str) -> None:
        """A line with --verbose."""
        if self.verbose:
            say(text)

    def granted(self, lease: Grant, server: str) -> None:
        """The lease is there."""
        names = ", ".join(dict.fromkeys(gpu.name for gpu in lease.gpus))
        self.say(f"leased {gpus_named(lease)} ({names}) with {sizes(lease)} from {server}")
        for gpu in lease.gpus:
            self.detail(
                f"GPU {gpu.index}: {gpu.name}, {gpu.uuid}, {mib_text(gpu.memory_size)}, of them {mib_text(gpu.leased_size)} leased"
            )
        self.detail(f"lease {lease.id}")

    def running(self, command: Sequence[str], lease: Grant) -> None:
        """The program is about to start."""
        self.say(f"running {shortened(command)} on {gpus_text(len(lease.gpus))}")

    def released(self, lease: Grant, server: str) -> None:
        """The lease is over, in order."""
        self.say(f"released {gpus_named(lease)} on {server}")


def gpus_named(lease: Grant) -> str:
    """``GPU 0``, ``GPUs 0 and 2``, ``GPUs 0, 1 and 2``."""
    numbers = [str(gpu.index) for gpu in lease.gpus]
    if len(numbers) == 1:
        return f"GPU {numbers[0]}"
    return f"GPUs {', '.join(numbers[:-1])} and {numbers[-1]}"


def sizes(lease: Grant) -> str:
    """The memory of each GPU, once where they are alike."""
    found = list(dict.fromkeys(mib_text(gpu.leased_size) for gpu in lease.gpus))
    each = " each" if len(found) == 1 and len(lease.gpus) > 1 else ""
    return f"{' and '.join(found)} of memory{each}"


def shortened(command: Sequence[str]) -> str:
    """The command line as a shell would take it, cut where it is long."""
    text = " ".join(map(shlex.quote, command))
    return text if len(text) <= COMMAND_SIZE_MAX else text[: COMMAND_SIZE_MAX - 3] + "..."
