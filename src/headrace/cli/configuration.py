"""`check` and `stack`: what the settings say, and in which order the layers stand."""

from __future__ import annotations

from pathlib import Path

import click

from headrace import config
from headrace.cli import options
from headrace.cli.console import Console
from headrace.cli.promises import broken_promises
from headrace.config import ProviderSettings, Settings
from headrace.handler import Route
from headrace.prices import Catalog

__all__ = ["check", "key_state", "stack"]


@click.command(short_help="Judge the settings; tell every mistake.")
@options.config_file
@options.as_json
@click.pass_context
def check(context: click.Context, path: Path | None, as_json: bool) -> None:
    """Judge the settings: every mistake with its line and its fix, or a summary of what they mean, with warnings about cascades that
    cannot keep what they promise.

    Exit codes: 0 usable, also with warnings; 2 not.
    """
    console = Console(as_json=as_json)
    problems = config.check(path)
    if problems:
        source = path or config.find()
        if as_json:
            rows = [
                {"line": p.line, "key": p.key, "value": p.value, "message": p.message, "fix": p.fix}
                for p in problems
            ]
            console.error(
                {"kind": "config_error", "message": config.report(problems, source), "problems": rows}
            )
        else:
            count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
            console.error({"message": f"{source or 'the environment'} is not usable: {count}"})
            if not any(problem.key for problem in problems):
                for problem in problems:
                    console.note(f"  {problem}")
                context.exit(2)
            console.table(
                ["line", "setting", "problem and fix"],
                [
                    [
                        str(p.line or ""),
                        f"{p.key} = {p.value}" if p.value else p.key,
                        f"{p.message}. {p.fix}".rstrip(),
                    ]
                    for p in problems
                ],
            )
        context.exit(2)
    settings = config.load(path)
    warned = broken_promises(settings, Catalog.from_settings(settings.prices))
    if as_json:
        warnings = [{"route": w.route, "message": w.message, "fix": w.fix} for w in warned]
        console.json({"ok": True} | _summary(settings) | {"warnings": warnings})
        return
    _show(console, settings)
    if warned:
        console.line()
        console.table(["route", "warning", "what to do"], [[w.route, w.message, w.fix] for w in warned])


def key_state(provider: ProviderSettings) -> str:
    """`yes, OPENAI_API_KEY`, `yes`, `none needed`, or `no: set OPENAI_API_KEY`; never the key."""
    if provider.api_key is not None:
        return f"yes, {provider.key_variable}" if provider.key_variable else "yes"
    if provider.keyless:
        return "none needed"
    return f"no: set {provider.key_variable}" if provider.key_variable else "no"


def _summary(settings: Settings) -> dict[str, object]:
    gateway, default = settings.gateway, settings.default_route
    return {
        "source": None if settings.source is None else str(settings.source),
        "providers": [
            {
                "name": provider.name,
                "dialect": provider.dialect,
                "base_url": provider.base_url,
                "key": provider.api_key is not None,
                "key_variable": provider.key_variable,
                "usable": provider.usable,
            }
            for provider in settings.providers.values()
        ],
        "routes": [
            {
                "name": route.name,
                "cascade": [{"target": str(t), "attempts": t.attempts} for t in route.cascade],
                "deadline_s": route.deadline_s,
                "connect_s": route.connect_s,
                "first_content_s": route.first_content_s,
                "between_events_s": route.between_events_s,
                "max_wait_s": route.max_wait_s,
                "max_output_tokens": route.max_output_tokens,
                "on_refusal": route.on_refusal,
            }
            for route in settings.routes.values()
        ],
        "default_route": None if default is None else default.name,
        "keys": [
            {"name": key.name, "tenant": key.tenant, "user": key.user, "team": key.team, "routes": key.routes}
            for key in settings.keys.values()
        ],
        "gateway": {
            "host": gateway.host,
            "port": gateway.port,
            "workers": gateway.workers,
            "admin_key": gateway.admin_key is not None,
        },
        "store": None if settings.store.path is None else str(settings.store.path),
        "local_model": settings.local.model,
        "prices": sorted(settings.prices),
    }


def _show(console: Console, settings: Settings) -> None:
    console.line(f"settings: {settings.source or 'no file; the environment alone'}")
    if settings.providers:
        console.line()
        console.table(
            ["provider", "dialect", "address", "key"],
            [[p.name, p.dialect, p.base_url, key_state(p)] for p in settings.providers.values()],
        )
    if settings.routes:
        console.line()
        console.table(
            ["route", "cascade", "deadline", "with"],
            [
                [route.name, _cascade(route), f"{route.deadline_s:g} s", ", ".join(_parts(route))]
                for route in settings.routes.values()
            ],
        )
    if settings.keys:
        console.line()
        console.table(
            ["key", "tenant", "routes"],
            [[key.name, key.tenant, ", ".join(key.routes) or "all"] for key in settings.keys.values()],
        )
    console.line()
    if settings.default_route is not None:
        console.line(f"default: {settings.default_route.name} ({_cascade(settings.default_route)})")
    gateway = settings.gateway
    admin = "with an admin key" if gateway.admin_key is not None else "no admin key"
    console.line(f"gateway: {gateway.host}:{gateway.port}, {admin}")
    usual = f"in memory; of the gateway {settings.store.usual}" if settings.store.usual else "in memory"
    console.line(f"store:   {settings.store.path or usual}")


def _cascade(route: Route) -> str:
    return ", then ".join(f"{t} (x{t.attempts})" if t.attempts > 1 else str(t) for t in route.cascade)


def _parts(route: Route) -> list[str]:
    """What is on for `route` that is off where a route does not name it."""
    semantic = route.cache is not None and route.cache.semantic
    parts = {
        "semantic cache" if semantic else "cache": route.cache,
        "context": route.context,
        "guard": route.guard,
        "budget": route.budgets or route.max_cost is not None or route.max_total_tokens is not None,
        "limits": route.limits,
        "hedge": route.hedge,
        "repair": route.repair,
        "rules": route.rules,
    }
    return [name for name, there in parts.items() if there]


@click.command(short_help="Print the layers, each with its reason.")
@options.as_json
def stack(as_json: bool) -> None:
    """Print the layers that a request crosses, outermost first, each with the reason for its place."""
    from headrace.engine import LAYERS

    console = Console(as_json=as_json)
    if as_json:
        console.json({"layers": [{"name": layer.name, "reason": layer.reason} for layer in LAYERS]})
        return
    console.table(["layer", "why it stands here"], [[layer.name, layer.reason] for layer in LAYERS])
