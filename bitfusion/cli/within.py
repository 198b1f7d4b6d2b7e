"""A program with the import hook and with what it is told of its lease, in its environment (docs/guide/run.md)."""

from __future__ import annotations

import os
from pathlib import Path

from bitfusion.cli import program
from bitfusion.errors import ConfigError

HOOK = str(Path(__file__).resolve().parents[1] / "hook")
"""The directory of the import hook."""


def run_program(command: list[str], told: dict[str, str], watched: program.Watched | None = None) -> int:
    """Run it with the import hook and with what it is told, where '' stands for nothing; its exit code."""
    told = {**told, **_hook()}
    others = {name: value for name, value in os.environ.items() if name not in told}
    return program.run(command, {**others, **{name: value for name, value in told.items() if value}}, watched)


def command_of(words: list[str], example: str) -> list[str]:
    """The program and its arguments. ConfigError without one."""
    command = words[1:] if words[:1] == ["--"] else words
    if not command:
        verb = example.partition(" ")[0]
        raise ConfigError(f"{verb} needs a program: bitfusion {example} -- python script.py")
    return command


def name_of(command: list[str]) -> str:
    """What others see of it: ``python train.py``. Not its arguments, which may hold secrets."""
    script = command[1:2] if os.path.isfile("".join(command[1:2])) else []
    return " ".join(map(os.path.basename, [*command[:1], *script]))


def _hook() -> dict[str, str]:
    """The import hook, before whatever is on PYTHONPATH, where an empty part stands for the current directory."""
    given = os.environ.get("PYTHONPATH")
    paths = [path for path in given.split(os.pathsep) if path != HOOK] if given else []
    return {"PYTHONPATH": os.pathsep.join([HOOK, *paths]), "BITFUSION_HOOK": HOOK}
