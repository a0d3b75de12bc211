"""`serve`: the gateway."""

from __future__ import annotations

from pathlib import Path

import click

from headrace import config
from headrace.cli import options

__all__ = ["serve"]


@click.command()
@options.config_file
@click.option("--host", metavar="ADDRESS", help="Where to listen; default: the settings', or 127.0.0.1.")
@click.option("--port", type=click.IntRange(0, 65_535), help="The port; 0 takes a free one; default: 4000.")
@click.option("--workers", type=click.IntRange(1, 256), help="Processes; default: 1.")
@options.as_json
def serve(path: Path | None, host: str | None, port: int | None, workers: int | None, as_json: bool) -> None:
    """Run the gateway until it is stopped.

    Other machines can reach it only with an admin key: --host 0.0.0.0 without one is refused.

    Exit codes: 0 stopped, 1 it could not listen, 2 the settings are wrong.
    """
    from headrace.gateway.serve import run  # brings the server, which no other verb needs

    run(config.load(path).with_gateway(host=host, port=port, workers=workers))
