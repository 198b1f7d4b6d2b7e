"""``bitfusion serve``: binds, warms the zygote, says it is ready, serves until told to stop, and leaves nothing behind.

Owns the order of start and stop, the signals and the ready line. Exit codes: docs/guide/exit-codes.md.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import json
import logging
import os
import resource
import signal
import socket
import stat
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import uvloop

from bitfusion.daemon.state_lock import locked, server_id
from bitfusion.device.discovery import discover, find_server, machine_memory
from bitfusion.errors import BindError, BitfusionError, ConfigError, encode
from bitfusion.pool.placement import Strategy
from bitfusion.pool.pool import Pool
from bitfusion.pool.store import FILE, Store
from bitfusion.server.leases import Leases, Terms
from bitfusion.server.ledgers import Ledgers
from bitfusion.server.listing import Identity
from bitfusion.server.server import Server
from bitfusion.server.workers import Workers
from bitfusion.transport.address import PORT_DEFAULT, Target, resolve
from bitfusion.types import DeviceSpec, KernelRules, format_size

log = logging.getLogger(__name__)

BACKLOG = 512
"""Connections the kernel holds for us: a burst of clients that start together."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What an appliance is told when it starts.

    Descriptors: ``ready_fd`` gets the ready line, or the error that came instead; the end of ``lifeline_fd`` stops the appliance.
    """

    host: str = "127.0.0.1"
    port: int = PORT_DEFAULT
    devices: str = "auto"
    state_dir: Path | None = None
    ready_file: Path | None = None
    ready_fd: int | None = None
    lifeline_fd: int | None = None
    insecure: bool = False
    kernel_timeout: float | None = None
    check: str = "all"
    oversubscribe: float = 1.0
    strategy: str = Strategy.PACK
    lifetime: float | None = None
    idle_warning: float | None = None
    idle_timeout: float | None = None
    log_level: str = "WARNING"

    @property
    def private(self) -> bool:
        """Whether it is one program's own, which shares a state directory's cache with others and keeps nothing else there."""
        return self.lifeline_fd is not None


def state_dir_default() -> Path:
    """``$XDG_STATE_HOME/bitfusion``, by default ``~/.local/state/bitfusion`` (XDG Base Directory Specification)."""
    base = os.environ.get("XDG_STATE_HOME") or os.path.join(os.path.expanduser("~"), ".local", "state")
    return Path(base) / "bitfusion"


def run(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT. ConfigError for settings that cannot work, BindError; who waits for the ready line is told too."""
    with contextlib.nullcontext() if settings.ready_fd is None else open(settings.ready_fd, "w") as ready:
        try:
            _run(settings, ready)
        except BitfusionError as error:
            if ready is not None and not ready.closed:
                ready.write(json.dumps({"error": encode(error)}) + "\n")
            raise


def _run(settings: Settings, ready: TextIO | None) -> None:
    _check_exposure(settings)
    _check_idle(settings)
    devices = discover(settings.devices)
    _warn_of_memory(devices)
    cache_dir = _prepare_cache(settings.state_dir)
    ours = contextlib.nullcontext() if cache_dir is None or settings.private else locked(cache_dir.parent)
    _raise_limit()
    with ours, _listen(settings) as listener:
        _prepare_ready_file(settings.ready_file)  # not before: it may be that of the appliance which has the port
        state_dir = None if cache_dir is None or settings.private else cache_dir.parent
        with Store(state_dir and state_dir / FILE) as store:
            if store.recovered is not None:
                print(f"bitfusion: {store.recovered}", file=sys.stderr)
            uvloop.run(Daemon(settings, devices, listener, cache_dir, store, ready).run())


