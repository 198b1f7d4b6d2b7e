"""The operation table: every field checked for type and bounds before anything believes it."""

from __future__ import annotations

import pytest

from bitfusion.errors import RemoteProtocolError
from bitfusion.wire.operations import CONTROL_RULES, FIELDS, SESSION_RULES, Bin, Int, Opcode, Text, Tree, check


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
    table = SESSION_RULES if opcode in SESSION_RULES else CONTROL_RULES
    check(opcode, good, table)
    with pytest.raises(RemoteProtocolError, match=f"takes {len(good)} fields"):
        check(opcode, (*good, 0), table)
    for index, (name, kind) in enumerate(fields.items()):
        if isinstance(kind, Tree):
            continue
        over = {Int: lambda k: k.high + 1, Bin: lambda k: bytes(k.high + 1), Text: lambda k: "x" * (k.high + 1)}
        for bad in (None, 1.5, True, over[type(kind)](kind)):
            with pytest.raises(RemoteProtocolError, match=name):
                check(opcode, (*good[:index], bad, *good[index + 1 :]), table)


def test_unknown_operations_are_refused():
    with pytest.raises(RemoteProtocolError, match="0x7f is not known"):
        check(0x7F, ())


def test_operations_of_the_other_kind_of_connection_are_refused():
    with pytest.raises(
        RemoteProtocolError, match="POOL_LIST belongs on a control connection, not on a session connection"
    ):
        check(Opcode.POOL_LIST, ())
    with pytest.raises(
        RemoteProtocolError, match="MEMORY_INFO belongs on a session connection, not on a control connection"
    ):
        check(Opcode.MEMORY_INFO, (), CONTROL_RULES)
    check(Opcode.ECHO, (b"x",), SESSION_RULES)
    check(Opcode.ECHO, (b"x",), CONTROL_RULES)
    assert set(SESSION_RULES) | set(CONTROL_RULES) == set(Opcode)


def test_called_operations_have_the_high_bit():
    assert {opcode for opcode in Opcode if opcode.called} == {opcode for opcode in Opcode if opcode & 0x80}
