"""Builds the one stack that both faces run, and owns what its requests share: providers, transport, store, catalogue.

`LAYERS` is the default order with its reasons; the stack is built from it and `headrace stack` prints it.
"""

from __future__ import annotations

import asyncio
import random
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import msgspec

from headrace import dialects
from headrace.budget import Account, Caps, OpenAccount, Purse, Reserve, bound
from headrace.call import Attempt, Call, Nanodollars
from headrace.clock import Clock, SystemClock
from headrace.context import Context, Library
from headrace.context.plan import Plan
from headrace.context.recall import shipped
from headrace.errors import (
    CredentialsMissing,
    HeadraceError,
    InvalidRequest,
    StoreError,
    UnknownModel,
    Unsupported,
)
from headrace.handler import (
    Body,
    Dialect,
    GuardPolicy,
    Handler,
    Layer,
    Pending,
    Request,
    Route,
    Stream,
    collect,
    stack,
)
from headrace.layers.balance import Balance
from headrace.layers.breaker import Breaker
from headrace.layers.cascade import Cascade
from headrace.layers.choose import Choose
from headrace.layers.concurrency import Concurrency
from headrace.layers.continuation import ContinueStreams, GoOn
from headrace.layers.deadline import Deadline
from headrace.layers.fitness import Misfit, misfit
from headrace.layers.hold import Hold
from headrace.layers.idempotency import Idempotency
from headrace.layers.identity import identity
from headrace.layers.ledger import Ledger
from headrace.layers.output import Output
from headrace.layers.ratelimit import RateLimit
from headrace.layers.restart import RestartStreams
from headrace.layers.retry import Retry
from headrace.layers.timeout import Timeout
from headrace.layers.trace import Trace
from headrace.layers.whole_calls import WholeCalls
from headrace.output import Means
from headrace.prices import Catalog, Model
from headrace.providers.transport import HTTPTransport, Origin, ProxyRules, Transport
from headrace.providers.upstream import Endpoint, Upstream
from headrace.store import MemoryStore, Store
from headrace.types import Chat, Deployment, Message, Reply, Target, Text, Usage

if TYPE_CHECKING:
    from headrace.cache.layer import Cache
    from headrace.cache.stores.sqlite import SQLiteEntries
    from headrace.config import ProviderSettings, Settings
    from headrace.guards import Judge, Judgement
    from headrace.guards.judge import Side
    from headrace.layers.guard import Guard
    from headrace.local import LocalModel

__all__ = ["EMBEDDINGS", "LAYERS", "Engine", "LayerNote", "Levels", "as_route"]

_chance = random.SystemRandom()

EMBEDDINGS = "openai-embeddings"

DIRECT_ATTEMPTS = 3
"""Attempts at a model that was asked for by its own name: what both official SDKs make of theirs (one and two retries)."""

JUDGEMENT_TOKENS = 64
"""What a judge may say: a word, and a line with the reason."""

JUDGEMENT_S = 30.0
"""Seconds that it may take, within the deadline of the request."""

Levels: TypeAlias = str | Sequence[str | tuple[str, int]]
"""A route's name, `provider/model`, or a cascade: a list of `provider/model`, each with its attempts where they matter."""


@dataclass(frozen=True, slots=True)
class LayerNote:
    """A layer's name and why it stands where it stands."""

    name: str
    reason: str


