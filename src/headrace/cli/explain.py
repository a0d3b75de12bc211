"""`explain`: what would be sent of a conversation, and why, without sending anything."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import click
import msgspec

from headrace import config, dialects
from headrace.cli import options
from headrace.cli.console import Console
from headrace.context import Context, Library, Plan
from headrace.context.recall import shipped
from headrace.engine import Engine
from headrace.handler import Body, ContextPolicy, Request

__all__ = ["explain"]

_ANTHROPIC = re.compile(
    rb'"type"\s*:\s*"(tool_use|tool_result|thinking|redacted_thinking)"|"(system|anthropic_version|stop_sequences)"\s*:'
)
"""What stands in a body of Anthropic's and not in one of OpenAI's."""


@click.command(short_help="Say what is sent of a long conversation, and why.")
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("-m", "--model", metavar="MODEL", help="A route or provider/model; default: the request's own.")
@click.option(
    "--dialect",
    type=click.Choice(["openai-chat", "anthropic"]),
    help="Of the request; default: the one that it looks like.",
)
@click.option("--budget", type=click.IntRange(64), metavar="TOKENS", help="In place of the route's budget.")
@options.config_file
@options.as_json
def explain(
    file: Path, model: str | None, dialect: str | None, budget: int | None, path: Path | None, as_json: bool
) -> None:
    """Plan the request in FILE (a JSON body) as the first target of its route would get it: every turn kept, summarised, recalled or
    dropped, with the reason. Nothing is sent. A route without a context table is planned with the defaults.

    Exit codes: 0 planned, 1 it does not fit, 2 the file or the settings are wrong.
    """
    console = Console(as_json=as_json)
    body = file.read_bytes()
    if dialect is None:
        dialect = "anthropic" if _ANTHROPIC.search(body) is not None else "openai-chat"
    wire = dialects.by_name(dialect)
    peek = wire.peek(body)

    async def planned() -> Plan:
        engine = Engine(config.load(path))
        try:
            route = engine.route(model or peek.model, dialect)
            policy = route.context or ContextPolicy()
            if budget is not None:
                policy = msgspec.structs.replace(policy, budget=budget)
            documents = (
                {route.name: Library.read(policy.document_paths, likeness=shipped())}
                if policy.document_paths
                else {}
            )
            call = engine.new_call(dialect=dialect, model=route.name)
            request = Request(
                body=Body(wire=body, dialect=wire),
                route=route,
                call=call,
                stream=False,
                target=route.cascade[0],
            )
            Context(engine.limits, documents, likeness=shipped()).packed(request, policy, route.cascade[0])
            assert isinstance(call.plan, Plan)
            return call.plan
        finally:
            await engine.aclose()

    made = asyncio.run(planned())
    if as_json:
        console.json(made)
        return
    console.table(
        ["turn", "role", "what", "tokens", "score", "why"],
        [
            [
                str(turn.turn),
                turn.role,
                turn.what,
                str(turn.tokens),
                "" if turn.score is None else f"{turn.score:.2f}",
                turn.why,
            ]
            for turn in made.turns
        ],
    )
    console.line()
    console.table(
        ["section", "tokens", "at most"],
        [[name, str(part.used), str(part.limit)] for name, part in made.sections.items()],
    )
    console.line()
    decision = made.decision
    if decision.freed:
        pays = "never" if decision.pays_after is None else f"after {decision.pays_after:g} requests"
        console.line(
            f"{decision.action}: frees {decision.freed} tokens and rewrites {decision.following}; pays {pays}, "
            f"{decision.expected} are expected"
        )
    limit = "no limit is known" if made.limit is None else f"the limit is {made.limit}"
    console.line(f"{made.tokens} tokens; {limit}")
