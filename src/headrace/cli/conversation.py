"""`ask` and `chat`: one question, and a talk."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from headrace import config
from headrace.call import format_usd
from headrace.cli import options
from headrace.cli.console import Console, attempt_members, error_members
from headrace.config import Settings
from headrace.errors import ConfigError, HeadraceError, StreamRestarted
from headrace.types import Message, Text

if TYPE_CHECKING:
    from headrace.answer import Answer
    from headrace.engine import Levels
    from headrace.sync import Client

__all__ = ["ask", "chat"]


def _duration(context: click.Context, parameter: click.Parameter, text: str | None) -> float | None:
    """Seconds in `60s`, `500ms`, `2m`."""
    if text is None:
        return None
    try:
        seconds = config.parse_duration(text)
    except ValueError:
        seconds = 0.0
    if not 0.0 < seconds <= config.MAX_DURATION_S:
        message = f"{text!r} is not a duration such as 60s, 500ms or 2m, of at most 24h"
        raise click.BadParameter(message, context, parameter)
    return seconds


_model = click.option(
    "-m",
    "--model",
    "models",
    multiple=True,
    help="A route or provider/model; given several times, each is asked when the one before has failed.",
)
_system = click.option("-s", "--system", help="What the model is told before the prompt.")
_max_tokens = click.option("--max-tokens", type=click.IntRange(min=1), help="The longest answer, in tokens.")
_temperature = click.option("--temperature", type=click.FloatRange(0.0, 2.0), help="0 is the least random.")
_timeout = click.option(
    "--timeout", callback=_duration, metavar="DURATION", help="Over all attempts and waits, e.g. 60s."
)


@click.command(short_help="Ask once.")
@click.argument("prompt", nargs=-1)
@_model
@_system
@_max_tokens
@_temperature
@_timeout
@click.option("--no-stream", is_flag=True, help="Print the answer when it is whole.")
@click.option("-q", "--quiet", is_flag=True, help="No table of the attempts.")
@options.config_file
@options.as_json
def ask(
    prompt: tuple[str, ...],
    models: tuple[str, ...],
    system: str | None,
    max_tokens: int | None,
    temperature: float | None,
    timeout: float | None,
    no_stream: bool,
    quiet: bool,
    path: Path | None,
    as_json: bool,
) -> None:
    """Ask once. The answer goes to standard output as it comes, the attempts and the cost to standard error.

    PROMPT is one text, its words joined; a word `-` stands for standard input, as does no prompt at all.

    Exit codes: 0 answered whole, 1 no answer or a broken one, 2 the command or the settings are wrong.
    """
    from headrace.sync import Client  # brings the engine

    console = Console(as_json=as_json)
    question = _question(prompt)
    settings = config.load(path)
    levels = _levels(settings, models)
    with Client(settings) as client:
        if no_stream or as_json:
            answer = client.chat(
                levels,
                question,
                system=system,
                max_tokens=max_tokens,
                temperature=temperature,
                timeout=timeout,
            )
            if not as_json:
                console.write(answer.text)
        else:
            with client.stream(
                levels,
                question,
                system=system,
                max_tokens=max_tokens,
                temperature=temperature,
                timeout=timeout,
            ) as stream:
                _print(console, stream)
            answer = stream.final
    if as_json:
        console.json(_answered(answer))
        return
    if not answer.text.endswith("\n"):
        console.write("\n")
    _explain(console, answer, quiet=quiet)


@click.command(short_help="Talk, turn by turn.")
@_model
@_system
@_max_tokens
@_temperature
@_timeout
@options.config_file
@options.as_json
def chat(
    models: tuple[str, ...],
    system: str | None,
    max_tokens: int | None,
    temperature: float | None,
    timeout: float | None,
    path: Path | None,
    as_json: bool,
) -> None:
    """Talk: each line is a turn, and the model sees all turns before it.

    `/new` forgets them, `/model NAME` asks another, `/quit` or the end of the input leaves. With --json, each answer is one
    line of JSON.

    Exit codes: 0 left, 2 the command or the settings are wrong. A failed turn is told, forgotten, and the talk goes on.
    """
    from headrace.sync import Client  # brings the engine

    console = Console(as_json=as_json)
    settings = config.load(path)
    levels = _levels(settings, models)
    turns: list[Message] = []
    with Client(settings) as client:
        for line in _lines(console):
            verb, _, rest = line.partition(" ")
            if verb == "/quit":
                break
            if verb == "/new":
                turns = []
                console.note("forgotten", style="cyan")
                continue
            if verb == "/model" and rest:
                levels = _levels(settings, tuple(rest.split()))
                console.note(f"asking {rest}", style="cyan")
                continue
            asked = [*turns, Message(role="user", content=(Text(text=line),))]
            answer = _turn(console, client, levels, asked, system, max_tokens, temperature, timeout)
            if answer is not None:
                turns = [*asked, Message(role="assistant", content=answer.content)]


def _turn(
    console: Console,
    client: Client,
    levels: Levels,
    turns: list[Message],
    system: str | None,
    max_tokens: int | None,
    temperature: float | None,
    timeout: float | None,
) -> Answer | None:
    """One answer, printed as it comes; None after telling why there is none."""
    try:
        with client.stream(
            levels, turns, system=system, max_tokens=max_tokens, temperature=temperature, timeout=timeout
        ) as stream:
            if console.as_json:
                for _ in stream:
                    pass
            else:
                _print(console, stream)
        answer = stream.final
    except HeadraceError as error:
        if console.as_json:
            console.json_line({"error": error_members(error)})
        else:
            console.error(error_members(error))
        return None
    except KeyboardInterrupt:
        console.note("\nstopped; not remembered", style="yellow")
        return None
    if console.as_json:
        console.json_line(_answered(answer))
    else:
        console.write("\n")
        if len(answer.attempts) > 1:
            console.note(str(answer.route), style="yellow")
        for warning in answer.warnings:
            console.note(f"warning: {warning}", style="yellow")
    return answer


def _print(console: Console, pieces: Iterable[str]) -> None:
    """Write an answer's text as it comes; one that breaks off ends its line first."""
    written = ""
    try:
        for written in pieces:
            console.write(written)
    except StreamRestarted as restarted:
        console.write("\n")
        console.note(
            f"{restarted.reason}: that answer is void, {restarted.target} begins anew", style="yellow"
        )
        _print(console, pieces)
    except BaseException:
        if written:
            console.write("\n")
        raise


