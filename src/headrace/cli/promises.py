"""What a cascade promises and cannot keep: judged from the settings and the catalogue alone; pure.

These are warnings: the settings work, but a fallback that cannot serve what the first level serves is found out in an outage,
which is too late.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from headrace.config import LOCAL, DeploymentSettings, Settings
from headrace.handler import Route
from headrace.layers.retry import RETRY_FLOOR
from headrace.prices import Catalog, Model
from headrace.types import Target

__all__ = ["Warned", "broken_promises"]

FEATURES = (("tools", "tools"), ("images", "images"), ("json_schema", "JSON Schema"))
"""A model's capability and its name in a warning."""

LOCAL_MODEL = Model(tools=False, images=False, json_schema=False)


@dataclass(frozen=True, slots=True)
class Warned:
    """One warning: the route, what is wrong, and what to do."""

    route: str
    message: str
    fix: str


def broken_promises(settings: Settings, catalog: Catalog) -> list[Warned]:
    """Every warning about every route, in their order."""
    return [
        Warned(route.name, message, fix)
        for route in settings.routes.values()
        for judge in (_models, _features, _windows, _times, _accounts, _going_on, _likeness)
        for message, fix in judge(route, settings, catalog)
    ]


def _model(target: Target, settings: Settings, catalog: Catalog) -> Model | None:
    if target.provider == LOCAL:
        return LOCAL_MODEL
    return catalog.model(target.provider, target.model)


def _models(route: Route, settings: Settings, catalog: Catalog) -> Iterator[tuple[str, str]]:
    for target in route.cascade:
        provider = settings.providers.get(target.provider)
        places = _places(target, settings)
        if provider is not None and not provider.usable and not any(p.provider.usable for p in places):
            yield f"{target} has no key", f"Set {provider.key_variable or 'api_key'}, or leave it out."
        listed = catalog.models(target.provider)
        if listed and catalog.model(target.provider, target.model) is None:
            yield (
                f"{target} is not in the catalogue: it may not exist, and its price and window are unknown",
                f'Correct the name, or give its price under [prices."{target}"].',
            )


def _features(route: Route, settings: Settings, catalog: Catalog) -> Iterator[tuple[str, str]]:
    first = _model(route.cascade[0], settings, catalog)
    for target in route.cascade[1:]:
        model = _model(target, settings, catalog)
        if first is None or model is None:
            continue
        lacking = [
            word for name, word in FEATURES if getattr(first, name) is True and getattr(model, name) is False
        ]
        if lacking:
            yield (
                f"{target} has no {', no '.join(lacking)}, unlike {route.cascade[0]}",
                "Requests that need it have one level less: add one that can.",
            )


def _windows(route: Route, settings: Settings, catalog: Catalog) -> Iterator[tuple[str, str]]:
    def window(target: Target) -> int | None:
        if target.provider == LOCAL:
            return settings.local.context
        model = catalog.model(target.provider, target.model)
        return None if model is None else model.context_total

    widest = window(route.cascade[0])
    for target in route.cascade[1:]:
        fits = window(target)
        if widest is not None and fits is not None and fits < widest and route.context is None:
            yield (
                f"{target} takes {fits:,} tokens, {route.cascade[0]} takes {widest:,}",
                f"Longer requests have one level less: add one that can, or pack with [routes.{route.name}.context].",
            )


def _times(route: Route, settings: Settings, catalog: Catalog) -> Iterator[tuple[str, str]]:
    for name, seconds in (("first_content", route.first_content_s), ("connect", route.connect_s)):
        if route.deadline_s < seconds:
            yield (
                f"the deadline of {route.deadline_s:g} s is shorter than {name} = {seconds:g} s of one attempt",
                f"Lower {name}, or raise deadline: it spans all attempts.",
            )
    for target in route.cascade:
        if target.attempts > RETRY_FLOOR + 1:
            yield (
                f"{target} has {target.attempts} attempts, more than the {RETRY_FLOOR:g} retries that a target takes at once",
                "Further retries are not made; add a level instead.",
            )


def _accounts(route: Route, settings: Settings, catalog: Catalog) -> Iterator[tuple[str, str]]:
    if len(route.cascade) < 2:
        if route.hedge:
            yield "it is hedged and has nobody else to ask", "Add a second target, or leave hedge out."
        return
    names = [f"{target.provider}/{target.model}" for target in route.cascade]
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield f"{name} stands in it twice", "Give it more attempts in one place instead."
    accounts = {account for target in route.cascade for account in _accounts_of(target, settings)}
    if len(accounts) == 1 and len(set(names)) > 1:
        yield (
            f"all its levels use one account ({route.cascade[0].provider})",
            "One outage or an empty purse takes them all: end it with another provider, or local/default.",
        )


def _going_on(route: Route, settings: Settings, catalog: Catalog) -> Iterator[tuple[str, str]]:
    """Where an answer that breaks off has nobody to go on with it."""
    if route.mid_stream not in ("continue", "restart"):
        return
    if len(route.cascade) < 2:
        yield (
            f'mid_stream = "{route.mid_stream}" has no later target to ask',
            "Add a second target, or leave it out.",
        )
    elif route.mid_stream == "continue" and route.repair:
        yield (
            'mid_stream = "continue" does nothing with repair = true',
            "Answers with a form are held until they are valid; leave one of the two out.",
        )


def _likeness(route: Route, settings: Settings, catalog: Catalog) -> Iterator[tuple[str, str]]:
    policy = route.cache
    if policy is None or not policy.semantic or policy.max_wrong <= 0:
        return
    try:
        from headrace.cache.verifier import Verifier
    except ModuleNotFoundError as error:
        yield f"semantic = true needs {error.name}", "pip install 'headrace[semantic]'"
        return
    verifier = Verifier.load()
    if verifier.tau(policy.max_wrong) is None:
        least = min(verifier.thresholds, default=None)
        yield (
            f"no threshold is known to keep max_wrong = {policy.max_wrong:g}: other words are never answered (state infeasible)",
            "Leave semantic out" + ("." if least is None else f", or accept max_wrong = {least:g} or more."),
        )


def _places(target: Target, settings: Settings) -> list[DeploymentSettings]:
    return [
        place
        for place in settings.deployments.values()
        if (place.deployment.provider, place.deployment.model) == (target.provider, target.model)
    ]


def _accounts_of(target: Target, settings: Settings) -> set[tuple[str, object]]:
    provider = settings.providers.get(target.provider)
    if places := _places(target, settings):
        return {(place.provider.base_url, place.provider.api_key) for place in places}
    if provider is None:
        return {(target.provider, None)}
    return {(provider.base_url, provider.api_key)}
