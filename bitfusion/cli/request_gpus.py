"""``bitfusion request_gpus``: lease GPUs for commands to come, and keep the lease in a file for ``client`` and ``release_gpus``."""

from __future__ import annotations

import argparse
from pathlib import Path

from bitfusion.cli import lease_file
from bitfusion.cli.console import show_json
from bitfusion.cli.exit_codes import ExitCode
from bitfusion.cli.lease_file import Gpu, SavedLease
from bitfusion.cli.leasing import lease_from, wanted
from bitfusion.cli.options import add_json_option, add_request_options, add_server_options, add_voice_options, servers
from bitfusion.cli.voice import Voice
from bitfusion.cli.words import mib_text
from bitfusion.client.settings import from_environment


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The options of ``request_gpus``."""
    parser = commands.add_parser(
        "request_gpus",
        help="lease GPUs and keep the lease in a file",
        description="Lease GPUs for commands to come (bitfusion client -- PROGRAM) until `bitfusion release_gpus`.",
    )
    add_request_options(parser)
    add_server_options(parser)
    parser.add_argument(
        "-f",
        "--file",
        type=Path,
        metavar="FILE",
        help="keep the lease here (default: a new bitfusionXXXX in the temporary directory)",
    )
    add_json_option(parser)
    add_voice_options(parser)
    parser.set_defaults(main=main)


def main(options: argparse.Namespace) -> int:
    """Print the lease's file, id and GPUs. Raises the ConnectError branch, LeaseFileError before anything is leased."""
    settings = from_environment()
    size = options.memory or options.partial
    asked = wanted(
        options,
        options.num_gpus or settings.gpus,
        options.memory if size else settings.memory,
        options.partial if size else settings.fraction,
    )
    path = lease_file.create(options.file)
    try:
        saved = _lease(options, asked, path)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    _show(options, path, saved)
    return ExitCode.OK


def _lease(options: argparse.Namespace, asked: dict[str, object], path: Path) -> SavedLease:
    """A lease that is in its file; one that cannot be written there is given back."""
    server, control, lease = lease_from(servers(options), asked, Voice(options.quiet, options.verbose), held=False)
    with control:
        gpus = tuple(Gpu(gpu.index, gpu.name, gpu.leased_size) for gpu in lease.gpus)
        saved = SavedLease(server, lease.id, lease.key, gpus)
        try:
            lease_file.write(path, saved)
        except BaseException:
            control.release(lease.id, lease.key)
            raise
    return saved


def _show(options: argparse.Namespace, path: Path, saved: SavedLease) -> None:
    """On standard output; not the key, which would be in every log."""
    gpus = [{"index": gpu.index, "name": gpu.name, "memory_size": gpu.memory} for gpu in saved.gpus]
    if options.json:
        show_json({"file": str(path), "id": saved.id, "server": saved.server, "gpus": gpus})
        return
    print(f"lease {saved.id} on {saved.server}")
    for gpu in saved.gpus:
        print(f"GPU {gpu.index}: {mib_text(gpu.memory)} of {gpu.name}")
    print(f"kept in {path}")
