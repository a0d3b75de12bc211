"""The cache on its own, around any async function that answers a question with text."""

from __future__ import annotations

import asyncio
import inspect
import json
import random
import secrets
from collections.abc import Awaitable, Callable
from functools import update_wrapper
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, Self

import msgspec

from headrace.cache.aid import Aid, Judge, Scorer
from headrace.cache.selection import Selection
from headrace.cache.setup import build_cache
from headrace.call import Cached, Call
from headrace.clock import Clock, SystemClock
from headrace.errors import ConfigError
from headrace.handler import Body, CachePolicy, OneBatch, Request, Route, Stream, collect
from headrace.types import Chat, Complete, Frame, Message, Reply, Target, Text

if TYPE_CHECKING:
    from headrace.cache.explain import Verdict

__all__ = ["Asking", "Cache", "Told"]

P = ParamSpec("P")
_P = ParamSpec("_P")

_chance = random.SystemRandom()


class Told(msgspec.Struct, frozen=True):
    """An answer, and where it came from: `result` is `hit-exact`, `hit-canonical`, `hit-semantic`, `miss` or `bypass`, `cached` has the
    rest (tier, age in seconds, probability, state, guards' vetoes)."""

    text: str
    result: str
    cached: Cached


class Cache:
    """Answers kept for the same question, for the same words, and, with `semantic`, for other words that want the same.

    Args:
        semantic: Also other words; needs the `semantic` extra. See docs/semantic-cache.md for what it promises.
        max_wrong: The share of answers so given that may be wrong, 0 (none are given) to 0.5.
        audit: The share of them that are asked for anyway, by lot, to learn how many are right, 0 to 1; with `shadow` all are, and none is given.
        ttl: Seconds that an answer lives, less up to a tenth by lot; `volatile_ttl` one to a question about weather, news, "today".
        lookup: Seconds that the semantic tier may take; `hook_timeout` what scorer and judge may.
        max_bytes: Of entries; what saves least goes first.
        path: A file in which they outlive the process, shared by all processes that name it; None for memory only.
        tenant: Whose cache it is: tenants in one file never meet.
        scorer, judge: Parts of one's own, see `headrace.cache.aid`.

    Use as a decorator of async functions whose first argument is the question; the others are part of its scope:

        cache = headrace.Cache(ttl=3600)

        @cache
        async def answer(question: str, product: str) -> str: ...

    Raises:
        ConfigError: An argument is out of its range, or the semantic extra is not installed.
        StoreError: The file cannot be opened.
    """

    def __init__(
        self,
        *,
        semantic: bool = False,
        max_wrong: float = 0.01,
        audit: float = 0.02,
        shadow: bool = False,
        ttl: float = 86_400.0,
        volatile_ttl: float = 60.0,
        lookup: float = 0.005,
        hook_timeout: float = 2.0,
        max_bytes: int = 256 << 20,
        path: str | Path | None = None,
        tenant: str | None = None,
        scorer: Scorer | None = None,
        judge: Judge | None = None,
        clock: Clock | None = None,
    ) -> None:
        if not 0.0 <= max_wrong <= 0.5:
            raise ConfigError(f"max_wrong is a share from 0 to 0.5, not {max_wrong!r}")
        if not 0.0 <= audit <= 1.0:
            raise ConfigError(f"audit is a share from 0 to 1, not {audit!r}")
        for name, value in (("ttl", ttl), ("volatile_ttl", volatile_ttl), ("max_bytes", max_bytes)):
            if not value > 0:
                raise ConfigError(f"{name} must be above 0, not {value!r}")
        self._clock = clock if clock is not None else SystemClock()
        self._tenant = tenant
        self._policy = CachePolicy(
            semantic=semantic,
            max_wrong=max_wrong,
            audit=audit,
            shadow=shadow,
            ttl_s=ttl,
            volatile_ttl_s=volatile_ttl,
            lookup_s=lookup,
            hook_s=hook_timeout,
        )
        self._layer, self._kept = build_cache(
            self._clock,
            _chance.random,
            max_bytes=max_bytes,
            path=None if path is None else Path(path),
            semantic=semantic and max_wrong > 0,
            aid=Aid(scorer=scorer, judge=judge),
        )

    def __call__(self, function: Callable[Concatenate[str, P], Awaitable[str]]) -> Asking[P]:
        """`function` with its answers kept."""
        return self.around(function)

    def around(
        self,
        function: Callable[Concatenate[str, P], Awaitable[str]],
        *,
        scope: Callable[..., object] | None = None,
        name: str | None = None,
    ) -> Asking[P]:
        """`function` with its answers kept.

        Args:
            scope: From the same arguments, what parts two questions, as something that JSON can hold; by default all arguments but the
                question.
            name: Under which answers are kept, by default the function's own; functions of one name share them.
        """
        return Asking(self, function, scope, name or f"{function.__module__}.{function.__qualname__}")

    async def aclose(self) -> None:
        """Cancel what is under way, write what is waiting; idempotent."""
        await self._layer.aclose()
        if self._kept is not None:
            await asyncio.to_thread(self._kept.close)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.aclose()

    def purge(
        self, *, name: str | None = None, prefix: str | None = None, older_than: float | None = None
    ) -> int:
        """Throw away what all arguments describe: answers of one function, to questions that begin so, older than so many seconds. How
        many those were."""
        before = None if older_than is None else self._clock.wall() - older_than
        return self._layer.purge(Selection(route=name, prefix=prefix, before=before))

    def stats(self) -> dict[str, Any]:
        """Entries, bytes, and what became of the questions since the start: by tier, by guard, what was saved."""
        shelf = self._layer.shelf
        return {
            "entries": len(shelf),
            "bytes": shelf.bytes,
            "evictions": shelf.evictions,
            "failures": self._layer.failures,
            **self._layer.counts.report(),
        }

    def explain(self, question: str, *, name: str | None = None) -> list[Verdict]:
        """The entries nearest to `question`, whatever their scope, and why each is or is not a hit.

        Raises:
            ConfigError: The semantic extra is not installed.
        """
        try:
            from headrace.cache.explain import explain
            from headrace.cache.match import Matcher
        except ModuleNotFoundError as error:
            raise ConfigError(
                f"this needs the semantic extra ({error.name}): pip install 'headrace[semantic]'"
            ) from error
        likeness = self._layer.likeness
        return explain(
            question,
            [entry for entry in self._layer.shelf if name is None or entry.route == name],
            likeness if isinstance(likeness, Matcher) else Matcher.load(),
            max_wrong=self._policy.max_wrong,
            wall=self._clock.wall(),
        )

    async def _told(
        self, name: str, question: str, scope: object, answer: Callable[[], Awaitable[str]]
    ) -> Told:
        async def asked(request: Request) -> Stream:
            reply = Reply(content=(Text(text=await answer()),), finish="stop")
            return OneBatch([Frame((Complete(reply),))])

        route = Route(name=name, cascade=(Target("function", name),), cache=self._policy)
        now = self._clock.now()
        call = Call(
            id=secrets.token_hex(8),
            started_at=now,
            started_wall=self._clock.wall(),
            tenant=self._tenant,
            route=name,
            attempts=[],
        )
        try:
            said = Text(text=json.dumps(scope, sort_keys=True))
        except TypeError as error:
            raise TypeError(
                f"JSON cannot hold the arguments beside the question ({error}): give around() a scope"
            ) from error
        chat = Chat(
            model="",
            messages=(
                Message(role="system", content=(said,)),
                Message(role="user", content=(Text(text=question),)),
            ),
        )
        request = Request(body=Body(chat=chat), route=route, call=call, stream=False)
        reply = await collect(await self._layer(asked)(request))
        return Told(reply.text, call.cache, call.cached if call.cached is not None else Cached())


class Asking(Generic[_P]):
    """A function whose answers are kept; called like the function itself."""

    def __init__(
        self,
        cache: Cache,
        function: Callable[Concatenate[str, _P], Awaitable[str]],
        scope: Callable[..., object] | None,
        name: str,
    ) -> None:
        self._cache = cache
        self._function = function
        self._scope = scope
        self._signature = inspect.signature(function)
        self.name = name
        update_wrapper(self, function)

    async def __call__(self, question: str, *args: _P.args, **kwargs: _P.kwargs) -> str:
        return (await self.told(question, *args, **kwargs)).text

    async def told(self, question: str, *args: _P.args, **kwargs: _P.kwargs) -> Told:
        """The answer, with where it came from.

        Raises:
            TypeError: The arguments are not the function's, or JSON cannot hold them and no `scope` was given.
        """
        if self._scope is not None:
            scope = self._scope(question, *args, **kwargs)
        else:
            bound = self._signature.bind(question, *args, **kwargs)
            bound.apply_defaults()
            scope = list(bound.arguments.items())[1:]
        return await self._cache._told(  # noqa: SLF001  (two halves of one thing)
            self.name, question, scope, lambda: self._function(question, *args, **kwargs)
        )
