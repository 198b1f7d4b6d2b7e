"""What the guide and the README show, run as it stands there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.scenarios.programs import output

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
EXAMPLES = [
    pytest.param(match[1], id=f"{name}:{text[: match.start()].count(chr(10)) + 2}")
    for name in ("README.md", "docs/guide/client.md")
    for text in [(ROOT / name).read_text()]
    for match in BLOCK.finditer(text)
    if "bitfusion.connect(" in match[1] or "bitfusion.aio" in match[1]
]


@pytest.mark.parametrize("source", EXAMPLES)
def test_an_example_runs_as_it_stands(virtual_appliance, source):
    source = source.replace("127.0.0.1:56001", virtual_appliance.address)
    code, said, complained = output(source, BITFUSION_SERVER=virtual_appliance.address)
    assert (code, complained) == (0, "")
    assert said.strip()


def test_there_are_examples():
    assert len(EXAMPLES) >= 4
