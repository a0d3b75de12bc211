"""`Client` is `AsyncClient` for synchronous code, on a thread of its own.

There is one implementation, the asynchronous one; the synchronous methods are made from it by `_sync` with their types kept, so
the two cannot drift (`docs/adr/0005-sync-policy.md`).
"""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import Callable, Coroutine, Iterator, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, Self

from headrace.answer import Answer, AnswerStream
from headrace.client import AsyncClient
from headrace.engine import Levels
from headrace.tools import ToolRun
from headrace.types import Event

if TYPE_CHECKING:
    from typing_extensions import TypeVar

    from headrace.config import Settings
    from headrace.guards import Judge

    T = TypeVar("T", default=Any)
else:
    from typing import TypeVar

    T = TypeVar("T")

P = ParamSpec("P")
R = TypeVar("R")

__all__ = ["Client", "Portal", "SyncAnswerStream"]


class Portal:
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


def _same(method: Callable[Concatenate[AsyncClient, P], R]) -> Callable[Concatenate[Client, P], R]:
    """For what does not wait."""

    @functools.wraps(method)
    def call(self: Client, /, *args: P.args, **kwargs: P.kwargs) -> R:
        return method(self.client, *args, **kwargs)

    return call


def _sync_stream(
    method: Callable[Concatenate[AsyncClient, P], AnswerStream[T]],
) -> Callable[Concatenate[Client, P], SyncAnswerStream[T]]:
    @functools.wraps(method)
    def call(self: Client, /, *args: P.args, **kwargs: P.kwargs) -> SyncAnswerStream[T]:
        return SyncAnswerStream(method(self.client, *args, **kwargs), self.portal)

    return call


class SyncAnswerStream(Generic[T]):
    """`AnswerStream` for ``with`` and ``for``."""

    def __init__(self, stream: AnswerStream[T], portal: Portal) -> None:
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

    def partials(self) -> Iterator[Any]:
        """See `AnswerStream.partials`."""
        values = self._stream.partials()

        async def step() -> tuple[Any] | None:
            try:
                return (await anext(values),)
            except StopAsyncIteration:
                return None

        while (value := self._portal.run(step())) is not None:
            yield value[0]

    @property
    def tool_runs(self) -> tuple[ToolRun, ...]:
        """See `AnswerStream.tool_runs`."""
        return self._stream.tool_runs

    @property
    def final(self) -> Answer[T]:
        """See `AnswerStream.final`."""
        return self._stream.final


class Client:
    """`AsyncClient` for synchronous code: the same methods and arguments, run on a thread of its own.

    Use as ``with Client() as llm``, or call `close`. It may be used from several threads at once.
    """

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        models: Mapping[str, Levels] | None = None,
        judges: Mapping[str, Judge] | None = None,
    ) -> None:
        self.client = AsyncClient(settings, models=models, judges=judges)
        self._portal: Portal | None = None
        self._first = threading.Lock()

    @property
    def portal(self) -> Portal:
        """The thread with its loop, started at first use."""
        if self._portal is None:
            with self._first:  # several threads may be the first
                if self._portal is None:
                    self._portal = Portal()
        return self._portal

    chat = _sync(AsyncClient.chat)
    stream = _sync_stream(AsyncClient.stream)
    map = _sync(AsyncClient.map)
    retry_failed = _sync(AsyncClient.retry_failed)
    embed = _sync(AsyncClient.embed)
    models = _sync(AsyncClient.models)
    estimate = _sync(AsyncClient.estimate)
    budget = _same(AsyncClient.budget)

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
