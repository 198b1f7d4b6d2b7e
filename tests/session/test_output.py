"""What kernels print, on its way: bounded at both ends, in order, in front of the answer, and refused where it is none."""

from __future__ import annotations

import pytest

from bitfusion import limits
from bitfusion.errors import RemoteProtocolError
from bitfusion.session.output import PIECE_COST, STDERR, STDOUT, Output, Printed, lost_line
from bitfusion.wire import codec
from bitfusion.wire.frames import Kind
from bitfusion.wire.operations import Opcode
from tests.session.test_sessions import deliver, events, opened


def test_output_comes_before_the_answer_and_in_order():
    client, server = opened()
    call = client.call(Opcode.SYNCHRONIZE, 0, 1)
    deliver(client.data_to_send(), server)
    (request,) = events(server)
    long = bytes(range(256)) * 1000
    deliver(server.output([Printed(STDOUT, b"one"), Printed(STDERR, b"two"), Printed(STDOUT, long)]), client)
    assert not call.done
    deliver(server.reply(request.number), client)
    assert call.done
    pieces = client.output.take()
    assert pieces[:2] == [(STDOUT, b"one"), (STDERR, b"two")]
    assert b"".join(data for _, data in pieces[2:]) == long
    assert not client.output


def test_output_after_a_goodbye():
    client, server = opened()
    deliver(client.goodbye(), server)
    assert events(server) == [] and server.ended
    deliver(server.output([Printed(STDOUT, b"last")]), client)
    assert client.output.take() == [(STDOUT, b"last")]


@pytest.mark.parametrize(
    "metadata",
    [None, 5, (), (1,), (1, b"x", 2), (0, b"x"), (3, b"x"), (1, "x"), (True, b"x", 1), ("1", b"x"), {"1": b"x"}],
)
def test_what_is_no_output_ends_the_session(metadata):
    client, server = opened()
    deliver(server.connection.send(Kind.OUTPUT, b"" if metadata is None else codec.pack(metadata)), client)
    assert isinstance(client.error, RemoteProtocolError) and not client.output


def test_a_frame_of_output_is_small():
    client, server = opened()
    deliver(server.connection.send(Kind.OUTPUT, codec.pack((1, bytes(limits.OUTPUT_METADATA_SIZE_MAX)))), client)
    assert isinstance(client.error, RemoteProtocolError) and "bytes of metadata" in client.error.message


def test_a_server_that_never_ends_costs_no_more_than_the_bound():
    client, server = opened()
    piece = server.output([Printed(STDOUT, bytes(limits.OUTPUT_PIECE_SIZE))])
    for _ in range(3 * limits.OUTPUT_SIZE_MAX // limits.OUTPUT_PIECE_SIZE):
        deliver(piece, client)
    first, *rest = client.output.take()
    kept = sum(len(data) for _, data in rest)
    assert limits.OUTPUT_SIZE_MAX * 0.9 < kept <= limits.OUTPUT_SIZE_MAX
    assert first.data == lost_line(3 * limits.OUTPUT_SIZE_MAX - kept, limits.OUTPUT_SIZE_MAX)


def test_whole_prints_go_oldest_first_and_a_line_says_so():
    output = Output(1000)
    lines = [b"%04d\n" % number for number in range(1000)]
    for number, line in enumerate(lines):
        output.add(STDOUT if number % 2 else STDERR, line)  # nothing to join: each is a piece
    pieces = output.take()
    count = 1000 // (PIECE_COST + 5)
    assert pieces[0].data == lost_line(5 * (1000 - count), 1000)
    assert [data for _, data in pieces[1:]] == lines[-count:]
    output.add(STDOUT, b"more")
    assert output.take() == [(STDOUT, b"more")]


def test_one_print_larger_than_the_bound_stays_whole():
    output = Output(1000)
    output.add(STDERR, b"first")
    output.add(STDOUT, bytes(5000))
    assert output.take()[1:] == [(STDOUT, bytes(5000))]


def test_small_prints_share_a_piece():
    output = Output()
    for _ in range(100):
        output.add(STDOUT, b"ab")
    output.add(STDOUT, b"")
    assert output.take() == [(STDOUT, b"ab" * 100)]
