"""``bitfusion serve``: run an appliance in the foreground."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from bitfusion.cli.exit_codes import ExitCode
from bitfusion.cli.options import duration
from bitfusion.daemon.daemon import Settings, run, state_dir_default
from bitfusion.pool.placement import Strategy
from bitfusion.transport.address import PORT_DEFAULT
from bitfusion.types import CHECKS

KERNEL_TIMEOUT_MAX_S = 1e6
"""Eleven days; a larger number is a slip."""

LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The options of ``serve``."""
    parser = commands.add_parser(
        "serve",
        help="run an appliance: offer this machine's GPUs to clients",
        description="Run an appliance in the foreground until SIGTERM or Ctrl-C.",
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument(
        "--port", type=_port, default=PORT_DEFAULT, help="port, 0 for any free one (default: %(default)s)"
    )
    parser.add_argument(
        "--devices",
        default="auto",
        metavar="SPEC",
        help="auto | cuda | null | virtual | virtual:COUNTxMEMORY, e.g. virtual:2x4GiB; several with commas between"
        " (default: auto, the machine's NVIDIA GPUs, else a virtual one)",
    )
    parser.add_argument(
        "--state-dir",
        type=Path,
        help=f"where the kernel cache is kept; one appliance's at a time (default: {state_dir_default()})",
    )
    parser.add_argument("--ready-file", type=Path, help="once ready, write a JSON object with address and pid here")
    parser.add_argument(
        "--insecure", action="store_true", help="serve addresses other than loopback without TLS and tokens"
    )
    parser.add_argument(
        "--kernel-timeout",
        type=_seconds,
        metavar="S",
        help="seconds a kernel may run on a virtual GPU; then it fails with CUDA_ERROR_LAUNCH_TIMEOUT (default: no limit)",
    )
    parser.add_argument(
        "--check",
        choices=CHECKS,
        default="all",
        help="which accesses of kernels a virtual GPU checks: all, only those to global memory, or none, which is faster and lets a"
        " mistake in a kernel end its session without a word (default: %(default)s)",
    )
    parser.add_argument(
        "--oversubscribe",
        type=float,
        default=1.0,
        metavar="FACTOR",
        help="lease up to FACTOR times the memory there is; memory of idle sessions is moved to this machine's and back on use"
        " (default: %(default)g)",
    )
    parser.add_argument(
        "--strategy",
        choices=[item.value for item in Strategy],
        default=Strategy.PACK.value,
        help="which GPU a lease gets: the fullest that will do, so that whole ones stay free, or the emptiest (default: %(default)s)",
    )
    parser.add_argument(
        "--lifetime", type=duration, metavar="TIME", help="the longest life of a lease: 90, 30m, 8h (default: no limit)"
    )
    parser.add_argument(
        "--idle-warning",
        type=duration,
        metavar="TIME",
        help="mark a lease, in the log and in listings, whose GPUs have done nothing for so long (default: never)",
    )
    parser.add_argument(
        "--idle-timeout",
        type=duration,
        metavar="TIME",
        help="take a lease back whose GPUs have done nothing for so long (default: never)",
    )
    parser.add_argument(
        "--log-level",
        default="WARNING",
        type=_level,
        metavar="LEVEL",
        help=f"{', '.join(LEVELS)} (default: %(default)s)",
    )
    parser.add_argument("--ready-fd", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--lifeline-fd", type=int, help=argparse.SUPPRESS)
    parser.set_defaults(main=main)


def main(options: argparse.Namespace) -> int:
    """Serve; 0 after an ordered stop."""
    logging.basicConfig(level=options.log_level, format="%(asctime)s %(process)d %(name)s %(message)s")
    run(Settings(**{name: getattr(options, name) for name in Settings.__slots__}))
    return ExitCode.OK


def _level(text: str) -> str:
    if text.upper() not in LEVELS:
        raise argparse.ArgumentTypeError(f"{text!r} is no level; write {', '.join(LEVELS)}")
    return text.upper()


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= KERNEL_TIMEOUT_MAX_S:  # NaN compares false
        raise argparse.ArgumentTypeError(
            f"a time is a number of seconds above 0 and at most {KERNEL_TIMEOUT_MAX_S:.0f}, not {text!r}"
        )
    return value


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"a port is 0 to 65535, not {text!r}")
    return int(text)
