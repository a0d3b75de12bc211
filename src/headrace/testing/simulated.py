"""`fake`: the whole of Headrace over a provider in memory, in virtual time: the real cascade, and no second is waited."""

from __future__ import annotations

import contextvars
import dataclasses
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, TypeAlias, TypeVar

import msgspec

from headrace import dialects
from headrace.client import AsyncClient
from headrace.clock import Clock, SystemClock
from headrace.config import (
    GatewaySettings,
    LocalSettings,
    ProviderSettings,
    Secret,
    Settings,
    StoreSettings,
    known_providers,
)
from headrace.engine import DIRECT_ATTEMPTS, Engine, Levels
from headrace.errors import UnknownModel
from headrace.handler import Route
from headrace.providers.origin import Origin
from headrace.providers.upstream import Endpoint, Upstream
from headrace.store import MemoryStore
from headrace.sync import Client, Portal
from headrace.testing.answers import Answer
from headrace.testing.clock import ManualClock, VirtualRunner, running_clock
from headrace.testing.faults import Fault
from headrace.testing.memory import MemoryTransport
from headrace.testing.provider import FakeProvider
from headrace.testing.wire import Received
from headrace.types import Target

__all__ = ["Fake", "FakeAsyncClient", "FakeClient", "Said", "Unanswered", "fake"]

R = TypeVar("R")

Said: TypeAlias = "str | Answer | Fault | Mapping[str, object] | Callable[[Received], Answer | Fault]"
"""What becomes of a question: text, an `Answer`, a fault, a mapping (said as JSON), or a function that chooses."""

Answers: TypeAlias = "Mapping[str, Said] | str | Answer | Fault | Callable[[Received], Answer | Fault]"
"""What is said to which question, or one thing to all."""

FAKE = "fake"
"""The provider of every model whose name is no provider's."""


class Unanswered(AssertionError):
    """A question came that the fake has no answer to."""


def fake(
    answers: Answers | None = None,
    *,
    faults: Sequence[Fault] = (),
    settings: Settings | None = None,
) -> Fake:
    """A client whose providers are all in memory: ``with headrace.fake({"capital": "Paris"}) as llm:``.

    Retries, fallbacks, timeouts and budgets are the real ones; their waits take no time. Under ``async with`` time is virtual inside
    `headrace.testing.run`, and real elsewhere.

    Args:
        answers: What is said to a question that contains the key (the first that does; `*` for any other); or one answer to
            all. None: an echo.
        faults: What the first requests get instead, in order, one each.
        settings: Your own, so that your routes are what is tried; their store is not touched, their keys go nowhere, and none is needed. None: any
            name is a model, of its own provider where it names one.

    Raises:
        Unanswered: When it is left, if a question had no answer.
    """
    return Fake(answers, faults, settings)


class Fake:
    """What `fake` gives; enter it with ``with`` or ``async with``."""

    def __init__(self, answers: Answers | None, faults: Sequence[Fault], settings: Settings | None) -> None:
        self._answers = answers
        self._faults = faults
        self._settings = settings
        self._client: FakeClient | None = None
        self._async: FakeAsyncClient | None = None

    def __enter__(self) -> FakeClient:
        clock = ManualClock()
        self._client = FakeClient(self._made(clock), VirtualPortal(clock), clock)
        return self._client

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        assert self._client is not None
        self._client.close()
        _complain(self._client.provider, exc)

    async def __aenter__(self) -> FakeAsyncClient:
        self._async = self._made(running_clock() or SystemClock())
        return self._async

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        assert self._async is not None
        await self._async.aclose()
        _complain(self._async.provider, exc)

    def _made(self, clock: Clock) -> FakeAsyncClient:
        provider = FakeProvider(clock=clock)
        if self._answers is not None:
            provider.default = _chooser(self._answers)
            provider.in_faults = _in_faults(self._answers)
        provider.script(*self._faults)
        return FakeAsyncClient(
            _settings(self._settings), provider, clock, known_only=self._settings is not None
        )


def _complain(provider: FakeProvider, exc: BaseException | None) -> None:
    """A question without an answer is what went wrong, whatever the cascade made of it."""
    if provider.errors:
        raise provider.errors[0] from exc


def _chooser(answers: Answers) -> Callable[[Received], Answer | Fault]:
    rules: Mapping[str, Said] = answers if isinstance(answers, Mapping) else {"*": answers}

    def choose(request: Received) -> Answer | Fault:
        said = _rule(rules, request)
        if said is None:
            raise Unanswered(
                f"the fake has no answer to {request.text!r:.200}; it knows {', '.join(map(repr, rules))}"
            )
        return _outcome(said, request)

    return choose