def _lines(console: Console) -> Iterator[str]:
    """What the user types, line by line; empty lines are passed over."""
    asks = sys.stdin.isatty() and not console.as_json
    if asks:
        import readline  # noqa: F401  (line editing and history for `input`)

    while True:
        try:
            line = input("> " if asks else "").strip()
        except EOFError:
            return
        if line:
            yield line


def _question(prompt: tuple[str, ...]) -> str:
    words = prompt or (() if sys.stdin.isatty() else ("-",))
    question = " ".join(sys.stdin.read().strip() if word == "-" else word for word in words).strip()
    if not question:
        raise click.UsageError("there is nothing to ask: give a prompt", click.get_current_context())
    return question


def _levels(settings: Settings, models: tuple[str, ...]) -> Levels:
    """What `-m` names, or the default route. Raises `ConfigError` if there is neither."""
    if models:
        return models[0] if len(models) == 1 else models
    default = settings.default_route
    if default is None:
        names = [*settings.routes, *(f"{p.name}/MODEL" for p in settings.providers.values() if p.usable)]
        raise ConfigError(f"name a model with -m: {', '.join(names)} (headrace models lists them)")
    return default.name if default.name in settings.routes else str(default.cascade[0])


def _answered(answer: Answer) -> dict[str, object]:
    usage = answer.usage
    return {
        "id": answer.id,
        "text": answer.text,
        "thinking": answer.thinking or None,
        "tool_calls": [{"id": c.id, "name": c.name, "arguments": c.arguments} for c in answer.tool_calls],
        "model": answer.model,
        "finish": answer.finish,
        "usage": usage,
        "cost_usd": None if answer.cost is None else format_usd(answer.cost),
        "attempts": [attempt_members(attempt) for attempt in answer.attempts],
        "warnings": answer.warnings,
    }


def _explain(console: Console, answer: Answer, *, quiet: bool) -> None:
    """Who was asked, what came of it, and what it cost, on standard error."""
    for warning in answer.warnings:
        console.note(f"warning: {warning}", style="yellow")
    if answer.finish == "length":
        console.note("the answer was cut at the output limit", style="yellow")
    if quiet:
        return
    console.table(
        ["asked", "outcome", "waited", "first word", "took", "tokens in", "out", "USD"],
        [
            [
                str(attempt.target),
                attempt.error_kind or attempt.outcome,
                _seconds(attempt.waited_s or None),
                _seconds(attempt.first_content_s),
                _seconds(attempt.duration_s),
                "" if attempt.usage is None else f"{attempt.usage.input_tokens:,}",
                "" if attempt.usage is None else f"{attempt.usage.output_tokens:,}",
                format_usd(attempt.cost),
            ]
            for attempt in answer.attempts
        ],
        to_errors=True,
    )


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.2f} s"
