"""The options that several verbs share."""

from __future__ import annotations

from pathlib import Path

import click

__all__ = ["as_json", "config_file"]

config_file = click.option(
    "--config",
    "path",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The settings; default: HEADRACE_CONFIG, or headrace.toml from here upward.",
)
as_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of text.")