class Daemon:
    """One appliance in its running state."""

    def __init__(
        self,
        settings: Settings,
        devices: list[DeviceSpec],
        listener: socket.socket,
        cache_dir: Path | None,
        store: Store,
        ready: TextIO | None,
    ) -> None:
        self._settings = settings
        self._ready = ready
        self._devices = devices
        self._listener = listener
        self._workers = Workers(sorted({device.kind for device in devices}), cache_dir, settings.log_level)
        rules = KernelRules(settings.kernel_timeout, settings.check)
        hostname, address = socket.gethostname(), str(Target(*listener.getsockname()[:2]))
        identity = Identity(server_id(store.path and store.path.parent), hostname, address)
        terms = Terms(settings.lifetime, settings.idle_warning, settings.idle_timeout)
        pool = Pool(
            devices,
            Strategy(settings.strategy),
            oversubscribe=settings.oversubscribe,
            server=find_server(hostname, listener.getsockname()[0], devices),
        )
        self._leases = Leases(pool, Ledgers(devices, settings.oversubscribe), terms, store)
        self._server = Server(self._leases, identity, self._workers, cache_dir, rules)
        self._stop = asyncio.Event()

    async def run(self) -> None:
        """From the zygote's start to the last worker's end."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        if self._settings.lifeline_fd is not None:
            loop.add_reader(self._settings.lifeline_fd, self._stop.set)
        stopping = loop.create_task(self._stop.wait())
        starting = loop.create_task(self._workers.start())
        try:
            await asyncio.wait([starting, stopping], return_when=asyncio.FIRST_COMPLETED)
            if starting.done():
                starting.result()
                await self._serve_until(stopping)
        finally:
            starting.cancel()
            await self._workers.stop()
            if self._settings.ready_file is not None:
                self._settings.ready_file.unlink(missing_ok=True)

    async def _serve_until(self, stopping: asyncio.Task[bool]) -> None:
        self._leases.restore()
        serving = asyncio.get_running_loop().create_task(self._server.serve(self._listener))
        self._say_ready()
        await asyncio.wait([serving, stopping], return_when=asyncio.FIRST_COMPLETED)
        self._listener.close()
        serving.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await serving

    def _say_ready(self) -> None:
        """The readiness line, the ready file and the ready descriptor: only now are connections welcome."""
        host, port = self._listener.getsockname()[:2]
        ready = json.dumps({"address": str(Target(host, port)), "pid": os.getpid(), "gpus": len(self._devices)})
        if self._settings.ready_file is not None:
            _write_whole(self._settings.ready_file, ready + "\n")
        if self._ready is not None:
            with self._ready:
                self._ready.write(ready + "\n")
        names = ", ".join(f"{device.name} ({format_size(device.memory_size)})" for device in self._devices)
        count = "1 GPU" if len(self._devices) == 1 else f"{len(self._devices)} GPUs"
        print(f"bitfusion: ready at {Target(host, port)} with {count}: {names}", file=sys.stderr, flush=True)


def _raise_limit() -> None:
    """As many descriptors as we may have: each client has one here, each worker two."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _warn_of_memory(devices: list[DeviceSpec]) -> None:
    """Virtual GPUs live in this machine's memory, page by page as programs touch it."""
    offered, there = sum(device.memory_size for device in devices if device.kind == "virtual"), machine_memory()
    if offered > there:
        print(
            f"bitfusion: the virtual GPUs have {format_size(offered)} together, this machine has {format_size(there)}: "
            "programs that fill what they lease will exhaust it",
            file=sys.stderr,
        )


def _check_idle(settings: Settings) -> None:
    warning, timeout = settings.idle_warning, settings.idle_timeout
    if warning is not None and timeout is not None and warning >= timeout:
        raise ConfigError(
            f"--idle-warning {warning:g} s is not before --idle-timeout {timeout:g} s: nobody would be warned; give a shorter one"
        )


def _check_exposure(settings: Settings) -> None:
    """Only loopback is served without credentials (docs/design/security.md)."""
    addresses = [address for _, (address, *_) in resolve(Target(settings.host, settings.port or PORT_DEFAULT))]
    if not settings.insecure and not all(ipaddress.ip_address(address).is_loopback for address in addresses):
        raise ConfigError(
            f"{settings.host} is not a loopback address, and this version has no TLS and tokens yet: anybody who can reach the "
            "port could use the GPUs. Serve on 127.0.0.1 behind an SSH tunnel, or add --insecure on a network you trust"
        )


def _listen(settings: Settings) -> socket.socket:
    family, address = resolve(Target(settings.host, settings.port or PORT_DEFAULT))[0]
    try:
        listener = socket.create_server(
            (address[0], settings.port), family=socket.AddressFamily(family), backlog=BACKLOG
        )
    except OSError as error:
        raise BindError(f"cannot serve on {Target(settings.host, settings.port)}: {_bind_advice(error)}") from None
    listener.setblocking(False)
    return listener


def _bind_advice(error: OSError) -> str:
    reason = os.strerror(error.errno) if error.errno else str(error)
    match error.errno:
        case errno.EADDRINUSE:
            return f"{reason}; give another --port, or 0 for any that is free"
        case errno.EADDRNOTAVAIL:
            return f"{reason}; --host must be an address of this machine"
        case errno.EACCES:
            return f"{reason}; ports below 1024 need privileges"
        case _:
            return reason


def _prepare_cache(state_dir: Path | None) -> Path | None:
    """The kernel cache under the state directory. ConfigError if a directory that was asked for cannot be written, or any by others.

    Without the default one, as in a container with a read-only home, everything works, only slower.
    """
    cache_dir = (state_dir or state_dir_default()) / "cache"
    try:
        cache_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=cache_dir).close()
        status = cache_dir.stat()
    except OSError as error:
        if state_dir is not None:
            raise ConfigError(f"--state-dir {state_dir} cannot be written: {error.strerror or error}") from None
        print(f"bitfusion: no kernel cache: {error}", file=sys.stderr)
        return None
    if status.st_uid != os.geteuid() or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise ConfigError(
            f"others can write to {cache_dir}, from which workers load machine code: remove it, or make it yours alone"
        )
    return cache_dir


def _prepare_ready_file(ready_file: Path | None) -> None:
    """Remove what an appliance that was killed left there, so that the file's presence means us. ConfigError if it cannot be written."""
    if ready_file is None:
        return
    try:
        ready_file.unlink(missing_ok=True)
        tempfile.TemporaryFile(dir=ready_file.parent).close()
    except OSError as error:
        raise ConfigError(f"--ready-file {ready_file} cannot be written: {error.strerror or error}") from None


def _write_whole(path: Path, text: str) -> None:
    """Whoever finds the file finds all of it. ConfigError if that fails after all."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        partial.write_text(text)
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise ConfigError(f"--ready-file {path} cannot be written: {error.strerror or error}") from None
