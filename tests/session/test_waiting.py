"""Requests that wait, joined in memory: places before the welcome and for a call; control connections."""

from __future__ import annotations

import pytest

from bitfusion import limits
from bitfusion.errors import RemoteProtocolError
from bitfusion.session.client import NEWS_COUNT_MAX, ClientSession
from bitfusion.session.hello import ControlWelcome, Hello, Purpose, Welcome
from bitfusion.session.server import Request, ServerSession
from bitfusion.session.waiting import Waiting, decode_waiting, encode_waiting
from bitfusion.types import DeviceInfo
from bitfusion.wire import codec
from bitfusion.wire.operations import Opcode
from tests.session.test_sessions import deliver

PLACE = Waiting(2, 3, "full", (("V0", "no room"), ("V1", "")))


def control() -> tuple[ClientSession, ServerSession]:
    client, server = ClientSession(), ServerSession(control=True)
    deliver(client.hello(Hello(purpose=Purpose.CONTROL)), server)
    assert server.hello().purpose == Purpose.CONTROL
    deliver(server.control_welcome(ControlWelcome("c", 1, "id", "host")), client)
    assert client.opened and client.control_welcome.server_id == "id"
    return client, server


def test_places_before_the_welcome():
    client, server = ClientSession(), ServerSession()
    deliver(client.hello(Hello()), server)
    server.hello()
    for place in (PLACE, Waiting(0, 0)):
        deliver(server.waiting(place), client)
    assert list(client.news) == [PLACE, Waiting(0, 0)] and not client.opened
    device = DeviceInfo("null", "nothing", "GPU-0", 1 << 30, (8, 0), {})
    deliver(server.welcome(Welcome("cafe", 1, device, 1 << 45, 1 << 32, 1 << 30)), client)
    assert client.opened
    deliver(server.waiting(PLACE), client)
    assert isinstance(client.error, RemoteProtocolError)


def test_a_request_is_done_when_there_is_news_and_when_it_is_answered():
    client, server = control()
    call = client.request_lease({"gpus": 2})
    deliver(client.data_to_send(), server)
    request = server.next_event()
    assert isinstance(request, Request) and request.fields == ({"gpus": 2},) and not call.done
    for count in range(NEWS_COUNT_MAX * 2):
        deliver(server.waiting(Waiting(1, count), request.number), client)
    assert call.done and not call.answered and call.news[-1].count == NEWS_COUNT_MAX * 2 - 1
    assert len(call.news) == NEWS_COUNT_MAX, "of what nobody looks at only the newest is kept"
    call.news.clear()
    assert not call.done
    deliver(server.reply(request.number, {"id": "x"}), client)
    assert call.done and call.result() == {"id": "x"}


def test_the_place_of_a_request_that_was_given_up_is_dropped_and_of_none_a_breach():
    client, server = control()
    call, echo = client.request_lease({}), client.call(Opcode.ECHO, 0, b"x")
    deliver(client.data_to_send(), server)
    client.abandon(call)
    deliver(server.waiting(PLACE, call.request), client)
    assert client.error is None and not call.news
    deliver(server.waiting(PLACE, echo.request), client)
    assert isinstance(client.error, RemoteProtocolError) and "asks for no lease" in client.error.message


def test_nothing_is_posted_on_a_control_connection():
    client, server = control()
    client.post(Opcode.RELEASE, 0, 256)
    assert client.data_to_send() == [], "there is no credit"
    client._credits = 1
    with pytest.raises(RemoteProtocolError, match="over the credit of 0"):
        deliver(client.data_to_send(), server)
        server.next_event()


def test_a_place_with_too_much_to_say_is_cut():
    reasons = tuple(("name" * 100, "\U0001f600" * 1000) for _ in range(100))
    data = encode_waiting(Waiting(1, 1, "x" * 1000, reasons))
    assert len(data) <= limits.HELLO_SIZE_MAX
    place = decode_waiting(codec.unpack(data))
    assert 0 < len(place.reasons) <= limits.WAITING_REASON_COUNT_MAX
    assert len(place.reason) == len(place.reasons[0][1]) == limits.WAITING_TEXT_SIZE_MAX
