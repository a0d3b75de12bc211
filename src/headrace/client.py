"""The library's face: `AsyncClient`, and `Client`, which is the same on a thread of its own.

There is one implementation, the asynchronous one; the synchronous methods are made from it by `_sync` with their types kept, so
the two cannot drift (`docs/adr/0005-sync-policy.md`).
"""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Self, TypeVar

from headrace.call import Attempt, Call, format_usd
from headrace.content import Prompt, as_messages
from headrace.context import Plan
from headrace.engine import Engine, Levels
from headrace.errors import HeadraceError, StreamBroken
from headrace.handler import Body, Request, Route, Stream, assemble, collect, reply_events
from headrace.tokens import estimate_chat
from headrace.types import (
    Block,
    Chat,
    Complete,
    Delta,
    Event,
    FinishReason,
    Reasoning,
    Reply,
    ResponseFormat,
    Tool,
    ToolCall,
    ToolChoice,
    Usage,
)

if TYPE_CHECKING:
    from headrace.config import Settings

__all__ = ["Answer", "AnswerStream", "AsyncClient", "Client", "Estimated", "ModelInfo", "Taken"]

P = ParamSpec("P")
R = TypeVar("R")


class Taken(tuple[Attempt, ...]):
    """The way an answer came: every attempt, in order. `str` gives one line of it."""

    __slots__ = ()

    def __str__(self) -> str:
        def said(attempt: Attempt) -> str:
            what = attempt.error_kind or attempt.outcome
            status = f"{attempt.http} " if attempt.error_kind and attempt.http else ""
            return f"{attempt.target}: {status}{what} ({attempt.duration_s or 0.0:.1f} s)"

        return " -> ".join(said(attempt) for attempt in self)


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer. `str(answer)` is its text."""

    reply: Reply
    call: Call

    @property
    def text(self) -> str:
        """The answer's text."""
        return self.reply.text

    @property
    def thinking(self) -> str:
        """What the model thought, where it says so."""
        return self.reply.thinking

    @property
    def content(self) -> tuple[Block, ...]:
        """All blocks, in order."""
        return self.reply.content

    @property
    def tool_calls(self) -> tuple[ToolCall, ...]:
        """The functions that the model asks for."""
        return self.reply.tool_calls

    @property
    def finish(self) -> FinishReason:
        """Why it stopped; `length` means that it was cut by the output limit."""
        return self.reply.finish

    @property
    def model(self) -> str:
        """Who answered, in the provider's own words."""
        return self.reply.model

    @property
    def usage(self) -> Usage | None:
        """Tokens of the attempt that answered; None if the provider reported none."""
        return self.reply.usage

    @property
    def cost(self) -> int | None:
        """Nano-dollars over all attempts; None if a price is unknown."""
        return self.call.cost

    @property
    def cost_usd(self) -> str:
        """`cost` as exact decimal US dollars, or `unknown`."""
        return format_usd(self.call.cost)

    @property
    def route(self) -> Taken:
        """Who failed, why and for how long, and who answered."""
        return Taken(self.call.attempts)

    @property
    def attempts(self) -> list[Attempt]:
        """Every request to a provider that was made."""
        return self.call.attempts

    @property
    def plan(self) -> Plan | None:
        """What of a long conversation was sent, and why; None where the route does not pack. See docs/context.md."""
        plan = self.call.plan
        return plan if isinstance(plan, Plan) else None

    @property
    def warnings(self) -> list[str]:
        """What could not be carried to the target that answered."""
        return self.call.warnings

    @property
    def id(self) -> str:
        """The request's id, as in the ledger."""
        return self.call.id

    def __str__(self) -> str:
        return self.reply.text


@dataclass(frozen=True, slots=True)
class Estimated:
    """What a request would take at the first target of its route.

    Attributes:
        input_tokens: The likely count.
        input_bound: An upper bound.
        cost_bound: Nano-dollars for `input_bound` and the whole output limit; None when the price or the limit is unknown.
        fits: Whether the bound and the output limit fit the model's window; None when the window is unknown.
    """

    target: str
    input_tokens: int
    input_bound: int
    output_limit: int | None
    cost_bound: int | None
    fits: bool | None


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """A name that `chat` takes."""

    name: str
    context: int | None = None
    max_output: int | None = None


