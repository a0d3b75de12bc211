"""The gateway's application: which path is answered by what, and under whose key.

Default deny: a path that is not in the table (`headrace.gateway.routes`) does not exist, and every row states who may use it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec

from headrace import __version__, dialects
from headrace.access import require
from headrace.errors import BodyTooLarge, HeadraceError, InvalidRequest, NotFound, StoreError
from headrace.gateway import admin, kept, models, openapi
from headrace.gateway.answer import JSON_TYPE, Answering, error_headers
from headrace.gateway.auth import Identity, Keyring, admit
from headrace.gateway.count import count_tokens
from headrace.gateway.keys import KeyAdmin
from headrace.gateway.metrics import Metrics
from headrace.gateway.routes import ROUTES, RouteNote, Routes
from headrace.keys import shown
from headrace.report import to_csv
from headrace.store import Actor

if TYPE_CHECKING:
    from headrace.engine import Engine
    from headrace.gateway.http import Exchange
    from headrace.handler import Dialect

__all__ = ["App"]

logger = logging.getLogger("headrace.gateway")

_encode = msgspec.json.encode


Endpoint: TypeAlias = Callable[["Exchange", Identity | None, str], Awaitable[None]]
Change: TypeAlias = Callable[["Exchange", Identity, str, Actor], Awaitable[None]]
"""Changes something, and says who did it in the audit log."""


class App:
    """Answers exchanges.

    Args:
        keyring: Whose keys are accepted.
        rows: The table of routes.
    """

    def __init__(self, engine: Engine, keyring: Keyring, rows: tuple[RouteNote, ...] = ROUTES) -> None:
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
        self.routes = Routes(rows)
        chats = {
            "/v1/chat/completions": self._openai,
            "/v1/embeddings": dialects.by_name("openai-embeddings"),
            "/v1/messages": self._anthropic,
        }
        self._chats = {
            row.path: (chats[row.path], row.roles)
            for row in rows
            if row.method == "POST" and row.path in chats and row.roles is not None
        }
        self._spec = _encode(openapi.specification(rows, __version__))
        self._page = openapi.page(rows, __version__).encode()
        self._keys = KeyAdmin(engine)
        self._endpoints: dict[tuple[str, str], Endpoint] = {
            ("POST", "/v1/messages/count_tokens"): self._count_tokens,
            ("GET", "/v1/models"): self._models,
            ("GET", "/v1/models/{model}"): self._model,
            ("GET", "/v1/requests/{id}"): self._request,
            ("GET", "/v1/conversations/{id}"): self._conversation,
            ("DELETE", "/v1/conversations/{id}"): self._delete_conversation,
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
            ("POST", "/admin/cache/explain"): self._admin_cache_explain,
            ("GET", "/admin/budgets"): self._admin_budgets,
            ("GET", "/admin/cost"): self._admin_cost,
            ("GET", "/admin/keys"): self._admin_keys,
            ("GET", "/admin/keys/{id}"): self._admin_key,
            ("GET", "/admin/audit"): self._admin_audit,
        }
        self._changes: dict[tuple[str, str], tuple[str, Change]] = {
            ("POST", "/admin/keys"): ("key.create", self._create_key),
            ("POST", "/admin/keys/{id}/revoke"): ("key.revoke", self._revoke_key),
            ("POST", "/admin/keys/{id}/rotate"): ("key.rotate", self._rotate_key),
            ("DELETE", "/admin/cache"): ("cache.purge", self._admin_cache_purge),
        }
        answered = {*self._endpoints, *self._changes, *(("POST", path) for path in chats)}
        missing = [f"{row.method} {row.path}" for row in rows if (row.method, row.path) not in answered]
        assert not missing, f"nothing answers {missing}"

    def _busy(self) -> int:
        return self.busy()

    def __call__(self, exchange: Exchange) -> Awaitable[None]:
        chat = self._chats.get(exchange.path) if exchange.method == "POST" else None
        return self._other(exchange) if chat is None else self.answering(exchange, *chat)

    async def _other(self, exchange: Exchange) -> None:
        request_id = self.engine.new_id()
        try:
            row, argument = self.routes.find(exchange.method, exchange.path)
            if (change := self._changes.get((row.method, row.path))) is not None:
                await self._change(exchange, row, argument, request_id, *change)
                return
            identity = None
            if row.roles is not None:
                identity = await self.keyring.admit(exchange.headers, row.roles)
            await self._endpoints[row.method, row.path](exchange, identity, argument)
        except HeadraceError as error:
            self._refuse(exchange, error, request_id)
        except (asyncio.CancelledError, ConnectionResetError):
            raise
        except Exception:
            logger.exception("%s %r failed in Headrace itself", exchange.method, exchange.path)
            if exchange.started:
                raise
            self._refuse(exchange, HeadraceError("internal error; the log has the details"), request_id)

    async def _change(
        self,
        exchange: Exchange,
        row: RouteNote,
        argument: str,
        request_id: str,
        action: str,
        change: Change,
    ) -> None:
        """Change something for a key that may, and log what it tried also when it may not or it cannot be."""
        identity = await self.keyring.identify(exchange.headers)
        by, subject = Actor(identity.key_id, request_id), shown(argument)
        try:
            admit(identity, row.roles or frozenset())
            await change(exchange, identity, argument, by)
            logger.info("%s %s by %s in %s", action, subject, by.name, request_id)
        except Exception as error:
            result = error.kind if isinstance(error, HeadraceError) else HeadraceError.kind
            said = by.did(action, subject, self.engine.clock.wall(), result=result)
            try:
                await self.engine.store.add_audit(said)
            except StoreError:
                logger.exception("%s, and the audit log cannot be written", said)
            raise

    def _dialect(self, path: str) -> Dialect:
        return self._anthropic if path.startswith("/v1/messages") else self._openai

    def _refuse(self, exchange: Exchange, error: HeadraceError, request_id: str) -> None:
        status = error.http_status
        dialect = self._anthropic if _speaks_anthropic(exchange) else self._dialect(exchange.path)
        body = dialect.encode_error(
            error.kind, error.message, status=status, request_id=request_id, param=error.param
        )
        headers = f"x-request-id: {request_id}\r\n".encode()
        exchange.respond(status, JSON_TYPE + headers + error_headers(error), body)

    def unreadable(self, path: str, status: int, message: str) -> bytes:
        """The body for a request that the server could not read, in the dialect of its path."""
        error: HeadraceError = InvalidRequest(message) if status in (400, 408) else BodyTooLarge(message)
        return self._dialect(path).encode_error(
            error.kind, message, status=status, request_id=self.engine.new_id()
        )

    # --- endpoints ----------------------------------------------------------------------------------------------------

    async def _count_tokens(self, exchange: Exchange, identity: Identity | None, _: str) -> None:
        assert identity is not None
        tokens, headers = await count_tokens(self.engine, self._anthropic, exchange, identity.allowed)
        exchange.respond(200, JSON_TYPE + headers, _encode({"input_tokens": tokens}))

    async def _models(self, exchange: Exchange, identity: Identity | None, _: str) -> None:
        assert identity is not None
        make = models.anthropic_list if _speaks_anthropic(exchange) else models.openai_list
        _json(exchange, make(self.engine, identity.allowed))

    async def _model(self, exchange: Exchange, identity: Identity | None, name: str) -> None:
        assert identity is not None
        route = self.engine.route(name, "anthropic" if _speaks_anthropic(exchange) else "openai-chat")
        require(identity.allowed, route.name)
        make = models.anthropic_one if _speaks_anthropic(exchange) else models.openai_one
        _json(exchange, make(self.engine, name))

    async def _request(self, exchange: Exchange, identity: Identity | None, request_id: str) -> None:
        assert identity is not None
        found = await self.engine.store.request(request_id, identity.terms.tenant)
        if found is None:
            raise NotFound(f"this key's tenant has no request {request_id[:100]!r}")
        _json(exchange, admin.request_report(found))

    async def _conversation(self, exchange: Exchange, identity: Identity | None, id_: str) -> None:
        assert identity is not None
        _json(exchange, await self.answering.conversations.report(identity.terms.tenant, id_))

    async def _delete_conversation(self, exchange: Exchange, identity: Identity | None, id_: str) -> None:
        assert identity is not None
        _json(exchange, await self.answering.conversations.delete(identity.terms.tenant, id_))

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
            raise NotFound(f"there is no request {request_id[:100]!r}")
        _json(exchange, admin.request_report(found))

    async def _admin_budgets(self, exchange: Exchange, identity: Identity | None, _: str) -> None:
        found = await self.engine.store.balances(self.engine.clock.wall())
        _json(exchange, {"budgets": [admin.budget_report(balance) for balance in found]})

    async def _admin_cost(self, exchange: Exchange, identity: Identity | None, _: str) -> None:
        made, as_csv = await admin.cost_of(self.engine, exchange.query)
        if as_csv:
            exchange.respond(200, b"content-type: text/csv; charset=utf-8\r\n", to_csv(made).encode())
        else:
            _json(exchange, made)

    async def _admin_cache(self, exchange: Exchange, identity: Identity | None, _: str) -> None:
        _json(exchange, kept.report(self.engine))

    async def _admin_cache_purge(self, exchange: Exchange, identity: Identity, _: str, by: Actor) -> None:
        selection = kept.selected(self.engine, exchange.query)
        gone = kept.purged(self.engine, selection)
        said = by.did(
            "cache.purge", selection.described, self.engine.clock.wall(), f"{gone['purged']} entries"
        )
        await self.engine.store.add_audit(said)
        _changed(exchange, gone, by)

    async def _admin_cache_explain(self, exchange: Exchange, identity: Identity | None, _: str) -> None:
        _json(exchange, kept.explained(self.engine, exchange.body))

    # --- keys ---------------------------------------------------------------------------------------------------------

    async def _admin_keys(self, exchange: Exchange, identity: Identity | None, _: str) -> None:
        _json(exchange, await self._keys.listed())

    async def _admin_key(self, exchange: Exchange, identity: Identity | None, word: str) -> None:
        _json(exchange, await self._keys.one(word))

    async def _admin_audit(self, exchange: Exchange, identity: Identity | None, _: str) -> None:
        _json(exchange, await self._keys.audit(exchange))

    async def _create_key(self, exchange: Exchange, identity: Identity, _: str, by: Actor) -> None:
        _changed(exchange, await self._keys.create(exchange, identity, by), by)

    async def _rotate_key(self, exchange: Exchange, identity: Identity, word: str, by: Actor) -> None:
        _changed(exchange, await self._keys.rotate(exchange, identity, word, by), by)

    async def _revoke_key(self, exchange: Exchange, identity: Identity, word: str, by: Actor) -> None:
        _changed(exchange, await self._keys.revoke(identity, word, by), by)


def _json(exchange: Exchange, value: Any) -> None:
    exchange.respond(200, JSON_TYPE, _encode(value))


def _changed(exchange: Exchange, value: Any, by: Actor) -> None:
    """The answer to a change; it may hold a key, so nobody on the way is to keep it."""
    headers = f"cache-control: no-store\r\nx-request-id: {by.request_id}\r\n".encode()
    exchange.respond(200, JSON_TYPE + headers, _encode(value))


def _speaks_anthropic(exchange: Exchange) -> bool:
    return "anthropic-version" in exchange.headers or exchange.path.startswith("/v1/messages")
