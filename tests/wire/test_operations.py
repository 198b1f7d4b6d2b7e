"""The operation table: every field checked for type and bounds before anything believes it."""

from __future__ import annotations

import pytest

from bitfusion.errors import RemoteProtocolError
from bitfusion.wire.operations import FIELDS, Bin, Int, Opcode, Text, Tree, check


def lowest(kind):
    match kind:
        case Int(_, low):
            return low
        case Bin(_, low):
            return bytes(low)
        case Text():
            return ""
        case Tree():
            return None


@pytest.mark.parametrize("opcode", list(Opcode))
def test_the_lowest_values_pass_and_each_breach_is_named(opcode):
    fields = FIELDS[opcode]
    good = tuple(lowest(kind) for kind in fields.values())
    check(opcode, good)
    with pytest.raises(RemoteProtocolError, match=f"takes {len(good)} fields"):
        check(opcode, (*good, 0))
    for index, (name, kind) in enumerate(fields.items()):
        if isinstance(kind, Tree):
            continue
        over = {Int: lambda k: k.high + 1, Bin: lambda k: bytes(k.high + 1), Text: lambda k: "x" * (k.high + 1)}
        for bad in (None, 1.5, True, over[type(kind)](kind)):
            with pytest.raises(RemoteProtocolError, match=name):
                check(opcode, (*good[:index], bad, *good[index + 1 :]))


def test_unknown_operations_are_refused():
    with pytest.raises(RemoteProtocolError, match="0x7f is not known"):
        check(0x7F, ())


def test_called_operations_have_the_high_bit():
    assert {opcode for opcode in Opcode if opcode.called} == {opcode for opcode in Opcode if opcode & 0x80}
