"""The floor: what plain blocking sockets do with the same bytes between two processes of this machine.

``python -m bitfusion.cli.bench.floors`` is the other process: it writes its port to standard output and ends with its
standard input. One kind of exchange is enough: it receives a number of bytes and sends a number back, with reused
buffers. As many each way is an echo, many against one is a copy to the other side with its acknowledgement, one against
many a request and its answer.
"""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import sys
import threading
from pathlib import Path

SIZES = struct.Struct("<QQ")


class Floor:
    """The other process, as long as the block lasts."""

    def __enter__(self) -> Floor:
        root = str(Path(__file__).resolve().parents[3])
        paths = [root, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "bitfusion.cli.bench.floors"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        )
        assert self._process.stdout is not None
        self._port = int(self._process.stdout.readline())
        return self

    @property
    def pid(self) -> int:
        """The other process."""
        return self._process.pid

    def __exit__(self, *exc_info: object) -> None:
        self._process.communicate()

    def exchange(self, sent: int, rcvd: int) -> Exchange:
        """A connection on which ``sent`` bytes are answered by ``rcvd`` bytes."""
        return Exchange(socket.create_connection(("127.0.0.1", self._port)), sent, rcvd)


class Exchange:
    """This side of a connection to the floor, with reused buffers."""

    def __init__(self, sock: socket.socket, sent: int, rcvd: int) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.sendall(SIZES.pack(sent, rcvd))
        self._sock = sock
        self._source = _buffer(sent)
        self._target = _buffer(rcvd)
        self()  # now the other side is there, its buffers too

    def __enter__(self) -> Exchange:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._sock.close()

    def __call__(self) -> None:
        """One exchange."""
        self._sock.sendall(self._source)
        self.receive()

    def send(self, data: bytes | bytearray) -> None:
        """A part of the bytes of an exchange."""
        self._sock.sendall(data)

    def receive(self) -> None:
        """The answer of an exchange."""
        _receive(self._sock, self._target)


def _buffer(size: int) -> memoryview:
    """Memory that has been written: untouched pages would all be the one page of zeros, which the cache holds."""
    return memoryview(bytearray(b"\1") * size)


def _receive(sock: socket.socket, target: memoryview) -> bool:
    """Fill ``target``; false if the connection ended instead."""
    filled = 0
    while filled < target.nbytes:
        count = sock.recv_into(target[filled:])
        if not count:
            return False
        filled += count
    return True


def _serve(sock: socket.socket) -> None:
    with sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sizes = memoryview(bytearray(SIZES.size))
        if not _receive(sock, sizes):
            return
        rcvd, sent = SIZES.unpack(sizes)
        target, source = _buffer(rcvd), _buffer(sent)
        while _receive(sock, target):
            sock.sendall(source)


def _accept(listener: socket.socket) -> None:
    while True:
        sock, _ = listener.accept()
        threading.Thread(target=_serve, args=(sock,), daemon=True).start()


def main() -> None:
    """The other process."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=_accept, args=(listener,), daemon=True).start()
        print(listener.getsockname()[1], flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
