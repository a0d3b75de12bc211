"""Redacts a request before anything below sees it, and puts the values back in the answer.

It stands above the cache, so that neither cache, ledger, trace nor provider ever has a value; they live in this request alone. Counts by
kind are all that is said about them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable

import msgspec

from headrace.call import Call
from headrace.dialects.texts import change_body, in_json
from headrace.errors import HeadraceError, RequestBlocked
from headrace.guards import Redactor, Restorer, Values
from headrace.guards.redact import as_json, exchanger
from headrace.handler import Body, GuardPolicy, Handler, Request, Stream
from headrace.layers.guard.restored import Restored
from headrace.types import Batch

__all__ = ["Guard"]


class Guard:
    """The layer; it does nothing for routes without a policy."""

    __slots__ = ("_redactors",)

    def __init__(self) -> None:
        self._redactors: dict[GuardPolicy, Redactor] = {}

    def __call__(self, inner: Handler) -> Handler:
        async def handle(request: Request) -> Stream:
            policy = request.route.guard
            if policy is None or request.call.purpose != "answer":
                return await inner(request)
            body, values = self.redacted(request.body, policy, request.call)
            if not values:
                return await inner(request)
            json_text = request.output is not None or _asks_for_json(body)
            watch = request.watch
            asked = msgspec.structs.replace(
                request,
                body=body,
                redacted=values,
                watch=None if watch is None else _restoring(watch, values),
            )
            return RestoredStream(await inner(asked), Restored(values, json_text=json_text))

        return handle

    def redacted(self, body: Body, policy: GuardPolicy, call: Call | None = None) -> tuple[Body, Values]:
        """`body` as it may leave, and what its placeholders stand for. What was done is named on `call`, in numbers.

        Raises:
            RequestBlocked: The policy blocks what was found.
            InvalidRequest: The body cannot be read.
        """
        redactor = self._redactors.get(policy)
        if redactor is None:
            redactor = self._redactors[policy] = Redactor(policy.redact, dict(policy.patterns))
        texts: list[str] = []
        own: list[str] = []

        def read(text: str, name: str) -> str:
            own.append(text)
            return think(text, name)

        def think(text: str, name: str) -> str:
            texts.append(text)
            if name:
                texts.append(f"{name}: {text}")  # what a number is, or a word, may be said by its name alone
            elif "\\" in text and text.lstrip()[:1] in ("{", "["):
                in_json(text, inside)
            return text

        def inside(text: str, name: str) -> str:
            texts.append(text)
            return text

        change_body(body, read, think)
        values = redactor.values(texts, own)
        if not values:
            return body, {}
        kinds = Counter(name[1 : name.rindex("_")].lower() for name in values)
        said = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
        if policy.action == "block":
            raise RequestBlocked(
                f"the request has {said} in it, which this route does not let pass: leave it out",
                reason="personal",
                found=tuple(kinds),
            )
        if policy.action == "flag":
            if call is not None:
                call.warn(f"guard: the request has {said} in it")
            return body, {}
        if call is not None:
            call.warn(f"guard: redacted {said}")
        exchange = exchanger(values, also_json=True)
        return change_body(body, lambda text, _: exchange(text)), values


def _asks_for_json(body: Body) -> bool:
    """Whether the answer's text is to be JSON."""
    if body.wire is not None and b"format" not in body.wire:
        return False
    form = body.chat.response_format
    return form is not None and form.kind != "text"


def _restoring(watch: Callable[[str | None], None], values: Values) -> Callable[[str | None], None]:
    """`watch`, which hears JSON, with the values in it."""
    restorer = Restorer(values, encode=as_json)

    def hear(piece: str | None) -> None:
        nonlocal restorer
        if piece is None:
            restorer = Restorer(values, encode=as_json)
            watch(None)
        elif restored := restorer.feed(piece):
            watch(restored)

    return hear


class RestoredStream:
    """An answer with its values put back. What waits is given out before the end, and before an error."""

    __slots__ = ("_ended", "_restored", "_stream")

    def __init__(self, stream: Stream, restored: Restored) -> None:
        self._stream = stream
        self._restored = restored
        self._ended: Exception | None = None

    def __aiter__(self) -> AsyncIterator[Batch]:
        return self

    async def __anext__(self) -> Batch:
        while self._ended is None:
            try:
                batch = await anext(aiter(self._stream))
            except (HeadraceError, StopAsyncIteration) as error:
                self._ended = error
                if rest := self._restored.close():
                    return rest
            else:
                if batch := self._restored.feed(batch):
                    return batch
        raise self._ended

    async def aclose(self) -> None:
        await self._stream.aclose()

    def abort(self, error: BaseException) -> None:
        """As the stream's own."""
        self._stream.abort(error)
