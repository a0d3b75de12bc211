"""`serve`: the gateway."""

from __future__ import annotations

from pathlib import Path

import click

from headrace import config
from headrace.cli import options

__all__ = ["serve"]


@click.command(short_help="Run the gateway.")
@options.config_file
@click.option("--host", metavar="ADDRESS", help="Where to listen; default: the settings', or 127.0.0.1.")
@click.option("--port", type=click.IntRange(0, 65_535), help="The port; 0 takes a free one; default: 4000.")
@click.option("--workers", type=click.IntRange(1, 256), help="Processes; default: 1.")
@options.as_json
@click.pass_context
def serve(
    context: click.Context,
    path: Path | None,
    host: str | None,
    port: int | None,
    workers: int | None,
    as_json: bool,
) -> None:
    """Run the gateway until it is stopped.

    Other machines can reach it only with an admin key: --host 0.0.0.0 without one is refused.

    With --json, what is printed at the start is one line of JSON.

    Exit codes: 0 stopped, 1 requests had to be cut, 2 the settings are wrong or the address is taken.
    """
    from headrace.gateway.serve import run  # brings the server, which no other verb needs

    settings = config.with_gateway(config.load(path), host=host, port=port, workers=workers)
    context.exit(run(settings, as_json=as_json))
