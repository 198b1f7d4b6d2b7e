"""docs/reference/wire.md says what the code does: its tables, read as they stand, against the code's own."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest

from bitfusion import limits
from bitfusion.errors import BY_CODE
from bitfusion.kernels import constants, cuda_source, named, options, program, signatures, syntax, types, wanted
from bitfusion.server import control, leases, server
from bitfusion.session.asked import Asked
from bitfusion.session.hello import TEXT_SIZE_MAX, VERSION_COUNT_MAX, ControlWelcome, Hello, Welcome
from bitfusion.session.waiting import Waiting
from bitfusion.types import DeviceInfo
from bitfusion.version import WIRE_VERSION
from bitfusion.wire.connection import COUNTS_MAX
from bitfusion.wire.frames import HEADER, HEADER_SIZE, SIZES_MAX, Kind, decode_header
from bitfusion.wire.operations import CONTROL_MIN, FIELDS, Bin, Int, Opcode
from bitfusion.wire.states import MOVES, Role, State
from bitfusion.worker import kernels
from bitfusion.worker.executor import STREAM_WORK

TEXT = (Path(__file__).parents[2] / "docs/reference/wire.md").read_text()


def section(number: str) -> str:
    """The text of one section, without those below it."""
    match = re.search(rf"^##+ {re.escape(number)}\.? .*?(?=^##)", TEXT + "\n##", re.MULTILINE | re.DOTALL)
    assert match, f"there is no section {number}"
    return match[0]


def tables(number: str) -> list[list[list[str]]]:
    """The tables of a section, each as rows of cells without its head."""
    found = re.findall(r"(?:^\|.*\n)+", section(number), re.MULTILINE)
    return [
        [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]] for table in found
    ]


def size(text: str) -> int:
    """The first number of a text, in the unit behind it."""
    match = re.search(r"(\d+) ?(KiB|Ki|MiB|)", text)
    assert match, f"there is no number in {text!r}"
    return int(match[1]) * {"KiB": limits.KIB, "Ki": limits.KIB, "MiB": limits.MIB, "": 1}[match[2]]


def names(text: str) -> list[str]:
    """``address, data (at most 16 KiB)`` as ["address", "data"]."""
    plain = re.sub(r"\([^)]*\)", "", text)
    return [] if plain.strip() == "-" else [name.strip() for name in plain.split(",")]


def test_the_header():
    (rows,) = tables("2")
    ends = [int(offset) + int(width) for offset, width, *_ in rows]
    assert [int(offset) for offset, *_ in rows] == [0, *ends[:-1]] and ends[-1] == HEADER_SIZE
    codes = {1: "B", 2: "H", 4: "I", 8: "Q"}
    assert "<2s" + "".join(codes[int(width)] for _, width, *_ in rows[1:]) == HEADER.format
    assert TEXT.startswith(f"# The wire, version {WIRE_VERSION}")


def test_kinds():
    (rows,) = tables("2.1")
    assert {name: int(number) for name, number, *_ in rows} == {kind.name: kind.value for kind in Kind}
    for name, _, sender, metadata, payload in rows:
        kind = Kind[name]
        assert {role.name.lower() for _, role, moved in MOVES if moved is kind} == {sender}
        assert (payload != "-") == (SIZES_MAX[kind][1] > 0)
        assert metadata


def test_states():
    (rows,) = tables("4")
    moves = {}
    for state, client, server_ in rows:
        for role, cell in ((Role.CLIENT, client), (Role.SERVER, server_)):
            for item in [] if cell == "-" else cell.split(","):
                kind, _, target = item.partition("->")
                moves[State[state], role, Kind[kind.strip()]] = State[target.strip() or state]
    assert moves == MOVES


@pytest.mark.parametrize(
    ("number", "first", "end"), [("5", 0, 0x80), ("6", 0x80, CONTROL_MIN), ("6.2", CONTROL_MIN, 256)]
)
def test_operations(number, first, end):
    rows = tables(number)[0]
    documented = {int(opcode, 16): (name, names(fields_)) for opcode, name, fields_, *_ in rows}
    assert documented == {op.value: (op.name, list(FIELDS[op])) for op in Opcode if first <= op < end}


def bounds(text: str) -> tuple[int, int] | None:
    """(lowest, highest) of "at most 16 KiB", "1 to 256 bytes", "0 or 1", "32 bytes"; None for words of another kind."""
    if match := re.fullmatch(r"at most (.+)", text):
        return 0, size(match[1])
    if match := re.fullmatch(r"(\d+) (?:to|or) (\d+)( bytes)?", text):
        return int(match[1]), int(match[2])
    if match := re.fullmatch(r"(\d+) bytes", text):
        return int(match[1]), int(match[1])
    return None


def test_bounds_of_fields():
    checked = 0
    for opcode, _, cell, *_ in tables("5")[0] + tables("6")[0]:
        for name, words in re.findall(r"(\w+) \(([^)]*)\)", cell):
            kind = FIELDS[Opcode(int(opcode, 16))].get(name)
            if (limit := bounds(words)) is not None and isinstance(kind, Int | Bin):
                assert (kind.low, kind.high) == limit, f"{opcode} {name}"
                checked += 1
    assert checked >= 6


def test_batches_payloads_and_what_a_failure_skips():
    assert f"A batch has at most {limits.BATCH_COUNT_MAX}." in section("5")
    assert size(re.search(r"the payload \(at most ([^)]*)\)", section("5"))[1]) == limits.CHUNK_SIZE
    assert size(re.search(r"payloads of at most (\S+ \S+),", section("6"))[1]) == limits.CHUNK_SIZE
    skipped = re.search(r"work on streams \(([^)]*)\) is skipped", section("5.2").replace("\n", " "))
    assert set(names(skipped[1])) == {Opcode(opcode).name for opcode in STREAM_WORK}


def test_hello_and_welcome():
    (hello,), (welcome,) = tables("4.1"), tables("4.2")
    assert {name for row in hello for name in names(row[0])} == {item.name for item in fields(Hello)}
    assert {name for row in welcome for name in names(row[0])} == {item.name for item in fields(Welcome)} - {"extra"}
    assert any(f"at most {TEXT_SIZE_MAX} characters" in row[1] for row in hello)
    assert any(f"at most {limits.LEASE_TEXT_SIZE_MAX} characters" in row[1] for row in hello)
    filters = f"at most {limits.FILTER_COUNT_MAX} strings, each of at most {limits.FILTER_SIZE_MAX} characters"
    assert any(row[0] == "filters" and filters in row[1] for row in hello)
    assert any(f"1 to {VERSION_COUNT_MAX} integers" in row[1] for row in hello)
    (device,) = (row[2] for row in welcome if row[0] == "device")
    assert all(item.name in device for item in fields(DeviceInfo))


def test_waiting_and_the_welcome_of_a_control_connection():
    (waiting,), (welcome,) = tables("4.4"), tables("4.5")
    assert {row[0] for row in waiting} == {item.name for item in fields(Waiting)}
    assert f"at most {limits.WAITING_REASON_COUNT_MAX} `[name, reason]`" in waiting[-1][1]
    assert f"at most {limits.WAITING_TEXT_SIZE_MAX} characters" in waiting[-1][2]
    assert {name for row in welcome for name in names(row[0])} == {item.name for item in fields(ControlWelcome)}
    asked = re.search(r"`asked` of LEASE_REQUEST is a map with (.*) as in a hello", section("6.2"))
    assert set(re.findall(r"\w+", asked[1])) - {"and"} == {item.name for item in fields(Asked)}


LIMITS = {
    "metadata of a hello, welcome or WAITING": limits.HELLO_SIZE_MAX,
    "metadata of an OUTPUT": limits.OUTPUT_PIECE_SIZE,
    "metadata of any other frame": limits.METADATA_SIZE_MAX,
    "payload of a frame": limits.PAYLOAD_SIZE_MAX,
    "payload of WRITE_PAYLOAD": limits.CHUNK_SIZE,
    "a hello must be complete within": int(limits.HELLO_TIMEOUT_S),
    "connections that have not said hello": server.GREETING_COUNT_MAX,
    "requests in the queue": leases.WAITER_COUNT_MAX,
    "control connections": server.CONTROL_COUNT_MAX,
    "requests of one control connection that wait": control.REQUEST_COUNT_MAX,
    "streams, events, modules, functions": limits.HANDLE_COUNT_MAX,
    "live allocations": limits.ALLOCATION_COUNT_MAX,
}
KERNEL_LIMITS = {
    "source": limits.SOURCE_SIZE_MAX,
    "functions": program.FUNCTION_COUNT_MAX,
    "names from outside, per function": program.BINDING_COUNT_MAX,
    "signatures, per function": program.SIGNATURE_COUNT_MAX,
    "name of a function": program.NAME_SIZE_MAX,
    "name from outside": program.KEY_SIZE_MAX,
    "file": program.FILE_SIZE_MAX,
    "linked code, per kernel": program.LINK_COUNT_MAX,
    "CUDA C++, each": cuda_source.SIZE_MAX,
    "text of a function": program.TEXT_SIZE_MAX,
    "line": program.LINE_MAX,
}
TYPE_LIMITS = {
    "fields of a named tuple, members of an enum": named.FIELD_COUNT_MAX,
    "name of a field, a member or a class": types.NAME_SIZE_MAX,
    "dimensions of an array": types.DIMENSION_COUNT_MAX,
    "string of fixed length": types.CHARS_COUNT_MAX,
}


@pytest.mark.parametrize(("number", "expected"), [("7", LIMITS), ("9.1", KERNEL_LIMITS), ("9.2", TYPE_LIMITS)])
def test_limits(number, expected):
    rows = tables(number)[-1]
    assert {name: size(value) for name, value, _ in rows} == expected


def test_limits_in_words():
    text = " ".join(TEXT.split())
    assert f"{COUNTS_MAX[Kind.HELLO]} items in an array or map" in text
    assert f"keeps the last {limits.OUTPUT_SIZE_MAX // limits.MIB} MiB" in text
    assert limits.OUTPUT_METADATA_SIZE_MAX - limits.OUTPUT_PIECE_SIZE == 64
    assert f"{syntax.NODE_COUNT_MAX} nodes, {syntax.DEPTH_MAX} levels" in text
    assert f"{kernels.SOURCE_COUNT_MAX} sources and {kernels.SOURCES_SIZE_MAX // limits.MIB} MiB" in text
    assert f"strings (at most {constants.TEXT_SIZE_MAX} characters)" in text
    assert f"at most {constants.TUPLE_COUNT_MAX} items and {constants.DEPTH_MAX} levels" in text
    assert f"NumPy array, at most {constants.ARRAY_SIZE_MAX // limits.KIB} KiB" in text
    assert f"at most {signatures.COUNT_MAX} types and {signatures.DEPTH_MAX} levels" in text
    assert f"`max_registers` (0 to {options.REGISTERS_MAX}" in text
    assert f'["kernel", {program.FORMAT}, [function, ...], [link, ...]]' in text


def test_scalars_and_options():
    scalars = re.search(r"name of a scalar \(`([^`]*)`\)", section("9.2"))
    assert set(scalars[1].split()) == set(types.SCALARS) - set(types.DATES)
    units = re.search(r"with a unit of (`[^)]*`)\)", section("9.2"))
    assert re.findall(r"`(\w+)`", units[1]) == list(types.DATE_UNITS)
    assert set(re.findall(r"`([a-z_]+)`", section("9.3"))) - {"debug"} == {
        item.name for item in fields(options.Options)
    } - {"debug"}
    assert [item.name for item in fields(wanted.Wanted)] == ["output", "device", "abi", "abi_name", "capability"]
    assert set(wanted.OUTPUTS) <= set(re.findall(r"`([a-z_]+)`", section("9.4")))
    assert f"at most {wanted.TEXT_SIZE_MAX // limits.MIB} MiB" in section("9.4")


def test_the_example_of_section_8():
    lines = re.search(r"```\n(.*?)```", section("8"), re.DOTALL)[1].split("\n")
    header = decode_header(memoryview(bytes.fromhex(lines[0])))
    assert (header.kind, header.opcode, header.stream, header.request) == (Kind.CALL, Opcode.READ, 2, 9)
    assert header.metadata_size == len(bytes.fromhex(lines[1]))


def test_classes_of_failures_that_the_text_names():
    named = set(re.findall(r"\b([A-Z]\w+Error)\b", TEXT))
    assert named and named <= {cls.__name__ for cls in BY_CODE.values()}
