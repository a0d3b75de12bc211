"""The table of the gateway's routes: what there is, and who may use it. The gateway dispatches from it; what is not in it does not exist."""

from __future__ import annotations

import re
from urllib.parse import unquote

import msgspec

from headrace.access import KeyRole
from headrace.errors import NotFound

__all__ = ["ROUTES", "RouteNote", "Routes", "WrongMethod"]


class RouteNote(msgspec.Struct, frozen=True):
    """One row: `{name}` in the path stands for any text, without a slash unless it is the path's end. `roles` are those of the keys
    that may use it, None for everybody, with or without a key."""

    method: str
    path: str
    roles: frozenset[KeyRole] | None
    summary: str


_OPEN = None
_CALLER: frozenset[KeyRole] = frozenset({"caller"})
_ALL: frozenset[KeyRole] = frozenset({"viewer", "auditor", "operator", "admin"})
_KEYS: frozenset[KeyRole] = frozenset({"auditor", "operator", "admin"})
_KEEPERS: frozenset[KeyRole] = frozenset({"operator", "admin"})
_AUDIT: frozenset[KeyRole] = frozenset({"auditor", "admin"})

ROUTES: tuple[RouteNote, ...] = (
    RouteNote("POST", "/v1/chat/completions", _CALLER, "OpenAI chat completions, whole or streamed"),
    RouteNote("POST", "/v1/embeddings", _CALLER, "OpenAI embeddings"),
    RouteNote("POST", "/v1/messages", _CALLER, "Anthropic Messages, whole or streamed"),
    RouteNote(
        "POST", "/v1/messages/count_tokens", _CALLER, "Tokens of a Messages request, without sending it"
    ),
    RouteNote("GET", "/v1/models", _CALLER, "Models and routes, in OpenAI's or Anthropic's shape"),
    RouteNote("GET", "/v1/models/{model}", _CALLER, "One model"),
    RouteNote(
        "GET", "/v1/requests/{id}", _CALLER, "Every attempt of a request of this key's tenant, with its cost"
    ),
    RouteNote("GET", "/v1/conversations/{id}", _CALLER, "A conversation that is held for this key's tenant"),
    RouteNote("DELETE", "/v1/conversations/{id}", _CALLER, "Throw a held conversation away"),
    RouteNote("GET", "/health", _OPEN, "Whether the process runs and what it is"),
    RouteNote("GET", "/health/liveness", _OPEN, "Whether the process runs"),
    RouteNote("GET", "/health/readiness", _OPEN, "Whether requests would be served"),
    RouteNote("GET", "/docs", _OPEN, "This API, for reading"),
    RouteNote("GET", "/openapi.json", _OPEN, "This API, for machines"),
    RouteNote("GET", "/metrics", _ALL, "Prometheus metrics"),
    RouteNote("GET", "/admin", _ALL, "What runs: providers, routes, the stack"),
    RouteNote("GET", "/admin/requests", _ALL, "The latest requests"),
    RouteNote("GET", "/admin/requests/{id}", _ALL, "Every attempt of any request"),
    RouteNote(
        "GET", "/admin/cache", _ALL, "Kept answers of this worker: entries, hits by tier, what was saved"
    ),
    RouteNote(
        "DELETE",
        "/admin/cache",
        _KEEPERS,
        "Throw kept answers away: ?tenant=, user, route, model, tag, documents, prefix, older_than",
    ),
    RouteNote(
        "POST", "/admin/cache/explain", _KEEPERS, "Why a question is or is not answered from the cache"
    ),
    RouteNote(
        "GET", "/admin/budgets", _ALL, "Every budget in its present window: limit, spent, held, unsettled"
    ),
    RouteNote(
        "GET",
        "/admin/cost",
        _ALL,
        "What was spent, forecast and saved: ?since=7d, by=model,key,tag, format=csv",
    ),
    RouteNote("GET", "/admin/keys", _KEYS, "All keys, without their values"),
    RouteNote("POST", "/admin/keys", _KEEPERS, "Make a key; its value is shown in this answer only"),
    RouteNote("GET", "/admin/keys/{id}", _KEYS, "One key, without its value"),
    RouteNote("POST", "/admin/keys/{id}/revoke", _KEEPERS, "End a key, in every worker within a second"),
    RouteNote(
        "POST",
        "/admin/keys/{id}/rotate",
        _KEEPERS,
        "A new value for a key; the former one has a grace, if asked",
    ),
    RouteNote("GET", "/admin/audit", _AUDIT, "Who did what to which key, the newest first"),
)


class WrongMethod(NotFound):
    """The path exists, not with this method."""

    status = 405


class Routes:
    """Finds the row of a request."""

    def __init__(self, rows: tuple[RouteNote, ...] = ROUTES) -> None:
        self.rows = rows
        self._fixed = {(row.method, row.path): row for row in rows if "{" not in row.path}
        self._patterns = [(row, _pattern(row.path)) for row in rows if "{" in row.path]

    def find(self, method: str, path: str) -> tuple[RouteNote, str]:
        """The row, and the text that stands for its `{name}`. Raises `NotFound`, or `WrongMethod`."""
        method = "GET" if method == "HEAD" else method
        row = self._fixed.get((method, path))
        if row is not None:
            return row, ""
        others = {other.method for (_, fixed), other in self._fixed.items() if fixed == path}
        for row, pattern in self._patterns:
            if match := pattern.fullmatch(path):
                if row.method == method:
                    return row, unquote(match[1])
                others.add(row.method)
        if others:
            raise WrongMethod(f"{path[:200]} takes {', '.join(sorted(others))}, not {method}")
        raise NotFound(f"there is no {path[:200]!r} here; GET /docs lists what there is")


def _pattern(path: str) -> re.Pattern[str]:
    before, _, rest = path.partition("{")
    after = rest.partition("}")[2]
    return re.compile(re.escape(before) + ("([^/]+)" if after else "(.+)") + re.escape(after), re.DOTALL)
