"""``bitfusion quota``: what users and groups may have of the pool; listed and set."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from typing import Any

from bitfusion.cli.console import say, show, show_json
from bitfusion.cli.exit_codes import ExitCode
from bitfusion.cli.options import add_json_option, add_server_options, duration, memory, priority, servers
from bitfusion.cli.words import memory_text, time_text
from bitfusion.client.control import open_control
from bitfusion.errors import ConfigError
from bitfusion.pool.quota import check_subject
from bitfusion.session.fields import printable

HOUR_S = 3600.0

LIMITS = ("gpus", "memory", "gpu_seconds_per_day", "lifetime_s", "priority_max")
"""The fields of a quota, in the order of the table."""

NONE = "none"
"""Written for a limit that is to be lifted."""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The options of ``quota``."""
    parser = commands.add_parser(
        "quota",
        help="list and set what users and groups may have",
        description="List quotas, or set one: bitfusion quota set user:ana --gpus 2 --memory 40GiB. Limits that are not named stay.",
    )
    parser.add_argument("action", nargs="?", choices=("list", "set", "remove"), default="list", help="default: list")
    parser.add_argument(
        "subject", nargs="?", type=_subject, help="user:NAME or group:NAME; * is everybody without one of their own"
    )
    limits = parser.add_argument_group("limits", f"each also {NONE}: no limit")
    limits.add_argument(
        "--gpus", type=_or_none(_gpus), metavar="N", help="GPUs at once; a part of one counts as that part: 0.5"
    )
    limits.add_argument(
        "--memory", type=_or_none(memory), metavar="SIZE", help="memory at once: MiB, or with a unit: 40GiB"
    )
    limits.add_argument("--gpu-hours", type=_or_none(_hours), metavar="H", help="hours of a whole GPU per day (UTC)")
    limits.add_argument("--lifetime", type=_or_none(duration), metavar="TIME", help="longest life of a lease: 8h, 2d")
    limits.add_argument(
        "--priority", type=_or_none(priority), metavar="P", help="highest priority that may be asked for"
    )
    add_server_options(parser)
    add_json_option(parser)
    parser.set_defaults(main=main)


def main(options: argparse.Namespace) -> int:
    """List, set or remove. ConfigError; raises the ConnectError branch."""
    if len(places := servers(options)) > 1:
        raise ConfigError("quota works on one server: give --server HOST:PORT")
    changes = _changes(options)
    _check(options, changes)
    with open_control(places[0]) as control:
        quotas = [dict(quota) for quota in control.quotas()]
        if options.action == "list":
            _list(options, quotas)
            return ExitCode.OK
        if options.action == "set":
            before = next((quota for quota in quotas if quota.get("subject") == options.subject), {})
            limits = {name: before.get(name) for name in LIMITS} | changes
            control.set_quota({"subject": options.subject, **limits})
        elif options.subject not in (quota.get("subject") for quota in quotas):
            say(f"there is no quota of {options.subject}: nothing to remove")
            return ExitCode.OK
        else:
            control.set_quota({"subject": options.subject})
    say(f"{'set' if options.action == 'set' else 'removed'} the quota of {options.subject}")
    return ExitCode.OK


def _changes(options: argparse.Namespace) -> dict[str, Any]:
    """The limits that are named, in the quota's own fields; None lifts one."""
    hours = options.gpu_hours
    named = {
        "gpus": options.gpus,
        "memory": options.memory,
        "gpu_seconds_per_day": hours if hours in (None, NONE) else hours * HOUR_S,
        "lifetime_s": options.lifetime,
        "priority_max": options.priority,
    }
    return {name: None if value == NONE else value for name, value in named.items() if value is not None}


def _check(options: argparse.Namespace, changes: Mapping[str, Any]) -> None:
    if options.action == "list" and (changes or options.subject):
        raise ConfigError("to change a quota write: bitfusion quota set user:NAME --gpus 2")
    if options.action != "list" and not options.subject:
        raise ConfigError(f"whose quota? bitfusion quota {options.action} user:NAME, or group:NAME")
    if options.action == "set" and not changes:
        raise ConfigError(
            "which limit? For instance --gpus 2, --memory 40GiB, --gpu-hours 24, --lifetime 8h, --priority 0"
        )
    if options.action == "remove" and changes:
        raise ConfigError("remove takes all limits away; to lift one: bitfusion quota set SUBJECT --gpus none")


def _list(options: argparse.Namespace, quotas: list[dict[str, Any]]) -> None:
    if options.json:
        show_json({"quotas": quotas})
        return
    from bitfusion.cli.rows import table_of

    headings = ("Whose", ">GPUs", ">Memory", ">GPU hours a day", ">Longest lease", ">Priority up to")
    show(table_of(headings, map(_row, quotas)))


def _row(quota: Mapping[str, Any]) -> tuple[str, ...]:
    """A limit that is not there is a dash."""
    seconds = _number(quota, "gpu_seconds_per_day")
    life, priority_max, memory_max = (_number(quota, name) for name in ("lifetime_s", "priority_max", "memory"))
    cells = (
        _plain(_number(quota, "gpus")),
        "" if memory_max is None else memory_text(int(memory_max)),
        _plain(None if seconds is None else seconds / HOUR_S),
        time_text(life),
        _plain(priority_max),
    )
    return (printable(str(quota.get("subject"))), *(cell or "-" for cell in cells))


def _number(quota: Mapping[str, Any], name: str) -> float | None:
    value = quota.get(name)
    return value if isinstance(value, int | float) else None


def _plain(value: float | None) -> str:
    return "" if value is None else f"{value:g}"


# values


def _or_none(convert: Callable[[str], Any]) -> Callable[[str], Any]:
    def read(text: str) -> Any:
        return NONE if text.lower() == NONE else convert(text)

    return read


def _subject(text: str) -> str:
    try:
        return check_subject(text)
    except ConfigError as error:
        raise argparse.ArgumentTypeError(error.message) from None


def _gpus(text: str) -> float:
    return _amount(text, "a number of GPUs")


def _hours(text: str) -> float:
    return _amount(text, "a number of hours")


def _amount(text: str, what: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1e6:  # NaN compares false
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is not {what}: write one from 0 on, or {NONE}")
    return value
