"""What kernels print, in the program: on its standard output at once, or where ``on_output`` takes it, whatever becomes of either."""

from __future__ import annotations

import asyncio
import io
import struct
import sys

import pytest

import bitfusion
from bitfusion.client.client import Client
from bitfusion.client.output import Screen
from bitfusion.daemon.inprocess import open_local
from bitfusion.errors import ConfigError
from bitfusion.session.output import STDERR, STDOUT, Output
from tests.client.faces import done
from tests.gpu.images import TALK


async def talker(client):
    """Launches TALK with a number."""
    function = await done((await done(client.load_module(TALK))).function("talk"))

    async def talk(number):
        await done(function.launch(1, 1, struct.pack("<I", number)))

    return talk


async def test_the_order_with_what_the_program_prints(client, capsys):
    talk = await talker(client)
    for number in range(3):
        await talk(number)
        await done(client.synchronize())
        print("between")
    assert capsys.readouterr().out == "said 0\nbetween\nsaid 1\nbetween\nsaid 2\nbetween\n"


async def test_on_output(connect, virtual_appliance, capsys):
    said = []
    client = await done(connect(virtual_appliance.address, memory="2MiB", on_output=said.append))
    talk = await talker(client)
    await talk(1)
    await done(client.synchronize())
    assert "".join(said) == "said 1\n"
    await talk(2)
    await done(client.close())
    assert "".join(said) == "said 1\nsaid 2\n"
    assert capsys.readouterr().out == ""


async def test_on_output_takes_text(connect):
    with pytest.raises(ConfigError, match="on_output"):
        await done(connect("127.0.0.1:1", on_output="out.txt"))


def test_what_on_output_raises_comes_out_of_the_call_and_the_session_goes_on(virtual_appliance):
    said = []

    def refuse(text):
        said.append(text)
        raise OSError("the disk is full")

    with bitfusion.connect(virtual_appliance.address, memory="2MiB", on_output=refuse) as client:
        function = client.load_module(TALK).function("talk")
        function.launch(1, 1, struct.pack("<I", 5))
        with pytest.raises(OSError, match="disk"):
            client.synchronize()
        client.synchronize()
        assert client.echo(b"still there") == b"still there"
    assert said == ["said 5\n"]


async def test_an_idle_loop_shows_what_came(virtual_appliance, capsys):
    said = asyncio.Event()
    async with bitfusion.aio.connect(
        virtual_appliance.address, memory="2MiB", on_output=lambda text: said.set()
    ) as client:
        talk = await talker(client)
        await talk(1)
        waiting = asyncio.create_task(client.synchronize())
        await asyncio.wait_for(said.wait(), 30)  # not in the call that asked
        await waiting


def test_in_process(capsys):
    with Client(open_local("virtual:1x64MiB")) as client:
        function = client.load_module(TALK).function("talk")
        function.launch(1, 1, struct.pack("<I", 5))
        assert capsys.readouterr().out == ""
        client.synchronize()
        assert capsys.readouterr().out == "said 5\n"
        function.launch(1, 1, struct.pack("<I", 6))
    assert capsys.readouterr().out == "said 6\n"


class Shut(io.StringIO):
    def __init__(self):
        super().__init__()
        self.close()


class Broken(io.StringIO):
    def write(self, text):
        raise BrokenPipeError


@pytest.mark.parametrize("stdout", [None, Shut(), Broken(), io.BytesIO(), object()])
def test_standard_output_that_cannot_be_written_to(monkeypatch, stdout):
    monkeypatch.setattr(sys, "stdout", stdout)
    output = Output()
    screen = Screen(output)
    output.add(STDOUT, b"text")
    screen.show()
    screen.end()
    assert not output


def test_letters_that_standard_output_cannot_encode(monkeypatch):
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, "ascii", write_through=True))
    output = Output()
    output.add(STDOUT, "a\N{SNOWMAN}b".encode())
    Screen(output).show()
    assert raw.getvalue() == b"a?b"


def test_letters_cut_apart(capsys):
    output = Output()
    screen = Screen(output)
    for byte in "\N{SNOWMAN}".encode():
        output.add(STDOUT, bytes([byte]))
        output.add(STDERR, b".")
        screen.show()
    output.add(STDOUT, b"\xe2\x98")
    screen.end()
    assert capsys.readouterr() == ("\N{SNOWMAN}\N{REPLACEMENT CHARACTER}", "...")
