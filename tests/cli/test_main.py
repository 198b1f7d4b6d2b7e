"""Finding the verb: help for all of them, and what is said of mistyped words."""

from __future__ import annotations

import subprocess
import sys

import pytest

from bitfusion.cli.exit_codes import ExitCode
from bitfusion.cli.main import VERBS, main

TIMEOUT_S = 60


def said(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    captured = capsys.readouterr()
    return stop.value.code, captured.out + captured.err


def test_help_names_every_verb(capsys):
    code, text = said(["--help"], capsys)
    assert code == 0
    assert all(f"    {verb} " in text or f"    {verb}\n" in text for verb in VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(verb, capsys):
    code, text = said([verb, "--help"], capsys)
    assert code == 0 and f"usage: bitfusion {verb}" in text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["smii"], "did you mean smi?"),
        (["list-gpu"], "did you mean list_gpus?"),
        (["frobnicate"], "invalid choice: 'frobnicate'"),
        (["smi", "--sever", "a"], "did you mean --server?"),
        (["run", "--exclusiv3", "true"], "did you mean --exclusive?"),
        (["request_gpus", "--num-gpus", "1"], "did you mean --num_gpus?"),
        (["request_gpus", "-m", "lots"], "write a number of MiB, or one with a unit"),
        (["list_gpus", "--zzz"], "unrecognized arguments: --zzz"),
        ([], "the following arguments are required: VERB"),
    ],
)
def test_mistyped_words(arguments, words, capsys):
    code, text = said(arguments, capsys)
    assert code == ExitCode.USAGE and words in text


def test_hyphens_do_as_well(capsys):
    code, text = said(["release-gpus", "--help"], capsys)
    assert code == 0 and "usage: bitfusion release_gpus" in text


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_has_every_verb(shell, capsys):
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert all(verb in script for verb in VERBS) and "server_list" in script


COMPLETE = """
eval "$("$0" -m bitfusion completion bash)"
COMP_WORDS=("$@") COMP_CWORD=$(($# - 1)) COMP_LINE="$*" COMP_POINT=${#COMP_LINE}
"$(complete -p bitfusion | sed 's/.*-F \\([^ ]*\\).*/\\1/')" bitfusion "${@: -1}" "${@: -2:1}"
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["release"], {"release_gpus"}),
        (["run", "--in-pro"], {"--in-process"}),
        (["serve", "--check", "g"], {"global"}),
        (["completion", ""], {"bash", "zsh", "fish"}),
        (["release_gpus", "-f", "the_lea"], {"the_lease"}),
    ],
)
def test_bash_completes(words, found, tmp_path):
    (tmp_path / "the_lease").touch()
    command = ["bash", "-c", COMPLETE, sys.executable, "bitfusion", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, cwd=tmp_path)
    assert found <= set(done.stdout.split()), done.stderr