LAYERS: tuple[LayerNote, ...] = (
    LayerNote("trace", "sees refusals too; counts the logical call once and every attempt under it"),
    LayerNote("deadline", "stamps the time after which the caller no longer cares, before anything can wait"),
    LayerNote("identity", "a key that may not use this route is told so before any work"),
    LayerNote(
        "idempotency",
        "a repeated key costs nothing below, not even of a rate limit; its scope is the key that identity let pass",
    ),
    LayerNote("ratelimit", "a cheap refusal before any work; above the cache, whose hits are requests too"),
    LayerNote(
        "choose",
        "another route by the rules of the one that was asked for; below what the key may ask for, above all that a route decides",
    ),
    LayerNote(
        "guard",
        "exchanges what must not leave for placeholders, so that nothing below has it; puts it back in the answer",
    ),
    LayerNote(
        "cache",
        "keyed on the caller's request and tenant, before anything model-specific changes it; a hit costs nothing below",
    ),
    LayerNote(
        "budget", "opens the request's account under every budget that holds; below what costs nothing"
    ),
    LayerNote(
        "restart", "asks the rest of the cascade for an answer that broke off, where the route says so"
    ),
    LayerNote("continuation", "asks the rest of the cascade for the rest of a text, where the route says so"),
    LayerNote(
        "cascade", "the next target; needs to see what retry gave up on; skips targets that lack a feature"
    ),
    LayerNote(
        "output",
        "holds an answer until it has its form; below the cascade, which goes on when it never has, above what its re-ask needs",
    ),
    LayerNote(
        "context", "packs for the window of this target; below the cascade, which goes on where it cannot"
    ),
    LayerNote(
        "seam",
        "puts a text that broke off into the request as this target takes it; below the cascade, which goes on where its words do not fit",
    ),
    LayerNote("retry", "the same target again; below the cascade, so that each level has its own attempts"),
    LayerNote("ledger", "one row an attempt, priced at its real end, whatever the layers above make of it"),
    LayerNote(
        "balance",
        "picks a deployment of the target; below retry, so that a retry may pick another, above the breaker, which counts each",
    ),
    LayerNote(
        "breaker",
        "counts every attempt's end, streams at their real end; below retry, so that each attempt asks",
    ),
    LayerNote(
        "concurrency",
        "as many requests at a time as a deployment may have; below the breaker, which a full house does not concern",
    ),
    LayerNote("reserve", "each attempt's own worst case, just before it is sent; settled at its real end"),
    LayerNote(
        "hold",
        "keeps a stream's beginning back where the route says so; below retry, which makes good a death in it",
    ),
    LayerNote(
        "whole_calls",
        "keeps tool calls back until they are whole where the route says so; below retry, which makes good a death in the first",
    ),
    LayerNote("timeout", "above the provider, so that silence ends the attempt and is booked as one"),
    LayerNote("provider", "dialect and transport; returns at the first content"),
)


