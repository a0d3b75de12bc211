"""`GET /v1/models` in the shapes that the official SDKs expect, filtered by what a key may use."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from headrace.access import allows

if TYPE_CHECKING:
    from headrace.engine import Engine

__all__ = ["anthropic_list", "anthropic_one", "names", "openai_list", "openai_one"]


def names(engine: Engine, allowed: frozenset[str]) -> list[str]:
    """Routes first, then `provider/model` of every usable provider's catalogued models, then the embedded model."""
    settings = engine.settings
    routes = sorted(settings.routes)
    direct = [
        f"{provider.name}/{model}"
        for provider in sorted(settings.providers.values(), key=lambda p: p.name)
        if provider.usable
        for model in engine.catalog.models(provider.name)
    ]
    every = [*routes, *direct, "local/default"]
    return [name for name in every if allows(allowed, name)]


def _openai(name: str, engine: Engine) -> dict[str, Any]:
    provider, _, model = name.partition("/")
    found = engine.catalog.model(provider, model) if model else None
    entry: dict[str, Any] = {
        "id": name,
        "object": "model",
        "created": 0,
        "owned_by": provider if model else "headrace",
    }
    if found is not None:
        entry["context_window"] = found.context_total
        entry["max_output_tokens"] = found.max_output
    return entry


def openai_list(engine: Engine, allowed: frozenset[str]) -> dict[str, Any]:
    """OpenAI's list."""
    return {"object": "list", "data": [_openai(name, engine) for name in names(engine, allowed)]}


def openai_one(engine: Engine, name: str) -> dict[str, Any]:
    """OpenAI's single model."""
    return _openai(name, engine)


def _anthropic(name: str) -> dict[str, Any]:
    return {"type": "model", "id": name, "display_name": name, "created_at": "1970-01-01T00:00:00Z"}


def anthropic_one(engine: Engine, name: str) -> dict[str, Any]:
    """Anthropic's single model."""
    return _anthropic(name)


def anthropic_list(engine: Engine, allowed: frozenset[str]) -> dict[str, Any]:
    """Anthropic's list, one page."""
    data = [_anthropic(name) for name in names(engine, allowed)]
    return {
        "data": data,
        "has_more": False,
        "first_id": data[0]["id"] if data else None,
        "last_id": data[-1]["id"] if data else None,
    }
