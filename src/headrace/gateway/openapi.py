"""The description of the gateway's own API, for machines and for reading; made from the table of routes."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any, Protocol

from headrace.access import ROLES, KeyRole

__all__ = ["page", "specification"]


class Note(Protocol):
    """A row of the table of routes."""

    @property
    def method(self) -> str: ...
    @property
    def path(self) -> str: ...
    @property
    def roles(self) -> frozenset[KeyRole] | None: ...
    @property
    def summary(self) -> str: ...


def _answer(note: Note) -> str:
    return "JSON" if note.path.startswith("/admin") else "As the official SDK of the dialect expects it"


def _who(note: Note) -> str:
    if note.roles is None:
        return "no key"
    return f"a key with the role {', '.join(role for role in ROLES if role in note.roles)}"


REQUEST_HEADERS = {
    "idempotency-key": "A request repeated with the same key and body is answered once; the answer is given again for a day.",
    "x-headrace-timeout": "Seconds for the whole request, over all attempts and waits; shorter than the route's deadline.",
    "x-headrace-user": "Who the request is for, written into the ledger.",
    "x-headrace-tags": "Tags for the ledger: `name=value`, comma-separated.",
}

RESPONSE_HEADERS = {
    "x-request-id": "The id under which `GET /v1/requests/{id}` lists every attempt.",
    "x-headrace-target": "Who answered, as `provider/model`.",
    "x-headrace-attempts": "How many requests to providers it took.",
    "x-headrace-cost-usd": "What all attempts cost together; `unknown` if a price is missing. Whole answers only.",
    "x-headrace-warnings": "What a translation between dialects could not carry.",
    "x-should-retry": "`false` once the cascade is spent: the official SDKs then do not retry on top of it.",
}


def specification(routes: Sequence[Note], version: str) -> dict[str, Any]:
    """OpenAPI 3.1."""
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        operation: dict[str, Any] = {
            "summary": route.summary,
            "responses": {"200": {"description": _answer(route)}},
        }
        if route.roles is not None:
            operation["security"] = [{"bearer": []}, {"apiKey": []}]
            operation["responses"]["401"] = {"description": "No key, or not one of this gateway's"}
            operation["responses"]["403"] = {"description": f"Not {_who(route)}"}
        if "{" in route.path:
            name = route.path.partition("{")[2].partition("}")[0]
            operation["parameters"] = [
                {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
            ]
        if route.method == "POST":
            operation["requestBody"] = {
                "required": not route.path.startswith("/admin/keys/"),
                "content": {"application/json": {"schema": {"type": "object"}}},
            }
        if route.method == "POST" and route.path.startswith("/v1/"):
            operation["parameters"] = [
                {"name": name, "in": "header", "description": text, "schema": {"type": "string"}}
                for name, text in REQUEST_HEADERS.items()
            ]
            operation["responses"]["200"]["headers"] = {
                name: {"description": text, "schema": {"type": "string"}}
                for name, text in RESPONSE_HEADERS.items()
            }
        paths.setdefault(route.path, {})[route.method.lower()] = operation
    return {
        "openapi": "3.1.0",
        "info": {"title": "Headrace", "version": version},
        "paths": paths,
        "components": {
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "apiKey": {"type": "apiKey", "in": "header", "name": "x-api-key"},
            }
        },
    }


_STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; width: 100%; margin: 1rem 0 2rem; }
td, th { text-align: left; padding: .4rem .8rem .4rem 0; border-bottom: 1px solid #8884; vertical-align: top; }
code { font: 14px/1.5 ui-monospace, monospace; }
pre { background: #8882; padding: 1rem; overflow-x: auto; border-radius: 6px; }
"""


def page(routes: Sequence[Note], version: str) -> str:
    """The same as one HTML page without scripts."""

    def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
        cells = "".join(f"<th>{html.escape(text)}</th>" for text in head)
        lines = "".join(
            "<tr>"
            f"<td><code>{html.escape(row[0])}</code></td>"
            + "".join(f"<td>{html.escape(t)}</td>" for t in row[1:])
            + "</tr>"
            for row in rows
        )
        return f"<table><tr>{cells}</tr>{lines}</table>"

    endpoints = [(f"{r.method} {r.path}", r.summary, _who(r)) for r in routes]
    example = (
        "curl $BASE/v1/chat/completions -H 'authorization: Bearer $KEY' -H 'content-type: application/json' \\\n"
        """  -d '{"model": "ROUTE", "messages": [{"role": "user", "content": "Hello"}]}'"""
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Headrace API</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{_STYLE}</style></head><body><h1>Headrace {html.escape(version)}</h1>"
        "<p>Point an OpenAI client at <code>/v1</code>, an Anthropic client at <code>/</code>. "
        'The same for machines: <a href="/openapi.json">openapi.json</a>.</p>'
        f"<pre>{html.escape(example)}</pre><h2>Endpoints</h2>"
        + table(("Endpoint", "What", "Who"), endpoints)
        + "<h2>Request headers</h2>"
        + table(("Header", "Meaning"), list(REQUEST_HEADERS.items()))
        + "<h2>Response headers</h2>"
        + table(("Header", "Meaning"), list(RESPONSE_HEADERS.items()))
        + "</body></html>"
    )