class Engine:
    """The stack with what it needs, for one event loop.

    Args:
        settings: See `headrace.config`.
        clock, random, new_id: Time, chance (uniform on [0, 1)) and request ids.
        transport, store: In place of the real ones.
        judges: By the names that `judge` of a route's guard gives them.

    Raises:
        StoreError: The store named by the settings cannot be opened.
        ConfigError: A price override is not a decimal, or a document of a route cannot be read.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        clock: Clock | None = None,
        random: Callable[[], float] = _chance.random,
        new_id: Callable[[], str] | None = None,
        transport: Transport | None = None,
        store: Store | None = None,
        judges: Mapping[str, Judge] | None = None,
    ) -> None:
        self.settings = settings
        self.clock: Clock = clock if clock is not None else SystemClock()
        self.new_id = new_id if new_id is not None else self._next_id
        self.catalog = Catalog.from_settings(settings.prices, wall=self.clock.wall)
        self.store: Store = store if store is not None else _open_store(settings)
        self.transport: Transport = (
            transport if transport is not None else _open_transport(settings, self.clock)
        )
        self.purse = Purse(self.store, self.clock)
        self.trace = Trace()
        self.breaker = Breaker(self.clock)
        self.cache: Cache | None = None
        self.guard: Guard | None = None
        self._entries: SQLiteEntries | None = None
        self.local: LocalModel | None = None
        self._upstreams: dict[str, Upstream] = {}
        self._embedders: dict[str, Upstream] = {}
        self._routes: dict[tuple[str, str], Route] = {}
        budgets = settings.budgets
        self._caps = Caps(budgets.total, budgets.users, budgets.teams, budgets.tags)
        self._balances: tuple[float, dict[str, int]] = (float("-inf"), {})
        libraries = self._libraries()
        packs = any(route.context is not None for route in settings.routes.values())
        self.context = Context(
            self.limits,
            libraries,
            self.aside,
            likeness=shipped() if packs else None,
            plans=None if settings.store.path is None else self.store,
        )
        self.concurrency = concurrency = Concurrency(self.clock)
        balance = Balance(
            self._deployments(),
            lambda target, place: concurrency.full(place) or self.breaker.shut(target, place),
            random,
        )
        self.idempotency = Idempotency(
            self.clock,
            self.store,
            retention_s=settings.idempotency.retention_s,
            max_bytes=settings.idempotency.max_bytes,
            route=self.route,
        )
        continues = any(route.mid_stream == "continue" for route in settings.routes.values())
        layers: dict[str, Layer] = {
            "trace": self.trace,
            "deadline": Deadline(self.clock),
            "identity": identity,
            "idempotency": self.idempotency,
            "ratelimit": self._rate_limit(),
            "choose": Choose(self.clock, self.route, self._budget_left),
            "guard": self._guard(judges or {}),
            "cache": self._cache(random, libraries),
            "budget": OpenAccount(self._caps, self.purse),
            "restart": RestartStreams(self.clock),
            "continuation": ContinueStreams(self.clock) if continues else _nothing,
            "cascade": Cascade(self.clock, self._misfit, self._translated, self.store.record_attempt),
            "output": Output(self.clock, self._means),
            "context": self.context,
            "seam": GoOn(self.clock, self._prefill) if continues else _nothing,
            "retry": Retry(self.clock, random, elsewhere=balance.elsewhere),
            "ledger": Ledger(self.catalog.cost, self.store.record_attempt, self._bound),
            "reserve": Reserve(self.clock, self.catalog.model, self.store.record_start),
            "balance": balance,
            "concurrency": concurrency if self._limited() else lambda inner: inner,
            "breaker": self.breaker,
            "hold": Hold(self.clock),
            "whole_calls": WholeCalls(self.clock),
            "timeout": Timeout(self.clock),
        }
        assert len(layers) == len(LAYERS) - 1, "every layer has its row in LAYERS"
        self.handle: Handler = stack(*(layers[note.name] for note in LAYERS[:-1]), handler=self._dispatch)

    async def __call__(self, request: Request) -> Stream:
        return await self.handle(request)

    async def aclose(self) -> None:
        """Close connections, end the embedded model's process, write what is queued. Idempotent."""
        await self.idempotency.aclose()
        await self.context.aclose()
        if self.local is not None:
            await self.local.aclose()
        if self.cache is not None:
            await self.cache.aclose()
        await self.transport.aclose()
        await self.purse.aclose()
        await self.store.aclose()
        if self._entries is not None:
            await asyncio.to_thread(self._entries.close)

    def _rate_limit(self) -> RateLimit:
        settings = self.settings
        workers = settings.gateway.workers
        shared = self.store if workers > 1 and settings.store.path is not None else None
        return RateLimit(self.clock, settings.user_limits, shared, workers)

    def _guard(self, judges: Mapping[str, Judge]) -> Layer:
        """The guard, where the settings have one; without, nothing stands there."""
        routes = self.settings.routes.values()
        if self.settings.guard is None and all(route.guard is None for route in routes):
            return lambda inner: inner
        from headrace.layers.guard import Guard  # its patterns take a while, and most users never need them

        self.guard = Guard(self.clock, judges, self._judge)
        return self.guard

    async def _judge(self, name: str, side: Side, text: str, request: Request) -> Judgement:
        """The opinion of the route `name` on a text, in a call of its own that the same budgets pay for."""
        from headrace.guards.judge import question, read_judgement

        system, said = question(str(self.route(name).cascade[0]), side, text)
        asked = [Message(role="system", content=(Text(text=system),))] if system else []
        asked.append(Message(role="user", content=(Text(text=said),)))
        chat = Chat(model="", messages=tuple(asked), max_tokens=JUDGEMENT_TOKENS, temperature=0.0)
        reply = await self.aside(request, name, chat, purpose="guard", timeout_s=JUDGEMENT_S)
        return read_judgement(reply.text)

    async def _budget_left(self, request: Request) -> float | None:
        """What share of the request's tightest budget is left, as the store had it at most a second ago; None where none holds. Nothing, where the
        store cannot say."""
        caps = self._caps.of(request)
        if not caps:
            return None
        now = self.clock.now()
        if now - self._balances[0] >= 1.0:
            try:
                found = await self.store.balances(self.clock.wall())
            except StoreError:
                return 0.0
            self._balances = now, {balance.cap: balance.spent for balance in found}
        spent = self._balances[1]
        return min(
            1.0 - spent.get(cap.id, 0) / cap.budget.amount if cap.budget.amount else 0.0 for cap in caps
        )

    def _cache(self, random: Callable[[], float], libraries: Mapping[str, Library]) -> Layer:
        """The cache, where a route has one; without, nothing stands there."""
        if all(route.cache is None for route in self.settings.routes.values()):
            return lambda inner: inner
        from headrace.cache.setup import open_cache  # most users never need it

        self.cache, self._entries = open_cache(
            self.settings,
            self.clock,
            random,
            documents={name: library.version for name, library in libraries.items()},
            resolve=self.route,
        )
        return self.cache

    # --- calls and routes ---------------------------------------------------------------------------------------------

    def new_call(
        self, *, dialect: str = "", model: str = "", stream: bool = False, request_id: str | None = None
    ) -> Call:
        """The record of a request that begins now."""
        return Call(
            id=request_id or self.new_id(),
            started_at=self.clock.now(),
            started_wall=self.clock.wall(),
            dialect=dialect,
            model=model,
            stream=stream,
            on_end=[self._record_call],
        )

    async def aside(
        self, request: Request, model: str, chat: Chat, *, purpose: str, timeout_s: float
    ) -> Reply:
        """Ask `model` (a route or provider/model) something of our own on behalf of `request`: a call with a record of its own, in the
        name of the same caller and under the same budgets.

        Raises:
            HeadraceError: It was not answered.
        """
        call = self.new_call(model=model)
        of = request.call
        call.purpose, call.key_id, call.tenant, call.user = purpose, of.key_id, of.tenant, of.user
        call.team, call.tags, call.route = of.team, {**of.tags, "for": of.id}, model
        route = self.route(model)
        account = request.account
        asked = Request(
            body=Body(chat=chat),
            route=route,
            call=call,
            stream=False,
            wants_usage=True,
            max_tokens=route.output_limit(chat.max_tokens),
            budgets=request.budgets,
            aside_of=(request.route, *request.aside_of),
            # The account has the pot of the request's own limit; before there is one, the limit itself holds.
            pots=account.pots if isinstance(account, Account) else request.pots,
            max_cost=None if isinstance(account, Account) else request.max_cost,
            max_total_tokens=None if isinstance(account, Account) else request.max_total_tokens,
            timeout_s=timeout_s,
        )
        try:
            reply = await collect(await self.handle(asked))
        except HeadraceError as error:
            call.end(error.http_status, self.clock.now())
            raise
        except BaseException:
            call.end(499, self.clock.now())
            raise
        call.end(200, self.clock.now())
        return reply

    def _next_id(self) -> str:
        """Milliseconds, then 56 random bits: ids of one time stand together in the store's indexes."""
        return f"req_{int(self.clock.wall() * 1000):011x}{secrets.token_hex(7)}"

    def _bound(self, request: Request) -> Nanodollars | None:
        """The most that the request's attempt can cost; None without a price, a limit, or a body that can be read."""
        assert request.target is not None
        try:
            return bound(request, self.catalog.model(request.target.provider, request.target.model))[1].cost
        except InvalidRequest:
            return None

    def _packed(self, plan: Plan, attempt: Attempt) -> Nanodollars | None:
        """What the tokens would have cost that packing left out; None where it left none out, or nobody knows."""
        less, usage = plan.left_out, attempt.usage
        if less <= 0 or usage is None or not plan.tokens:
            return None
        # The plan counts with care; what the provider counted for the rest says how much.
        counted = less * min(1.0, usage.input_tokens / plan.tokens)
        target = attempt.target
        return self.catalog.cost(target.provider, target.model, Usage(input_tokens=round(counted)))

    def _record_call(self, call: Call) -> None:
        if isinstance(call.plan, Plan) and call.answering is not None:
            call.packed = self._packed(call.plan, call.answering)
        self.store.record_call(call)

    def route(self, model: str, dialect: str = "") -> Route:
        """What `model` means: a route of the settings, `provider/model`, a comma-separated cascade of them, or the bare name of
        a model of the provider that speaks `dialect`.

        Raises:
            UnknownModel: None of these; the message lists what there is.
        """
        key = (model, dialect)
        route = self._routes.get(key)
        if route is None:
            route = self._resolve(model, dialect)
            if dialect == EMBEDDINGS:  # nothing to pack, to judge or to stream
                route = msgspec.structs.replace(
                    route, context=None, repair=False, mid_stream="error", rules=()
                )
            if route.guard is None and self.settings.guard is not None:
                route = msgspec.structs.replace(route, guard=self.settings.guard)
            if len(self._routes) >= 4096:
                self._routes.clear()
            self._routes[key] = route
        return route

    def _resolve(self, model: str, dialect: str) -> Route:
        settings = self.settings
        if (route := settings.routes.get(model)) is not None:
            return route
        if "," in model:
            return self.levels([part.strip() for part in model.split(",")], dialect)
        provider, slash, name = model.partition("/")
        if slash and name and provider in settings.providers:
            return Route(name=model, cascade=(Target(provider, name, DIRECT_ATTEMPTS),))
        if slash and provider == "local" and name:
            return Route(name=model, cascade=(Target(provider, name, 1),))
        usual = settings.providers.get(
            {"openai-chat": "openai", "anthropic": "anthropic", EMBEDDINGS: "openai"}.get(dialect, "")
        )
        if model and not slash and usual is not None and usual.usable:
            return Route(name=f"{usual.name}/{model}", cascade=(Target(usual.name, model, DIRECT_ATTEMPTS),))
        default = settings.default_route
        keyless = not any(provider.usable for provider in settings.providers.values())
        # A client of the gateway asks for the model that it was written for, and is to work without any key.
        if default is not None and not slash and (model in ("", "default") or (keyless and dialect)):
            return default
        known = [
            *sorted(settings.routes),
            *(f"{name}/..." for name in sorted(settings.providers)),
            "local/...",
        ]
        from headrace.config import known_providers  # of a request that fails

        service = known_providers().get(provider) if slash else None
        if service is not None and service.keys:
            raise UnknownModel(f"{model!r} cannot be asked: {provider} has no key. Set {service.keys[0][0]}")
        raise UnknownModel(
            f"{model!r} is neither a route nor provider/model here; there is: {', '.join(known)}"
        )

    def levels(self, levels: Levels, dialect: str = "") -> Route:
        """A cascade made on the spot: `["openai/gpt-4o", ("anthropic/claude-3-haiku-20240307", 5)]`.

        Raises:
            UnknownModel: A level is not known.
            ValueError: No level, or attempts below 1.
        """
        return as_route(levels, lambda model: self.route(model, dialect))

    # --- providers ----------------------------------------------------------------------------------------------------

    def _dispatch(self, request: Request) -> Pending:
        assert request.target is not None
        place = request.target.provider if request.deployment is None else request.deployment.name
        embeds = request.call.dialect == EMBEDDINGS
        return (self._embedder(place) if embeds else self.upstream(place))(request)

    def upstream(self, provider: str) -> Upstream:
        """The handler for one provider or deployment of the settings, made at first use."""
        upstream = self._upstreams.get(provider)
        if upstream is None:
            upstream = self._upstreams[provider] = self._connect(provider)
        return upstream

    def _embedder(self, provider: str) -> Upstream:
        """The handler for a provider's embeddings, beside the one for its chats."""
        upstream = self._embedders.get(provider)
        if upstream is None:
            dialect = dialects.by_name(EMBEDDINGS)
            upstream = self._embedders[provider] = self._remote(provider, dialect)
        return upstream

    def _connect(self, provider: str) -> Upstream:
        if provider == "local":
            return self._connect_local()
        return self._remote(provider, dialects.by_name(self._reached(provider).dialect))

    def _reached(self, place: str) -> ProviderSettings:
        """How a provider or a deployment is reached."""
        deployment = self.settings.deployments.get(place)
        return self.settings.providers[place] if deployment is None else deployment.provider

    def _deployments(self) -> dict[tuple[str, str], list[Deployment]]:
        """The places of each target that has some."""
        found: dict[tuple[str, str], list[Deployment]] = {}
        for place in (settings.deployment for settings in self.settings.deployments.values()):
            found.setdefault((place.provider, place.model), []).append(place)
        return found

    def _limited(self) -> bool:
        """Whether some deployment has a limit on its requests at a time."""
        return any(place.deployment.concurrency for place in self.settings.deployments.values())

    def _elsewhere(self, target: Target) -> bool:
        """Whether a deployment of the target has a key, or needs none."""
        return any(
            place.provider.usable
            for place in self.settings.deployments.values()
            if (place.deployment.provider, place.deployment.model) == (target.provider, target.model)
        )

    def _remote(self, provider: str, dialect: Dialect) -> Upstream:
        endpoint = _endpoint(self._reached(provider), dialect)

        async def fixed() -> Endpoint:
            return endpoint

        return Upstream(provider, dialect, fixed, self.transport, self.clock)

    def _connect_local(self) -> Upstream:
        from headrace.local import LocalModel  # brings subprocess; most users never need it

        local = self.settings.local
        self.local = model = LocalModel(
            local.model,
            cache_dir=local.cache_dir,
            threads=local.threads,
            context=local.context,
            parallel=local.parallel,
            clock=self.clock,
        )
        dialect = dialects.by_name("openai-chat")

        async def started() -> Endpoint:
            url, key = await model.base_url()
            origin, prefix = Origin.of(f"{url}/v1")
            return Endpoint(
                origin=origin,
                path=prefix + dialect.path,
                headers=(("content-type", "application/json"), ("authorization", f"Bearer {key}")),
            )

        return Upstream("local", dialect, started, self.transport, self.clock, always_stream=True)

    def limits(self, provider: str, model: str) -> Model | None:
        """What the catalogue knows of a model; the embedded one's window is a setting."""
        if provider == "local":
            window = self.settings.local.context
            return Model(provider=provider, id=model, context_total=window, tools=False, images=False)
        return self.catalog.model(provider, model)

    def _libraries(self) -> dict[str, Library]:
        """The documents of every route that has some."""
        return {
            name: Library.read(route.context.document_paths, likeness=shipped())
            for name, route in self.settings.routes.items()
            if route.context is not None and route.context.document_paths
        }

    def _means(self, target: Target) -> Means:
        model = self.catalog.model(target.provider, target.model)
        return Means(
            dialect=self.upstream(target.provider).dialect.name,
            json_schema=None if model is None else model.json_schema,
            tools=None if model is None else model.tools,
            local=target.provider == "local",
        )

    def _prefill(self, target: Target, request: Request) -> dict[str, msgspec.Raw] | None:
        """What a message must have beside its text for the target to go on from it; None where it takes no prefill, or may not."""
        model = self.limits(target.provider, target.model)
        if model is None or not model.prefill or target.provider == "local":
            return None
        reasoning = request.body.chat.reasoning
        if reasoning is not None and reasoning.enabled:
            return None  # no API takes both
        if target.provider == "mistral":
            return {"prefix": msgspec.Raw(b"true")}
        # What the catalogue says of other OpenAI-compatible APIs needs another URL, or holds with some servers only.
        named = self.settings.prices.get(str(target), {}).get("prefill") is True
        return {} if named or self._reached(target.provider).dialect == "anthropic" else None

    def _misfit(self, target: Target, request: Request) -> Misfit | None:
        provider = self.settings.providers.get(target.provider)
        if provider is not None and provider.public and not provider.usable and not self._elsewhere(target):
            fix = f"set {provider.key_variable}" if provider.key_variable else "give it an api_key"
            said = f"no key is configured for {target.provider}: {fix}"
            return Misfit(CredentialsMissing(said, target=str(target)), certain=True)
        if request.call.dialect == EMBEDDINGS:
            return self._cannot_embed(target, request)
        model = self.limits(target.provider, target.model)
        return None if model is None or request.call.dialect == EMBEDDINGS else misfit(target, request, model)

    def _cannot_embed(self, target: Target, request: Request) -> Misfit | None:
        """Only OpenAI's API has embeddings, and vectors of two models are not to be compared."""
        provider, first = self.settings.providers.get(target.provider), request.route.cascade[0]
        if provider is None or provider.dialect != "openai-chat":
            said = f"{target.provider} has no embeddings"
        elif target.model.rpartition("/")[2] != first.model.rpartition("/")[2]:
            said = f"its vectors are not those of {first}"
        else:
            return None
        return Misfit(Unsupported(said), certain=True)

    def _translated(self, target: Target, request: Request) -> bool:
        dialect: Dialect | None = request.body.dialect
        if request.call.dialect == EMBEDDINGS:
            return False
        return dialect is not None and self.upstream(target.provider).dialect is not dialect