def _in_faults(answers: Answers) -> Callable[[Received], Answer]:
    """What is being said when a fault strikes; the caller's own functions are not asked for it."""
    rules: Mapping[str, Said] = answers if isinstance(answers, Mapping) else {"*": answers}

    def choose(request: Received) -> Answer:
        said = _rule(rules, request)
        found = None if said is None or callable(said) else _outcome(said, request)
        return found if isinstance(found, Answer) else Answer()

    return choose


def _rule(rules: Mapping[str, Said], request: Received) -> Said | None:
    """The first rule whose key is in the newest user text that has one; `*` for any other."""
    for text in _user_texts(request):
        for key, said in rules.items():
            if key != "*" and key in text:
                return said
    return rules.get("*")


def _user_texts(request: Received) -> Iterator[str]:
    """What the user said, the newest first: a question may be followed by a re-ask, or by results of tools."""
    yield request.text
    for message in reversed(request.json.get("messages", [])):
        if message.get("role") == "user":
            content = message.get("content")
            blocks = content if isinstance(content, list) else [{"text": content}]
            yield "".join(str(block.get("text") or "") for block in blocks)


def _outcome(said: Said, request: Received) -> Answer | Fault:
    match said:
        case str():
            return Answer(said)
        case Answer() | Fault():
            return said
        case Mapping():
            return Answer(msgspec.json.encode(said).decode())
        case _:
            return said(request)


def _settings(own: Settings | None) -> Settings:
    if own is not None:
        providers = {
            name: provider if provider.usable else dataclasses.replace(provider, api_key=Secret("fake"))
            for name, provider in own.providers.items()
        }
        return dataclasses.replace(own, providers=MappingProxyType(providers), store=StoreSettings())
    known = {
        row.name: ProviderSettings(
            name=row.name,
            dialect=row.dialect,
            base_url=row.base_url or "http://fake.invalid/v1",
            api_key=Secret("fake"),
        )
        for row in known_providers().values()
    }
    known[FAKE] = ProviderSettings(
        name=FAKE, dialect="openai-chat", base_url="http://fake.invalid/v1", keyless=True, auth="none"
    )
    return Settings(
        source=None,
        providers=MappingProxyType(known),
        routes={},
        keys={},
        gateway=GatewaySettings(),
        store=StoreSettings(),
        local=LocalSettings(cache_dir=Path()),
        prices={},
        proxy_environ={},
    )


class _FakeEngine(Engine):
    """An engine whose embedded model is the fake provider too: no process is started."""

    def _connect_local(self) -> Upstream:
        async def there() -> Endpoint:
            dialect = dialects.by_name("openai-chat")
            headers = (("content-type", "application/json"),)
            return Endpoint(
                origin=Origin.of("http://local.invalid")[0], path=f"/v1{dialect.path}", headers=headers
            )

        dialect = dialects.by_name("openai-chat")
        return Upstream("local", dialect, there, self.transport, self.clock, always_stream=True)


class FakeAsyncClient(AsyncClient):
    """An `AsyncClient` with its `provider`, which has the requests and takes more outcomes, and its `clock`."""

    def __init__(self, settings: Settings, provider: FakeProvider, clock: Clock, *, known_only: bool) -> None:
        super().__init__(settings)
        self.provider = provider
        self.clock = clock
        self._known_only = known_only
        self._engine = _FakeEngine(
            settings,
            clock=clock,
            random=lambda: 0.5,
            transport=MemoryTransport(provider, clock),
            store=MemoryStore(),
        )

    def _route(self, model: Levels, dialect: str = "") -> Route:
        try:
            return super()._route(model, dialect)
        except UnknownModel:
            if self._known_only or not isinstance(model, str):
                raise
            return Route(name=model, cascade=(Target(FAKE, model, DIRECT_ATTEMPTS),))


class VirtualPortal(Portal):
    """The thread behind `FakeClient`: its loop runs while somebody waits for it, in virtual time."""

    def __init__(self, clock: ManualClock) -> None:
        self._thread_of_one = ThreadPoolExecutor(1, thread_name_prefix="headrace-fake")
        self._runner = VirtualRunner(clock)
        self._closed = False

    def run(self, coroutine: Coroutine[Any, Any, R]) -> R:
        """Run to the end, in the context of who asks, and give its result."""
        return self._thread_of_one.submit(self._runner.run, coroutine, contextvars.copy_context()).result()

    def close(self) -> None:
        """End the thread; idempotent."""
        if not self._closed:
            self._closed = True
            self._thread_of_one.submit(self._runner.close).result()
            self._thread_of_one.shutdown()


class FakeClient(Client):
    """A `Client` with its `provider`, which has the requests and takes more outcomes, and its `clock`, which says how much time
    would have passed."""

    def __init__(self, client: FakeAsyncClient, portal: VirtualPortal, clock: ManualClock) -> None:
        super().__init__()
        self.client = client
        self.provider = client.provider
        self.clock = clock
        self._portal = portal
