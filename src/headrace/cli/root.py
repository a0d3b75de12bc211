"""The verbs, and how each ends: exit codes, errors, interrupts."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import click

from headrace import __version__
from headrace.cli.batch import batch
from headrace.cli.cache import cache
from headrace.cli.configuration import check, stack
from headrace.cli.console import Console, error_members
from headrace.cli.conversation import ask, chat
from headrace.cli.cost import cost
from headrace.cli.data import data
from headrace.cli.diagnosis import doctor
from headrace.cli.eval import evaluate
from headrace.cli.explain import explain
from headrace.cli.guard import guard
from headrace.cli.keys import keys
from headrace.cli.models import models
from headrace.cli.prompts import prompts
from headrace.cli.server import serve
from headrace.cli.simulate import simulate
from headrace.errors import ConfigError, HeadraceError, RequestError, StoreError

__all__ = ["FAILED", "INTERRUPTED", "MISSING", "OK", "PIPE", "USAGE", "headrace", "run"]

OK = 0
FAILED = 1
USAGE = 2
MISSING = 3
INTERRUPTED = 130
"""128 + SIGINT, as shells say it."""
PIPE = 141
"""128 + SIGPIPE: whoever read our output has gone."""

_EXTRAS = {
    "rich": "cli",
    "uvicorn": "server",
    "uvloop": "server",
    "xllamacpp": "local",
    "jinja2": "prompts",
    "numpy": "semantic",
    "yaml": "prompts",
}


class _Verbs(click.Group):
    """In the order in which they were added: what one asks, what one runs, what one looks into."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


@click.group(
    cls=_Verbs,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog="""\b
Exit codes:
  0    it worked
  1    the request failed, or doctor found something broken
  2    the command or the configuration is wrong
  3    an optional part is not installed (the message names it)
  130  interrupted""",
)
@click.version_option(__version__, prog_name="headrace", message="%(prog)s %(version)s")
def headrace() -> None:
    """Between your application and the LLM APIs: retries, fallbacks, prices, one endpoint.

    Settings come from headrace.toml (found upward from here, or --config, or HEADRACE_CONFIG) and from the usual variables,
    such as OPENAI_API_KEY. Every verb takes --json.
    """


for _verb in (
    ask,
    chat,
    batch,
    evaluate,
    serve,
    keys,
    cost,
    cache,
    data,
    models,
    prompts,
    check,
    doctor,
    simulate,
    explain,
    guard,
    stack,
):
    headrace.add_command(_verb)


def run(arguments: Sequence[str]) -> int:
    """Run one command; its exit code. Errors are written to standard error, or as JSON with `--json`."""
    words = list(arguments)
    flags = words[: words.index("--")] if "--" in words else words
    console = Console(as_json="--json" in flags)
    try:
        # Not `headrace.main`, which would turn a closed pipe into exit code 1.
        with headrace.make_context("headrace", words) as context:
            headrace.invoke(context)
        sys.stdout.flush()
    except click.exceptions.Exit as ended:
        return ended.exit_code
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        return USAGE
    except click.ClickException as error:
        where = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else "headrace"
        hint = f" (see {where} --help)" if isinstance(error, click.UsageError) else ""
        said = error.format_message().rstrip(".")
        # Click names its own types.
        said = said.replace("a valid integer range", "a whole number").replace(
            "a valid float range", "a number"
        )
        console.error({"kind": "usage", "message": f"{said}{hint}"})
        return USAGE
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except HeadraceError as error:
        console.error(error_members(error))
        return USAGE if isinstance(error, ConfigError | RequestError | StoreError) else FAILED
    except ModuleNotFoundError as error:
        extra = _EXTRAS.get((error.name or "").partition(".")[0])
        if extra is None:
            raise
        message = f"this needs the {extra} extra: pip install 'headrace[{extra}]'"
        console.error({"kind": "not_installed", "message": message})
        return MISSING
    except BrokenPipeError:
        # The interpreter would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PIPE
    return OK
