"""The gateway's application: which path is answered by what, and under whose key.

Default deny: a path that is not in `ROUTES` does not exist, and every route states who may use it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Literal, TypeAlias
from urllib.parse import unquote

import msgspec

from headrace import __version__, dialects
from headrace.errors import BodyTooLarge, Forbidden, HeadraceError, InvalidRequest, UnknownModel
from headrace.gateway import admin, kept, models, openapi
from headrace.gateway.answer import JSON_TYPE, Answering, error_headers
from headrace.gateway.auth import Identity, Keyring
from headrace.gateway.count import count_tokens
from headrace.gateway.metrics import Metrics

if TYPE_CHECKING:
    from headrace.engine import Engine
    from headrace.gateway.http import Exchange
    from headrace.handler import Dialect

__all__ = ["ROUTES", "App", "RouteNote"]

logger = logging.getLogger("headrace.gateway")

Access: TypeAlias = Literal["open", "key", "admin"]

_encode = msgspec.json.encode


class RouteNote(msgspec.Struct, frozen=True):
    """One row of the table: what `GET /openapi.json` and the tests of the roles read."""

    method: str
    path: str
    access: Access
    summary: str


class _NotFound(HeadraceError):
    """No such path, or not with this method."""

    kind = "not_found"

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self._status = status

    @property
    def http_status(self) -> int:
        return self._status


ROUTES: tuple[RouteNote, ...] = (
    RouteNote("POST", "/v1/chat/completions", "key", "OpenAI chat completions, whole or streamed"),
    RouteNote("POST", "/v1/messages", "key", "Anthropic Messages, whole or streamed"),
    RouteNote("POST", "/v1/messages/count_tokens", "key", "Tokens of a Messages request, without sending it"),
    RouteNote("GET", "/v1/models", "key", "Models and routes, in OpenAI's or Anthropic's shape"),
    RouteNote("GET", "/v1/models/{model}", "key", "One model"),
    RouteNote(
        "GET", "/v1/requests/{id}", "key", "Every attempt of a request of this key's tenant, with its cost"
    ),
    RouteNote("GET", "/health", "open", "Whether the process runs and what it is"),
    RouteNote("GET", "/health/liveness", "open", "Whether the process runs"),
    RouteNote("GET", "/health/readiness", "open", "Whether requests would be served"),
    RouteNote("GET", "/docs", "open", "This API, for reading"),
    RouteNote("GET", "/openapi.json", "open", "This API, for machines"),
    RouteNote("GET", "/metrics", "admin", "Prometheus metrics"),
    RouteNote("GET", "/admin", "admin", "What runs: providers, routes, the stack"),
    RouteNote("GET", "/admin/requests", "admin", "The latest requests"),
    RouteNote("GET", "/admin/requests/{id}", "admin", "Every attempt of any request"),
    RouteNote(
        "GET", "/admin/cache", "admin", "Kept answers of this worker: entries, hits by tier, what was saved"
    ),
    RouteNote(
        "DELETE",
        "/admin/cache",
        "admin",
        "Throw kept answers away: ?tenant=, route, model, tag, documents, prefix, older_than",
    ),
    RouteNote("POST", "/admin/cache/explain", "admin", "Why a question is or is not answered from the cache"),
)

Endpoint: TypeAlias = Callable[["Exchange", Identity | None, str], Awaitable[None]]


class App:
    """Answers exchanges.

    Args:
        keyring: Whose keys are accepted; `/metrics` and `/admin` need the admin key.
    """

    def __init__(self, engine: Engine, keyring: Keyring) -> None:
        self.engine = engine
        self.keyring = keyring
        self.busy: Callable[[], int] = lambda: 0
        self.metrics = Metrics(
            busy=self._busy,
            dropped=lambda: engine.store.dropped,
            circuits=lambda: ((key, state.value) for key, state, _ in engine.breaker.states()),
        )
        engine.trace.observers.append(self.metrics)
        gateway = engine.settings.gateway
        self.answering = Answering(
            engine, keyring, max_depth=gateway.max_depth, keep_alive_s=gateway.keep_alive_s
        )
        self._openai = dialects.by_name("openai-chat")
        self._anthropic = dialects.by_name("anthropic")
        self._chats: dict[str, Dialect] = {
            "/v1/chat/completions": self._openai,
            "/v1/messages": self._anthropic,
        }
        self._spec = _encode(openapi.specification(ROUTES, __version__))
        self._page = openapi.page(ROUTES, __version__).encode()
        self._access = {(note.method, note.path): note.access for note in ROUTES}
        self._endpoints: dict[tuple[str, str], Endpoint] = {
            ("POST", "/v1/messages/count_tokens"): self._count_tokens,
            ("GET", "/v1/models"): self._models,
            ("GET", "/v1/models/{model}"): self._model,
            ("GET", "/v1/requests/{id}"): self._request,
            ("GET", "/health"): self._health,
            ("GET", "/health/liveness"): self._liveness,
            ("GET", "/health/readiness"): self._readiness,
            ("GET", "/docs"): self._docs,
            ("GET", "/openapi.json"): self._openapi,
            ("GET", "/metrics"): self._metrics,
            ("GET", "/admin"): self._admin,
            ("GET", "/admin/requests"): self._admin_requests,
            ("GET", "/admin/requests/{id}"): self._admin_request,
            ("GET", "/admin/cache"): self._admin_cache,
            ("DELETE", "/admin/cache"): self._admin_cache_purge,
            ("POST", "/admin/cache/explain"): self._admin_cache_explain,
        }
        self._prefixes = [
            (method, path.partition("{")[0], path) for method, path in self._endpoints if path.endswith("}")
        ]

    def _busy(self) -> int:
        return self.busy()

    async def __call__(self, exchange: Exchange) -> None:
        dialect = self._chats.get(exchange.path) if exchange.method == "POST" else None
        if dialect is not None:
            await self.answering(exchange, dialect)
        else:
            await self._other(exchange)

    async def _other(self, exchange: Exchange) -> None:
        try:
            endpoint, path, argument = self._find(exchange)
            identity: Identity | None = None
            match self._access[exchange.method if exchange.method != "HEAD" else "GET", path]:
                case "key":
                    identity = await self.keyring.identify(exchange.headers)
                case "admin":
                    self.keyring.admit_admin(exchange.headers)
                case "open":
                    pass
            await endpoint(exchange, identity, argument)
        except HeadraceError as error:
            self._refuse(exchange, error)
        except (asyncio.CancelledError, ConnectionResetError):
            raise
        except Exception:
            logger.exception("%s %r failed in Headrace itself", exchange.method, exchange.path)
            if exchange.started:
                raise
            self._refuse(exchange, HeadraceError("internal error; the log has the details"))

    def _find(self, exchange: Exchange) -> tuple[Endpoint, str, str]:
        method = "GET" if exchange.method == "HEAD" else exchange.method
        path = exchange.path
        endpoint = self._endpoints.get((method, path))
        if endpoint is not None:
            return endpoint, path, ""
        for known, prefix, pattern in self._prefixes:
            if method == known and path.startswith(prefix) and len(path) > len(prefix):
                return self._endpoints[known, pattern], pattern, unquote(path[len(prefix) :])
        methods = sorted(note.method for note in ROUTES if note.path == path)
        if methods:
            raise _NotFound(f"{path} takes {', '.join(methods)}, not {exchange.method}", 405)
        raise _NotFound(f"there is no {path[:200]!r} here; GET /docs lists what there is", 404)

    def _dialect(self, path: str) -> Dialect:
        return self._anthropic if path.startswith("/v1/messages") else self._openai

    def _refuse(self, exchange: Exchange, error: HeadraceError) -> None:
        status = error.http_status
        dialect = self._anthropic if _speaks_anthropic(exchange) else self._dialect(exchange.path)
        body = dialect.encode_error(
            error.kind, error.message, status=status, request_id=self.engine.new_id(), param=error.param
        )
        exchange.respond(status, JSON_TYPE + error_headers(error), body)

    def unreadable(self, path: str, status: int, message: str) -> bytes:
        """The body for a request that the server could not read, in the dialect of its path."""
        error: HeadraceError = InvalidRequest(message) if status in (400, 408) else BodyTooLarge(message)
        return self._dialect(path).encode_error(
            error.kind, message, status=status, request_id=self.engine.new_id()
        )

    # --- endpoints ----------------------------------------------------------------------------------------------------

    async def _count_tokens(self, exchange: Exchange, identity: Identity | None, _: str) -> None:
        assert identity is not None
        tokens, headers = await count_tokens(self.engine, self._anthropic, exchange, identity.routes)
        exchange.respond(200, JSON_TYPE + headers, _encode({"input_tokens": tokens}))

    async def _models(self, exchange: Exchange, identity: Identity | None, _: str) -> None:
        assert identity is not None
        make = models.anthropic_list if _speaks_anthropic(exchange) else models.openai_list
        _json(exchange, make(self.engine, identity.routes))

    async def _model(self, exchange: Exchange, identity: Identity | None, name: str) -> None:
        assert identity is not None
        route = self.engine.route(name, "anthropic" if _speaks_anthropic(exchange) else "openai-chat")
        if identity.routes and route.name not in identity.routes:
            raise Forbidden(f"this key may use {', '.join(sorted(identity.routes))}, not {name!r}")
        make = models.anthropic_one if _speaks_anthropic(exchange) else models.openai_one
        _json(exchange, make(self.engine, name))

    async def _request(self, exchange: Exchange, identity: Identity | None, request_id: str) -> None:
        assert identity is not None
        found = await self.engine.store.request(request_id, identity.tenant)
        if found is None:
            raise UnknownModel(f"this key's tenant has no request {request_id[:100]!r}")
        _json(exchange, admin.request_report(found))

    async def _health(self, exchange: Exchange, identity: Identity | None, _: str) -> None:
        _json(exchange, {"status": "draining" if self.answering.draining else "ok", "version": __version__})

    async def _liveness(self, exchange: Exchange, identity: Identity | None, _: str) -> None:
        _json(exchange, {"status": "ok"})

    async def _readiness(self, exchange: Exchange, identity: Identity | None, _: str) -> None:
        ready = not self.answering.draining and self.engine.store.ready()
        exchange.respond(
            200 if ready else 503, JSON_TYPE, _encode({"status": "ready" if ready else "not ready"})
        )

    async def _docs(self, exchange: Exchange, identity: Identity | None, _: str) -> None:
        headers = b"content-type: text/html; charset=utf-8\r\ncontent-security-policy: default-src 'none'; style-src 'unsafe-inline'\r\n"
        exchange.respond(200, headers, self._page)

    async def _openapi(self, exchange: Exchange, identity: Identity | None, _: str) -> None:
        exchange.respond(200, JSON_TYPE, self._spec)

    async def _metrics(self, exchange: Exchange, identity: Identity | None, _: str) -> None:
        exchange.respond(
            200, b"content-type: text/plain; version=0.0.4; charset=utf-8\r\n", self.metrics.text()
        )

    async def _admin(self, exchange: Exchange, identity: Identity | None, _: str) -> None:
        _json(exchange, admin.overview(self.engine, busy=self.busy()))

    async def _admin_requests(self, exchange: Exchange, identity: Identity | None, _: str) -> None:
        found = await self.engine.store.recent(100)
        _json(exchange, {"requests": [admin.request_report(request) for request in found]})

    async def _admin_request(self, exchange: Exchange, identity: Identity | None, request_id: str) -> None:
        found = await self.engine.store.request(request_id, None)
        if found is None:
            raise UnknownModel(f"there is no request {request_id[:100]!r}")
        _json(exchange, admin.request_report(found))

    async def _admin_cache(self, exchange: Exchange, identity: Identity | None, _: str) -> None:
        _json(exchange, kept.report(self.engine))

    async def _admin_cache_purge(self, exchange: Exchange, identity: Identity | None, _: str) -> None:
        _json(exchange, kept.purged(self.engine, exchange.query))

    async def _admin_cache_explain(self, exchange: Exchange, identity: Identity | None, _: str) -> None:
        _json(exchange, kept.explained(self.engine, exchange.body))


def _json(exchange: Exchange, value: Any) -> None:
    exchange.respond(200, JSON_TYPE, _encode(value))


def _speaks_anthropic(exchange: Exchange) -> bool:
    return "anthropic-version" in exchange.headers or exchange.path.startswith("/v1/messages")
