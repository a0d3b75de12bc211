"""One provider as a handler: a dialect over the transport, up to the commit point.

`Upstream` sends one attempt and returns when the first content is in hand. What comes afterwards is an `UpstreamStream`, which
notices every way in which an answer can end without being whole; the attempt's record is kept here, since this is where bytes
arrive.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable

import msgspec

from headrace.call import Attempt
from headrace.clock import Clock
from headrace.dialects.faults import read_error
from headrace.errors import (
    HeadraceError,
    Malformed,
    ModelRefused,
    ProviderError,
    ProviderTimeout,
    StreamBroken,
)
from headrace.handler import Dialect, OneBatch, Request, Stream, StreamDecoder, collect, is_content
from headrace.providers.allowance import pause_after
from headrace.providers.transport import HTTPResponse, Origin, Transport, header_block
from headrace.types import (
    Batch,
    Complete,
    Delta,
    End,
    Finish,
    Frame,
    Headers,
    Refusal,
    Reply,
    Start,
    UsageReport,
)

__all__ = ["Endpoint", "Upstream", "UpstreamStream"]

ANSWER_LIMIT = 64 * 1024 * 1024
"""Bytes of one buffered answer; a longer one is `Malformed`. Chat answers with images stay well below."""

ERROR_LIMIT = 1024 * 1024

BYTES_A_TOKEN = 4
"""The usual rule of thumb for English; good enough for how long a used-up allowance takes to refill."""

DRAIN_S = 1.0
"""How long a finished answer may take to end its HTTP message before its connection is given up instead of pooled."""


class Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    """Where a provider is and what every request to it carries."""

    origin: Origin
    path: str
    headers: tuple[tuple[str, str], ...]


class Upstream:
    """Sends requests to one provider.

    Args:
        endpoint: Where; awaited for every attempt, so that a provider may have to be started first.
        always_stream: Ask for a stream even where a whole answer is wanted, for a server that goes on generating a whole
            answer after its caller has left.
    """

    __slots__ = ("_always_stream", "_blocks", "_clock", "_endpoint", "_transport", "dialect", "name")

    def __init__(
        self,
        name: str,
        dialect: Dialect,
        endpoint: Callable[[], Awaitable[Endpoint]],
        transport: Transport,
        clock: Clock,
        *,
        always_stream: bool = False,
    ) -> None:
        self.name = name
        self._always_stream = always_stream
        self.dialect = dialect
        self._endpoint = endpoint
        self._transport = transport
        self._clock = clock
        self._blocks: dict[tuple[tuple[str, str], ...], bytes] = {}

    async def __call__(self, request: Request) -> Stream:
        target, attempt = request.target, request.attempt
        assert target is not None
        assert attempt is not None
        streamed = request.stream or self._always_stream
        body, warnings = request.body.outgoing(
            self.dialect, model=target.model, stream=streamed, max_tokens=request.max_tokens
        )
        for warning in warnings:
            request.call.warn(warning)
        endpoint = await self._endpoint()
        response = await self._transport.send(
            endpoint.origin,
            "POST",
            endpoint.path,
            self._header_block(endpoint, request.headers if request.body.dialect is self.dialect else ()),
            body,
            connect_s=max(0.0, min(request.route.connect_s, request.deadline - self._clock.now())),
        )
        try:
            attempt.http = response.status
            attempt.provider_request_id = response.headers.get("x-request-id") or response.headers.get(
                "request-id"
            )
            attempt.used_up_s = pause_after(
                response.headers, now_wall=self._clock.wall(), tokens=len(body) // BYTES_A_TOKEN
            )
            if not 200 <= response.status < 300:
                raise await self._refusal(response)
            if streamed and "json" not in response.headers.get("content-type", ""):
                stream = await self._streamed(request, attempt, response)
                if request.stream:
                    return stream
                return OneBatch([Frame((Complete(await _gathered(stream)),))])
            return await self._buffered(request, attempt, response)
        except BaseException:
            await response.aclose()
            raise

    async def post(self, suffix: str, body: bytes, headers: Headers, *, connect_s: float) -> bytes:
        """One plain request beside the chat endpoint, such as `/count_tokens`: the body of its 2xx answer.

        Raises:
            ProviderError: Any other answer, or none.
        """
        endpoint = await self._endpoint()
        block = self._header_block(endpoint, headers)
        response = await self._transport.send(
            endpoint.origin, "POST", endpoint.path + suffix, block, body, connect_s=connect_s
        )
        try:
            if not 200 <= response.status < 300:
                raise await self._refusal(response)
            return await response.read(ERROR_LIMIT)
        finally:
            await response.aclose()

    def _header_block(self, endpoint: Endpoint, forwarded: Headers) -> bytes:
        pairs = forwarded
        for default in self.dialect.default_headers:
            if all(name != default[0] for name, _ in pairs):
                pairs += (default,)
        pairs += endpoint.headers
        block = self._blocks.get(pairs)
        if block is None:
            if len(self._blocks) >= 256:
                self._blocks.clear()
            block = self._blocks[pairs] = header_block(pairs)
        return block

    async def _refusal(self, response: HTTPResponse) -> ProviderError:
        try:
            body = await response.read(ERROR_LIMIT)
        except Malformed:
            body = b""
        return read_error(
            status=response.status,
            headers=response.headers,
            body=body,
            dialect=self.dialect.name,
            now_wall=self._clock.wall(),
        )

    async def _buffered(self, request: Request, attempt: Attempt, response: HTTPResponse) -> Stream:
        data = await response.read(ANSWER_LIMIT)
        reply = self.dialect.decode_reply(data)
        attempt.model = reply.model or None
        attempt.usage = reply.usage
        attempt.finish = reply.finish
        if request.route.on_refusal == "next" and _refused(reply):
            raise ModelRefused("the model refused", http=response.status, dialect=self.dialect.name)
        await response.aclose()
        now = self._clock.now()
        attempt.first_content_s = now - attempt.started_at
        attempt.end("ok", now)
        return OneBatch([Frame((Complete(reply),), data, self.dialect.name)])

    async def _streamed(self, request: Request, attempt: Attempt, response: HTTPResponse) -> Stream:
        decoder = self.dialect.decoder(hide_usage=not request.wants_usage)
        stream = UpstreamStream(response, decoder, attempt, self._clock)
        try:
            await stream.commit(refusals_fail=request.route.on_refusal == "next")
        except BaseException:
            stream.release()
            raise
        return stream


class UpstreamStream:
    """The rest of a committed answer.

    Ends cleanly only after the model's finish reason; a terminal marker is not required then (some servers send none). Every
    other end is `StreamBroken`, after the frames that did arrive.
    """

    __slots__ = (
        "_attempt",
        "_clock",
        "_decoder",
        "_ended",
        "_error",
        "_finished",
        "_held",
        "_left_at",
        "_response",
    )

    def __init__(
        self, response: HTTPResponse, decoder: StreamDecoder, attempt: Attempt, clock: Clock
    ) -> None:
        self._response = response
        self._decoder = decoder
        self._attempt = attempt
        self._clock = clock
        self._held: deque[Batch] = deque()
        self._error: HeadraceError | None = None
        self._finished = False
        self._ended = False
        self._left_at: float | None = None

    # --- up to the commit ---------------------------------------------------------------------------------------------

    async def commit(self, *, refusals_fail: bool) -> None:
        """Read until there is content; the batches so far are held for the reader.

        Raises:
            ProviderError: An error event, or the end, came first; or a refusal where refusals fail.
        """
        while True:
            batch = await self._read()
            if self._error is not None and not _has_content(batch):
                raise self._error
            if not batch:
                raise Malformed("the answer ended before its first content", http=self._response.status)
            self._held.append(batch)
            if refusals_fail and _refuses(batch):
                raise ModelRefused("the model refused", http=self._response.status)
            if _has_content(batch):
                break
        attempt = self._attempt
        attempt.first_content_s = attempt.last_content_at - attempt.started_at
        attempt.reading = False
        self._left_at = self._clock.now()
        if self._finished and self._ended:
            self._settle()

    # --- reading ------------------------------------------------------------------------------------------------------

    def __aiter__(self) -> AsyncIterator[Batch]:
        return self

    async def __anext__(self) -> Batch:
        if self._held:
            return self._held.popleft()
        if self._error is not None:
            raise self._broken(self._error)
        if self._attempt.outcome != "pending":
            raise StopAsyncIteration
        attempt, now = self._attempt, self._clock.now
        if self._left_at is not None:
            attempt.last_content_at += now() - self._left_at
        attempt.reading = True
        batch = await self._read()
        attempt.reading = False
        self._left_at = now()
        if attempt.outcome == "cancelled":
            raise StopAsyncIteration
        if self._ended and self._finished and self._error is None:
            self._settle()
        if batch:
            return batch
        if self._error is not None:
            raise self._broken(self._error)
        self._settle()
        raise StopAsyncIteration

    async def _read(self) -> Batch:
        """The next batch; empty at the end. An error is kept in `_error`, beside the frames that came before it."""
        while True:
            try:
                data = await self._response.read_some()
                batch = self._decoder.feed(data) if data else self._decoder.close()
            except ProviderError as error:
                self._error = error
                batch = getattr(error, "frames", [])
                self._note(batch)
                return batch
            if batch:
                self._note(batch)
            if batch or not data:
                if not data and not self._finished and self._error is None:
                    self._error = Malformed("the answer was cut off: no finish reason before its end")
                return batch

    def _note(self, batch: Batch) -> None:
        attempt = self._attempt
        for number, frame in enumerate(batch):
            for event in frame.events:
                kind = type(event)
                if kind is Delta:
                    attempt.last_content_at = self._clock.now()
                elif kind is Finish:
                    self._finished = True
                    attempt.finish = event.reason  # type: ignore[union-attr]  # `kind` says so
                elif kind is UsageReport:
                    attempt.usage = event.usage  # type: ignore[union-attr]
                elif kind is Start:
                    attempt.model = event.model or attempt.model  # type: ignore[union-attr]
                elif kind is End:
                    if (
                        not self._finished
                    ):  # a terminator makes no answer whole, and the caller must not see it
                        self._error = Malformed(
                            "the answer was cut off: a terminator without a finish reason"
                        )
                        del batch[number:]
                        return
                    self._ended = True
                    del batch[number + 1 :]  # nothing comes after the end, however the reads fell
                elif is_content(event):
                    attempt.last_content_at = self._clock.now()

    # --- ending -------------------------------------------------------------------------------------------------------

    def _settle(self) -> None:
        self._attempt.end("ok", self._clock.now())
        self._response.finish(DRAIN_S)

    def _broken(self, cause: HeadraceError) -> StreamBroken:
        if isinstance(cause, StreamBroken):
            return cause
        error = StreamBroken(
            f"{self._attempt.target} died after the answer had begun: {cause.message}",
            target=str(self._attempt.target),
            cause=cause if isinstance(cause, ProviderError) else None,
        )
        if isinstance(cause, ProviderError):
            self._attempt.fail(cause, self._clock.now(), "broken")
        else:
            self._attempt.end("broken", self._clock.now())
        self.release()
        self._error = error
        return error

    def release(self) -> None:
        """Give up the connection at once."""
        self._response.abort(Malformed("the stream was released"))

    def abort(self, error: BaseException) -> None:
        """End now: the reader gets a `StreamBroken` with `error` as its cause."""
        if self._attempt.outcome != "pending" or self._error is not None:
            return
        self._error = (
            error
            if isinstance(error, HeadraceError)
            else ProviderTimeout(str(error), target=str(self._attempt.target))
        )
        self._response.abort(self._error)

    async def aclose(self) -> None:
        self._held.clear()
        if self._attempt.outcome == "pending":
            self._attempt.end("cancelled", self._clock.now())
            self.release()


async def _gathered(stream: Stream) -> Reply:
    """The whole answer of a stream whose caller has seen nothing yet, so that an end in its middle is an ordinary failure."""
    try:
        return await collect(stream)
    except StreamBroken as broken:
        raise broken.cause if broken.cause is not None else Malformed(broken.message) from broken


def _has_content(batch: Batch) -> bool:
    return any(is_content(event) for frame in batch for event in frame.events)


def _refused(reply: Reply) -> bool:
    """OpenAI's models refuse in a member of their own, with an ordinary finish; the others by their finish."""
    return reply.finish in ("refusal", "content_filter") or any(
        isinstance(block, Refusal) for block in reply.content
    )


def _refuses(batch: Batch) -> bool:
    for frame in batch:
        for event in frame.events:
            match event:
                case Delta(kind="refusal", text=text) if text:
                    return True
                case Finish(reason="refusal" | "content_filter"):
                    return True
                case _:
                    pass
    return False
