"""The command line: `headrace VERB`."""

from __future__ import annotations

import sys

__all__ = ["main"]


def main() -> None:
    """Run the command in `sys.argv` and exit with its code (`headrace --help` lists them)."""
    try:
        import click  # noqa: F401  (an extra: the library and the gateway live without it)
    except ImportError:
        sys.stderr.write("error: the command line needs the cli extra: pip install 'headrace[cli]'\n")
        sys.exit(3)
    try:
        from headrace.cli.root import run

        code = run(sys.argv[1:])
    except KeyboardInterrupt:  # while the modules load; later ones end in `run`
        code = 130
    sys.exit(code)