class AnswerStream:
    """An answer as it comes. Iterate for its text; leave early and the provider's connection is closed.

    Use as ``async with client.stream(...) as answer``. A stream that ends without being whole raises `StreamBroken`, with the
    text so far on `received`.
    """

    def __init__(
        self,
        open_stream: Callable[[], Coroutine[Any, Any, tuple[Stream, Call]]],
        end: Callable[[Call, int], None],
    ) -> None:
        self._open = open_stream
        self._end = end
        self._stream: Stream | None = None
        self._call: Call | None = None
        self._events: list[Event] = []
        self._whole = False

    async def __aenter__(self) -> Self:
        self._stream, self._call = await self._open()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Stop and release everything; idempotent."""
        if self._stream is not None:
            await self._stream.aclose()
        if self._call is not None:
            self._end(self._call, 200 if self._whole else 499)

    async def __anext__(self) -> str:
        while True:
            for_text = await self._next_events()
            text = "".join(
                event.text for event in for_text if isinstance(event, Delta) and event.kind == "text"
            )
            if text:
                return text

    def __aiter__(self) -> AsyncIterator[str]:
        return self

    async def events(self) -> AsyncIterator[Event]:
        """Everything: blocks, tool calls, thinking, usage."""
        while True:
            try:
                batch = await self._next_events()
            except StopAsyncIteration:
                return
            for event in batch:
                yield event

    async def _next_events(self) -> list[Event]:
        if self._stream is None or self._call is None:
            raise RuntimeError("a stream is used as 'async with client.stream(...) as answer'")
        try:
            batch = await anext(aiter(self._stream))
        except StopAsyncIteration:
            self._whole = True
            self._end(self._call, 200)
            raise
        except StreamBroken as error:
            error.received = assemble(self._events).text
            self._end(self._call, error.http_status)
            raise
        events: list[Event] = []
        for frame in batch:
            for event in frame.events:
                events += reply_events(event.reply) if isinstance(event, Complete) else [event]
        self._events += events
        return events

    @property
    def final(self) -> Answer:
        """The whole answer, once the stream has ended.

        Raises:
            RuntimeError: It has not.
        """
        if not self._whole or self._call is None:
            raise RuntimeError("the answer is not whole yet: read the stream to its end first")
        return Answer(assemble(self._events), self._call)


class AsyncClient:
    """Asks models through the cascade.

    Args:
        settings: From `headrace.load`; None reads `headrace.toml` and the environment at the first request.
        models: Names of your own for cascades: ``{"fast": ["openai/gpt-5-mini", "gemini/..."]}``.

    Use as ``async with AsyncClient() as llm``, or call `aclose`. One client serves any number of concurrent requests on one
    event loop.
    """

    def __init__(
        self, settings: Settings | None = None, *, models: Mapping[str, Levels] | None = None
    ) -> None:
        self._settings = settings
        self._models = dict(models or {})
        self._engine: Engine | None = None

    @property
    def engine(self) -> Engine:
        """The engine, built at first use. Raises `ConfigError` when the configuration is not usable."""
        if self._engine is None:
            if self._settings is None:
                from headrace import config

                self._settings = config.load()
            self._engine = Engine(self._settings)
        return self._engine

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close connections and write what is queued; idempotent."""
        if self._engine is not None:
            await self._engine.aclose()

    async def chat(
        self,
        model: Levels,
        prompt: Prompt,
        *,
        system: str | None = None,
        max_tokens: int | None = None,
        temperature: float | None = None,
        top_p: float | None = None,
        stop: Sequence[str] = (),
        seed: int | None = None,
        tools: Sequence[Tool] = (),
        tool_choice: ToolChoice | None = None,
        response_format: ResponseFormat | None = None,
        reasoning: Reasoning | None = None,
        timeout: float | None = None,
        user: str | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> Answer:
        """Ask and wait for the whole answer.

        Args:
            model: A route, `provider/model`, or a cascade: a list of them, each alone or with its attempts.
            prompt: Text, parts (text, paths, bytes), or messages.
            timeout: Seconds over all attempts and waits.
            user, tags: For the ledger.

        Raises:
            AllTargetsFailed: Every level is spent.
            ProviderError: A final error that no other level would cure (bad request, content filter).
            RequestError: The request itself is at fault.
        """
        chat = await self._chat(
            prompt,
            system,
            max_tokens,
            temperature,
            top_p,
            stop,
            seed,
            tools,
            tool_choice,
            response_format,
            reasoning,
        )
        stream, call = await self._ask(model, chat, timeout=timeout, user=user, tags=tags, stream=False)
        reply = await collect(stream)
        self._end(call, 200)
        return Answer(reply, call)

    def stream(
        self,
        model: Levels,
        prompt: Prompt,
        *,
        system: str | None = None,
        max_tokens: int | None = None,
        temperature: float | None = None,
        top_p: float | None = None,
        stop: Sequence[str] = (),
        seed: int | None = None,
        tools: Sequence[Tool] = (),
        tool_choice: ToolChoice | None = None,
        response_format: ResponseFormat | None = None,
        reasoning: Reasoning | None = None,
        timeout: float | None = None,
        user: str | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> AnswerStream:
        """As `chat`, answered as it comes; the errors of `chat` are raised on entering."""

        async def open_stream() -> tuple[Stream, Call]:
            chat = await self._chat(
                prompt,
                system,
                max_tokens,
                temperature,
                top_p,
                stop,
                seed,
                tools,
                tool_choice,
                response_format,
                reasoning,
            )
            return await self._ask(model, chat, timeout=timeout, user=user, tags=tags, stream=True)

        return AnswerStream(open_stream, self._end)

    async def models(self) -> list[ModelInfo]:
        """The names that can be asked: own ones, routes, and the catalogue's models of providers whose key is there."""
        engine = self.engine
        named = [ModelInfo(name) for name in (*self._models, *engine.settings.routes)]
        for provider in engine.settings.providers.values():
            if provider.usable:
                for model in engine.catalog.models(provider.name):
                    found = engine.catalog.model(provider.name, model)
                    if found is not None:
                        named.append(
                            ModelInfo(f"{provider.name}/{model}", found.context_total, found.max_output)
                        )
        return [*named, ModelInfo("local/default", engine.settings.local.context)]

    async def estimate(
        self, model: Levels, prompt: Prompt, *, system: str | None = None, max_tokens: int | None = None
    ) -> Estimated:
        """What `chat` with the same arguments would take, without sending anything."""
        chat = await self._chat(prompt, system, max_tokens, None, None, (), None, (), None, None, None)
        target = self._route(model).cascade[0]
        info = self.engine.catalog.model(target.provider, target.model)
        estimate = estimate_chat(chat)
        limit = max_tokens if max_tokens is not None else (info.max_output if info is not None else None)
        cost = fits = None
        if limit is not None:
            usage = Usage(input_tokens=estimate.bound, output_tokens=limit)
            cost = self.engine.catalog.cost(target.provider, target.model, usage)
        if info is not None and info.context_total is not None:
            fits = estimate.bound + (limit or 0) <= info.context_total
        return Estimated(str(target), estimate.likely, estimate.bound, limit, cost, fits)

    # --- inside -------------------------------------------------------------------------------------------------------

    async def _chat(
        self,
        prompt: Prompt,
        system: str | None,
        max_tokens: int | None,
        temperature: float | None,
        top_p: float | None,
        stop: Sequence[str],
        seed: int | None,
        tools: Sequence[Tool],
        tool_choice: ToolChoice | None,
        response_format: ResponseFormat | None,
        reasoning: Reasoning | None,
    ) -> Chat:
        reads_files = not isinstance(prompt, str) and any(isinstance(part, Path) for part in prompt)
        make = functools.partial(as_messages, prompt, system)
        return Chat(
            model="",
            messages=await asyncio.to_thread(make) if reads_files else make(),
            max_tokens=max_tokens,
            temperature=temperature,
            top_p=top_p,
            stop=tuple(stop),
            seed=seed,
            tools=tuple(tools),
            tool_choice=tool_choice,
            response_format=response_format,
            reasoning=reasoning,
        )

    def _route(self, model: Levels) -> Route:
        own = self._models.get(model) if isinstance(model, str) else None
        return self.engine.levels(own if own is not None else model)

    async def _ask(
        self,
        model: Levels,
        chat: Chat,
        *,
        timeout: float | None,
        user: str | None,
        tags: Mapping[str, str] | None,
        stream: bool,
    ) -> tuple[Stream, Call]:
        engine = self.engine
        route = self._route(model)
        call = engine.new_call(model=route.name, stream=stream)
        call.route, call.user, call.tags = route.name, user, dict(tags or {})
        request = Request(
            body=Body(chat=chat),
            route=route,
            call=call,
            stream=stream,
            wants_usage=True,
            max_tokens=route.output_limit(chat.max_tokens),
            timeout_s=timeout,
        )
        try:
            return await engine.handle(request), call
        except HeadraceError as error:
            self._end(call, error.http_status)
            raise
        except BaseException:
            self._end(call, 499)
            raise

    def _end(self, call: Call, status: int) -> None:
        call.end(status, self.engine.clock.now())


# --- the synchronous face ---------------------------------------------------------------------------------------------


class _Portal:
    """An event loop on a thread of its own, for callers that have none."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="headrace", daemon=True)
        self._thread.start()

    def run(self, coroutine: Coroutine[Any, Any, R]) -> R:
        """Run to the end and give its result; an interrupt cancels it."""
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def close(self) -> None:
        """End the thread; idempotent."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()


def _sync(
    method: Callable[Concatenate[AsyncClient, P], Coroutine[Any, Any, R]],
) -> Callable[Concatenate[Client, P], R]:
    @functools.wraps(method)
    def call(self: Client, /, *args: P.args, **kwargs: P.kwargs) -> R:
        return self.portal.run(method(self.client, *args, **kwargs))

    return call


def _sync_stream(
    method: Callable[Concatenate[AsyncClient, P], AnswerStream],
) -> Callable[Concatenate[Client, P], SyncAnswerStream]:
    @functools.wraps(method)
    def call(self: Client, /, *args: P.args, **kwargs: P.kwargs) -> SyncAnswerStream:
        return SyncAnswerStream(method(self.client, *args, **kwargs), self.portal)

    return call


class SyncAnswerStream:
    """`AnswerStream` for ``with`` and ``for``."""

    def __init__(self, stream: AnswerStream, portal: _Portal) -> None:
        self._stream = stream
        self._portal = portal

    def __enter__(self) -> Self:
        self._portal.run(self._stream.__aenter__())
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self._portal.run(self._stream.aclose())

    def __iter__(self) -> Iterator[str]:
        async def step() -> str | None:
            try:
                return await anext(self._stream)
            except StopAsyncIteration:
                return None

        while (text := self._portal.run(step())) is not None:
            yield text

    def events(self) -> Iterator[Event]:
        """Everything: blocks, tool calls, thinking, usage."""
        events = self._stream.events()

        async def step() -> Event | None:
            return await anext(events, None)

        while (event := self._portal.run(step())) is not None:
            yield event

    @property
    def final(self) -> Answer:
        """See `AnswerStream.final`."""
        return self._stream.final


class Client:
    """`AsyncClient` for synchronous code: the same methods and arguments, run on a thread of its own.

    Use as ``with Client() as llm``, or call `close`. It may be used from several threads at once.
    """

    def __init__(
        self, settings: Settings | None = None, *, models: Mapping[str, Levels] | None = None
    ) -> None:
        self.client = AsyncClient(settings, models=models)
        self._portal: _Portal | None = None
        self._first = threading.Lock()

    @property
    def portal(self) -> _Portal:
        """The thread with its loop, started at first use."""
        if self._portal is None:
            with self._first:  # several threads may be the first
                if self._portal is None:
                    self._portal = _Portal()
        return self._portal

    chat = _sync(AsyncClient.chat)
    stream = _sync_stream(AsyncClient.stream)
    models = _sync(AsyncClient.models)
    estimate = _sync(AsyncClient.estimate)

    def close(self) -> None:
        """Close connections, write what is queued, end the thread; idempotent."""
        if self._portal is not None:
            self._portal.run(self.client.aclose())
            self._portal.close()
            self._portal = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()
