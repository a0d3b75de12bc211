"""Vectors of texts: many in one request, and no text twice."""

from __future__ import annotations

import asyncio
from array import array
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec

from headrace import dialects
from headrace.budget import Pot
from headrace.call import Call, Nanodollars, format_usd
from headrace.engine import EMBEDDINGS, Engine
from headrace.errors import HeadraceError, InvalidRequest, Malformed
from headrace.handler import Body, Request, Route, collect
from headrace.types import Chat, Details, Message, Opaque, Reply, Text

__all__ = ["Embedded", "Embedder"]

TEXTS, CHARACTERS = 128, 200_000
"""The most of one request: OpenAI takes 2,048 texts and 300,000 tokens ("Create embeddings"), other servers less."""

AT_ONCE = 4
"""Requests of one call that are under way."""

KEPT_BYTES = 64 << 20
"""Vectors that are kept in memory; 5,000 of 1,536 dimensions."""

Key = tuple[str, int | None, str]


@dataclass(frozen=True, slots=True)
class Embedded:
    """Vectors, in the order of the texts.

    Attributes:
        cached: How many of the texts cost nothing: known from before, or twice among them.
        calls: The requests that were made, as in the ledger.
    """

    vectors: list[list[float]]
    model: str
    cached: int
    calls: tuple[Call, ...]

    @property
    def vector(self) -> list[float]:
        """The first, of a single text."""
        return self.vectors[0]

    @property
    def tokens(self) -> int:
        """Input tokens that were paid for."""
        usages = (attempt.usage for call in self.calls for attempt in call.attempts)
        return sum(usage.input_tokens for usage in usages if usage is not None)

    @property
    def cost(self) -> Nanodollars | None:
        """Nano-dollars over all requests; None if a price is unknown."""
        costs = [call.cost for call in self.calls]
        return None if None in costs else sum(cost for cost in costs if cost is not None)

    @property
    def cost_usd(self) -> str:
        """`cost` as exact decimal US dollars, or `unknown`."""
        return format_usd(self.cost)

    def __len__(self) -> int:
        return len(self.vectors)


class Embedder:
    """Asks for vectors, and keeps those it got: the same text, model and dimensions give the same vector, to the bit."""

    __slots__ = ("_bytes", "_engine", "_kept")

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._kept: OrderedDict[Key, array[float]] = OrderedDict()
        self._bytes = 0

    async def __call__(
        self,
        route: Route,
        texts: Sequence[str],
        *,
        dimensions: int | None = None,
        timeout: float | None = None,
        user: str | None = None,
        tags: Mapping[str, str] | None = None,
        pots: tuple[Pot, ...] = (),
    ) -> Embedded:
        """The vectors of `texts`. Raises what `chat` raises."""
        for text in texts:
            if not isinstance(text, str) or not text:
                raise InvalidRequest(
                    f"only texts that are not empty have vectors, not {text!r:.80}", param="texts"
                )
        model = route.cascade[0].model.rpartition("/")[2]
        known: dict[str, array[float]] = {}
        for text in dict.fromkeys(texts):
            if (vector := self._kept.get((model, dimensions, text))) is not None:
                self._kept.move_to_end((model, dimensions, text))
                known[text] = vector
        missing = [text for text in dict.fromkeys(texts) if text not in known]
        calls: list[Call] = []
        places = asyncio.Semaphore(AT_ONCE)

        async def ask(part: list[str]) -> None:
            async with places:
                call = self._engine.new_call(dialect=EMBEDDINGS, model=route.name)
                call.route, call.user, call.tags = route.name, user, dict(tags or {})
                calls.append(call)
                reply = await self._asked(_request(route, call, part, dimensions, timeout, pots))
            for text, vector in zip(part, _vectors(reply, len(part), call), strict=True):
                known[text] = vector
                self._keep((model, dimensions, text), vector)

        tasks = [asyncio.create_task(ask(part)) for part in _parts(missing)]
        try:
            await asyncio.gather(*tasks)
        finally:  # one that fails, or a caller that leaves, ends the others
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        answered = next((a.model for call in calls for a in reversed(call.attempts) if a.model), model)
        vectors = [known[text].tolist() for text in texts]
        return Embedded(vectors, answered, len(texts) - len(missing), tuple(calls))

    async def _asked(self, request: Request) -> Reply:
        call, now, status = request.call, self._engine.clock.now, 499
        try:
            reply = await collect(await self._engine.handle(request))
            status = 200
        except HeadraceError as error:
            status = error.http_status
            raise
        finally:
            call.end(status, now())
        return reply

    def _keep(self, key: Key, vector: array[float]) -> None:
        self._kept[key] = vector
        self._bytes += len(vector) * vector.itemsize
        while self._bytes > KEPT_BYTES:
            _, gone = self._kept.popitem(last=False)
            self._bytes -= len(gone) * gone.itemsize


def _request(
    route: Route,
    call: Call,
    texts: Sequence[str],
    dimensions: int | None,
    timeout: float | None,
    pots: tuple[Pot, ...],
) -> Request:
    dialect = dialects.by_name(EMBEDDINGS)
    blocks = tuple(Text(text=text) for text in texts)
    details = None if dimensions is None else {"dimensions": msgspec.Raw(b"%d" % dimensions)}
    chat = Chat(
        model="",
        messages=(Message(role="user", content=blocks),),
        max_tokens=0,
        provider_details=None if details is None else Details(EMBEDDINGS, details),
    )
    return Request(
        body=Body(wire=dialect.encode_request(chat, []), dialect=dialect),
        route=route,
        call=call,
        stream=False,
        wants_usage=True,
        asked_tokens=0,
        timeout_s=timeout,
        pots=pots,
    )


def _parts(texts: Sequence[str]) -> list[list[str]]:
    parts: list[list[str]] = []
    size = CHARACTERS
    for text in texts:
        if not parts or size + len(text) > CHARACTERS or len(parts[-1]) == TEXTS:
            parts.append([])
            size = 0
        parts[-1].append(text)
        size += len(text)
    return parts


def _vectors(reply: Reply, number: int, call: Call) -> list[array[float]]:
    raws = [block.raw for block in reply.content if isinstance(block, Opaque)]
    target = "" if call.target is None else str(call.target)
    if len(raws) != number:
        raise Malformed(
            f"{number} texts were given to {target}, and {len(raws)} vectors came back", target=target
        )
    try:
        return [array("d", msgspec.json.decode(raw, type=list[float])) for raw in raws]
    except msgspec.MsgspecError as error:
        raise Malformed(f"{target} gave a vector that is none: {error}", target=target) from None
