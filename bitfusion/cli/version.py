"""``bitfusion version``: the release on this side, and on the appliances where they answer."""

from __future__ import annotations

import argparse
import os
import platform

from bitfusion.cli.console import show_json
from bitfusion.cli.exit_codes import ExitCode
from bitfusion.cli.options import add_json_option, add_server_options, servers
from bitfusion.version import WIRE_VERSION, WIRE_VERSIONS, __version__


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The options of ``version``."""
    parser = commands.add_parser(
        "version",
        help="say which release this is, and an appliance's",
        description="Say which release this is; with a server named, also which one that has.",
    )
    add_server_options(parser, default="none")
    add_json_option(parser)
    parser.set_defaults(main=main)


def main(options: argparse.Namespace) -> int:
    """Print it. Raises the ConnectError branch for an appliance that is named and does not answer."""
    about: dict[str, object] = {
        "version": __version__,
        "wire_versions": list(WIRE_VERSIONS),
        "python": platform.python_version(),
    }
    if options.server or options.server_list or os.environ.get("BITFUSION_SERVER"):
        about["servers"] = [_server(server) for server in servers(options)]
    if options.json:
        show_json(about)
        return ExitCode.OK
    print(f"bitfusion {__version__}, wire version {WIRE_VERSION}, Python {platform.python_version()}")
    for server in about.get("servers", []):  # type: ignore[attr-defined]  # a list
        print(
            f"{server['server']}: bitfusion {server['version']}, wire version {server['wire_version']} ({server['hostname']})"
        )
    return ExitCode.OK


def _server(server: str) -> dict[str, object]:
    from bitfusion.client.control import open_control

    with open_control(server) as control:
        welcome = control.welcome
        return {
            "server": server,
            "hostname": welcome.hostname,
            "version": welcome.software,
            "wire_version": welcome.version,
        }
