"""Options that several verbs have: which servers, what is asked of the pool, how much is said; and the forms their values have.

Each ``type=`` function here turns the words of a command line into a value, or says what to write.
"""

from __future__ import annotations

import argparse
import math
import os
import re

from bitfusion.errors import ConfigError
from bitfusion.pool.request import GPU_COUNT_MAX, LIFETIME_MAX_S, PRIORITY_MAX, WEIGHT_MAX
from bitfusion.transport.address import PORT_DEFAULT, parse_target
from bitfusion.types import SIZE_MAX, format_size, parse_size

LOCAL = f"127.0.0.1:{PORT_DEFAULT}"
"""Where an appliance listens that was started without options."""


def add_server_options(parser: argparse.ArgumentParser, default: str = LOCAL) -> None:
    """Where the pool is."""
    place = parser.add_mutually_exclusive_group()
    place.add_argument(
        "--server",
        type=server,
        metavar="HOST:PORT",
        help=f"the appliance (default: $BITFUSION_SERVER, else {default})",
    )
    place.add_argument(
        "--server_list",
        type=server_list,
        metavar="HOST:PORT,...",
        help="several appliances, tried in this order",
    )


def add_json_option(parser: argparse.ArgumentParser) -> None:
    """For what other programs read."""
    parser.add_argument("--json", action="store_true", help="write JSON")


def add_voice_options(parser: argparse.ArgumentParser) -> None:
    """How much is said on standard error."""
    voice = parser.add_mutually_exclusive_group()
    voice.add_argument("-q", "--quiet", action="store_true", help="say nothing of our own")
    voice.add_argument("-v", "--verbose", action="store_true", help="say more: which servers were tried, the lease")


def add_request_options(parser: argparse.ArgumentParser) -> None:
    """What is asked of the pool, and for how long."""
    asked = parser.add_argument_group("what is leased")
    asked.add_argument(
        "-n", "--num_gpus", "--gpus", type=gpu_count, metavar="N", help="GPUs, all different ones (default: 1)"
    )
    size = asked.add_mutually_exclusive_group()
    size.add_argument(
        "-p",
        "--partial",
        "--fraction",
        type=fraction,
        metavar="FRACTION",
        help="share of each GPU's memory, above 0 and up to 1; 1 is exclusive",
    )
    size.add_argument(
        "-m", "--memory", type=memory, metavar="SIZE", help="memory of each GPU: a number of MiB, or with a unit: 2GiB"
    )
    asked.add_argument("--exclusive", action="store_true", help="nobody else on these GPUs")
    asked.add_argument(
        "--filter",
        action="extend",
        nargs="+",
        default=[],
        metavar="CONDITION",
        help="only GPUs that meet all of these, quoted for the shell: 'device.memory>=16GiB' server.hostname=a",
    )
    asked.add_argument("--weight", type=weight, metavar="W", help="share of a busy GPU's time beside others (100)")
    asked.add_argument("--cap", type=percent, metavar="PERCENT", help="at most this much of the GPU's time")
    asked.add_argument("--lifetime", type=duration, metavar="TIME", help="end the lease after this: 90, 30m, 8h, 2d")
    queue = parser.add_argument_group("where nothing is free")
    wait = queue.add_mutually_exclusive_group()
    wait.add_argument("--timeout", type=duration, metavar="TIME", help="wait at most this long: seconds, or 30m, 8h")
    wait.add_argument("--no-wait", action="store_true", help="do not wait: say why each GPU does not do")
    queue.add_argument("--priority", type=priority, metavar="P", help="before all that wait with a lower one (0)")


def servers(options: argparse.Namespace) -> list[str]:
    """The servers meant, at least one: those of the options, else BITFUSION_SERVER, else this machine's. ConfigError."""
    if options.server_list:
        return list(options.server_list)
    named = options.server or os.environ.get("BITFUSION_SERVER")
    return [str(parse_target(named or LOCAL))]


# values


def server(text: str) -> str:
    """``host:port`` with its port."""
    try:
        return str(parse_target(text))
    except ConfigError as error:
        raise argparse.ArgumentTypeError(error.message) from None


def server_list(text: str) -> list[str]:
    """Servers with commas between, each once."""
    return list(dict.fromkeys(server(part) for part in text.split(",")))


def gpu_count(text: str) -> int:
    """1 to GPU_COUNT_MAX."""
    return whole(text, "a number of GPUs", 1, GPU_COUNT_MAX)


def weight(text: str) -> int:
    """1 to WEIGHT_MAX."""
    return whole(text, "a weight", 1, WEIGHT_MAX)


def percent(text: str) -> int:
    """1 to 100, with or without the sign."""
    return whole(text.removesuffix("%"), "a share of a GPU's time in per cent", 1, 100)


def priority(text: str) -> int:
    """-PRIORITY_MAX to PRIORITY_MAX."""
    return whole(text, "a priority", -PRIORITY_MAX, PRIORITY_MAX)


def whole(text: str, what: str, low: int, high: int) -> int:
    """An integer in its bounds."""
    if not re.fullmatch(r"[+-]?[0-9]{1,9}", text) or not low <= int(text) <= high:
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is not {what}: write a whole number, {low} to {high}")
    return int(text)


def fraction(text: str) -> float:
    """Above 0 and up to 1."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 1:  # NaN compares false
        raise argparse.ArgumentTypeError(
            f"{text[:40]!r} is not a share of a GPU: above 0 and up to 1, for instance 0.5"
        )
    return value


_NUMBER = re.compile(r"[0-9]{1,20}(\.[0-9]{1,20})?")


def memory(text: str) -> int:
    """Bytes: a number of MiB, as Bitfusion's ``-m``, or one with a unit."""
    try:
        size = parse_size(f"{text} MiB" if _NUMBER.fullmatch(text) else text)
    except ConfigError:
        raise argparse.ArgumentTypeError(
            f"{text[:40]!r} cannot be: write a number of MiB, or one with a unit such as 2GiB, up to {format_size(SIZE_MAX)}"
        ) from None
    if not size:
        raise argparse.ArgumentTypeError("a lease needs some memory")
    return size


_UNITS_S = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


def duration(text: str) -> float:
    """Seconds, from a number of them or one with a unit: ``90``, ``1.5h``."""
    match = re.fullmatch(r"([0-9]{1,12}(?:\.[0-9]{1,9})?)\s*([smhdw]?)", text.strip().lower())
    seconds = float(match[1]) * _UNITS_S[match[2]] if match else math.nan
    if not 0 < seconds <= LIFETIME_MAX_S:  # NaN compares false
        raise argparse.ArgumentTypeError(
            f"{text[:40]!r} is not a time: write seconds, or a number with s, m, h, d or w, up to a year: 90, 30m, 8h"
        )
    return seconds