def _nothing(inner: Handler) -> Handler:
    """In place of a layer that no route needs."""
    return inner


def as_route(levels: Levels, resolve: Callable[[str], Route]) -> Route:
    """`levels` as one route; `resolve` knows the names. The rules (deadline, waits) of a single named route are kept; of several,
    only the guard of the first that has one, the budgets and limits of all, and of what one request may use (money, tokens, output) and of
    what may be kept the least that one of them says."""
    if isinstance(levels, str):
        return resolve(levels)
    if not isinstance(levels, Sequence):
        raise TypeError(
            f"a model is a route, provider/model, or a list of them, not {type(levels).__name__}: {levels!r:.80}"
        )
    if not levels:
        raise ValueError("a cascade needs at least one level")
    targets: list[Target] = []
    names: list[str] = []
    named: list[Route] = []
    guard: GuardPolicy | None = None
    for level in levels:
        model, attempts = (level, None) if isinstance(level, str) else level
        if attempts is not None and attempts < 1:
            raise ValueError(f"attempts of {model!r} must be 1 or more, not {attempts!r}")
        route = resolve(model)
        named.append(route)
        names.append(route.name)
        guard = guard or route.guard
        targets += (
            route.cascade
            if attempts is None
            else (msgspec.structs.replace(t, attempts=attempts) for t in route.cascade)
        )
    return Route(
        name=",".join(names),
        cascade=tuple(targets),
        guard=guard,
        parts=tuple(route for route in named if route.budgets or route.limits is not None),
        max_cost=_least(route.max_cost for route in named),
        max_total_tokens=_least(route.max_total_tokens for route in named),
        max_output_tokens=_least(route.max_output_tokens for route in named),
        retention_s=min(route.retention_s for route in named),
        stores_content=all(route.stores_content for route in named),
    )


def _least(caps: Iterable[int | None]) -> int | None:
    """The smallest of the caps that are set, None where none is."""
    return min((cap for cap in caps if cap is not None), default=None)


def _endpoint(settings: ProviderSettings, dialect: Dialect) -> Endpoint:
    origin, prefix = Origin.of(settings.base_url)
    headers: list[tuple[str, str]] = [("content-type", "application/json")]
    if settings.api_key is not None:
        key = settings.api_key.reveal()
        if settings.auth == "x-api-key":
            headers.append(("x-api-key", key))
        elif settings.auth == "bearer":
            headers.append(("authorization", f"Bearer {key}"))
    return Endpoint(
        origin=origin, path=prefix.rstrip("/") + dialect.path, headers=(*headers, *settings.headers)
    )


def _open_transport(settings: Settings, clock: Clock) -> Transport:
    return HTTPTransport(
        clock=clock,
        proxies=ProxyRules.from_environ(settings.proxy_environ),
        ca_file=None if settings.ca_file is None else str(settings.ca_file),
    )


def _open_store(settings: Settings) -> Store:
    if settings.store.path is None:
        return MemoryStore()
    from headrace.store.sqlite import SQLiteStore  # the library writes no file unless told

    return SQLiteStore(settings.store.path)
