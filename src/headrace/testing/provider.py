"""A provider on a real socket of this machine that says what it was told to say, and fails as it was told to fail.

It speaks OpenAI's chat completions and Anthropic's messages, buffered and streamed, and remembers what it was asked.
"""

from __future__ import annotations

import asyncio
import ssl
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Self, TypeAlias

import msgspec

from headrace.clock import Clock, SystemClock
from headrace.testing.answers import Answer
from headrace.testing.connection import Connection
from headrace.testing.dialects import ANTHROPIC, EMBEDDINGS, OPENAI, BadAsk, Trouble, Voice
from headrace.testing.faults import Fault, Refuse
from headrace.testing.wire import Received, Wire
from headrace.types import Usage

__all__ = ["FakeProvider", "Outcome"]

Outcome: TypeAlias = Answer | Fault | Callable[[Received], Answer | Fault]
"""What becomes of a request: a good answer, a fault, or a function that chooses."""

MODELS = ("fake-small", "fake-large")
"""What `GET /v1/models` lists when no models were named."""

START_S = 10.0
"""Seconds that `with FakeProvider()` waits for its thread; binding a port takes under a millisecond."""

VOICES: Mapping[str, Voice] = {
    "/v1/chat/completions": OPENAI,
    "/chat/completions": OPENAI,
    "/v1/embeddings": EMBEDDINGS,
    "/embeddings": EMBEDDINGS,
    "/v1/messages": ANTHROPIC,
    "/v1/messages/count_tokens": ANTHROPIC,
}


def echo(request: Received) -> Answer:
    """The default answer: `echo: ` and the text of the last user message."""
    return Answer(f"echo: {request.text}")


class FakeProvider:
    """A scripted provider on `127.0.0.1`; use it with `async with`, or with `with` for a thread of its own.

    What a request gets is the next of the outcomes set for its model with `on`; else what `on` says to do always; else the
    next of the outcomes queued with `script`, `reply` or `fault`; else `default`. Only the two endpoints that generate take
    an outcome; `count_tokens` and `models` are always answered.

    Args:
        models: The models it has; others are answered 404. None: it answers for every name.
        api_key: The key that it accepts, in `authorization: Bearer` or `x-api-key`; others are answered 401. None: any.
        rate_limit_headers: Whether good answers carry rate-limit headers as the services send them.
        keep_requests: Whether `requests` is kept; say no in load tests.
        clock: What delays wait on and `Received.t` is read from; the machine's by default.
        port: The port; 0 picks a free one.
        tls: What `https` is spoken with, on this port and nothing else; None: plain `http`.

    Attributes:
        requests: What was received, in order.
        connections: How many connections were accepted.
        default: The outcome when nothing else is set; at first an echo of the last user text.
        in_faults: What is being said when a fault strikes that has no answer of its own, where `default` is none.
    """

    def __init__(
        self,
        *,
        models: Sequence[str] | None = None,
        api_key: str | None = None,
        rate_limit_headers: bool = False,
        keep_requests: bool = True,
        clock: Clock | None = None,
        port: int = 0,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.requests: list[Received] = []
        self.connections = 0
        self.default: Outcome = echo
        self.in_faults: Callable[[Received], Answer] = echo
        self.clock: Clock = SystemClock() if clock is None else clock
        self._models = None if models is None else list(models)
        self._api_key = api_key
        self._limits = rate_limit_headers
        self._keep = keep_requests
        self._port = port
        self._tls = tls
        self._count = 0
        self._queue: deque[Outcome] = deque()
        self._rules: dict[str, _Rule] = {}
        self._open: set[Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._errors: list[BaseException] = []
        self._server: asyncio.Server | None = None
        self._stopping = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._stop: asyncio.Event | None = None
        self._failed: list[BaseException] = []

    # --- where it is

    @property
    def port(self) -> int:
        """The port that it listens on, from when it was started."""
        return self._port

    @property
    def base_url(self) -> str:
        """For OpenAI's SDK: `http://127.0.0.1:PORT/v1`."""
        return f"{self.anthropic_url}/v1"

    @property
    def anthropic_url(self) -> str:
        """For Anthropic's SDK, which adds `/v1` itself: `http://127.0.0.1:PORT`."""
        return f"{'http' if self._tls is None else 'https'}://127.0.0.1:{self._port}"

    @property
    def open_connections(self) -> int:
        """How many connections are open now."""
        return len(self._open)

    # --- what it says

    def script(self, *outcomes: Outcome) -> None:
        """Queue outcomes: one for each of the next requests."""
        self._queue.extend(outcomes)

    def reply(
        self,
        text: str = "",
        *,
        tool_calls: Sequence[tuple[str, Mapping[str, object] | str]] = (),
        thinking: str = "",
        signature: str | None = None,
        refusal: str | None = None,
        finish: str | None = None,
        stop_sequence: str | None = None,
        usage: tuple[int, int] | tuple[int, int, int] | Usage | None = None,
        report_usage: bool = True,
        chunks: Sequence[str] | None = None,
        delay_s: float = 0.0,
        first_delay_s: float = 0.0,
        model: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Queue one `Answer` with these attributes."""
        self.script(
            Answer(
                text,
                tool_calls=tool_calls,
                thinking=thinking,
                signature=signature,
                refusal=refusal,
                finish=finish,
                stop_sequence=stop_sequence,
                usage=usage,
                report_usage=report_usage,
                chunks=chunks,
                delay_s=delay_s,
                first_delay_s=first_delay_s,
                model=model,
                headers=headers or {},
            )
        )

    def fault(self, fault: Fault, *, times: int = 1) -> None:
        """Queue `fault` for each of the next `times` requests."""
        self.script(*[fault] * times)

    def on(self, model: str, *outcomes: Outcome, always: Outcome | None = None) -> None:
        """For requests that name `model`: queue `outcomes`, and once they are spent do `always` (None: as for any model).

        A later call queues more, and replaces `always` where it gives one.
        """
        rule = self._rules.setdefault(model, _Rule())
        rule.queue.extend(outcomes)
        if always is not None:
            rule.always = always

    def reset(self) -> None:
        """Forget every outcome that was set and every request that was received."""
        self._queue.clear()
        self._rules.clear()
        self.requests.clear()
        self.default = echo

    @property
    def unused(self) -> int:
        """How many queued outcomes no request has taken yet."""
        return len(self._queue) + sum(len(rule.queue) for rule in self._rules.values())

    def _choose(self, request: Received) -> Answer | Fault:
        rule = self._rules.get(request.model)
        if rule is not None and rule.queue:
            outcome = rule.queue.popleft()
        elif rule is not None and rule.always is not None:
            outcome = rule.always
        elif self._queue:
            outcome = self._queue.popleft()
        else:
            outcome = self.default
        return outcome if isinstance(outcome, Answer | Fault) else outcome(request)

    # --- running

    async def start(self) -> None:
        """Listen, on the running loop; after a `stop` on the same port again. Raises `OSError` when the port is taken."""
        assert self._server is None, "already started"
        self._stopping = False
        self._loop = asyncio.get_running_loop()
        self._server = await self._loop.create_server(
            self._connect, "127.0.0.1", self._port, backlog=1024, ssl=self._tls
        )
        self._port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Close the port and every connection; until the next `start` connections are refused.

        Raises whatever an outcome of the caller's own raised, so that a broken script does not pass for a broken provider.
        """
        if self._server is None:
            return
        server, self._server = self._server, None
        self._stopping = True
        server.close()
        open_ = list(self._open)
        for connection in open_:
            connection.transport.abort()
        await asyncio.gather(*(connection.gone for connection in open_))
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await server.wait_closed()
        if self._errors:
            raise self._errors[0]

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.stop()

    def __enter__(self) -> Self:
        started: threading.Event = threading.Event()
        failed: list[BaseException] = []

        async def serve() -> None:
            self._stop = asyncio.Event()
            try:
                await self.start()
            except OSError as error:
                failed.append(error)
                return
            finally:
                started.set()
            await self._stop.wait()
            try:
                await self.stop()
            except BaseException as error:  # noqa: BLE001  (raised again by __exit__)
                failed.append(error)

        self._failed = failed
        self._thread = threading.Thread(
            target=lambda: asyncio.run(serve()), name="fake-provider", daemon=True
        )
        self._thread.start()
        if not started.wait(START_S):
            raise TimeoutError("the fake provider's thread did not start")
        if failed:
            self._thread.join()
            raise failed[0]
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        assert self._thread is not None and self._loop is not None and self._stop is not None
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()
        if self._failed and exc is None:
            raise self._failed[0]

    # --- in memory

    @property
    def reachable(self) -> bool:
        """Whether `accept` is answered; False while it is stopping."""
        return not self._stopping

    @property
    def errors(self) -> list[BaseException]:
        """What outcomes of the caller's own raised."""
        return self._errors

    def accept(self) -> asyncio.Protocol:
        """A connection that does not come over the port: the protocol of its provider's end."""
        return self._connect()

    # --- one request

    def _connect(self) -> Connection:
        self.connections += 1
        return Connection(
            number=self.connections,
            clock=self.clock,
            opened=self._opened,
            serve=self._serve,
            lost=self._lost,
            count=self._next_number,
        )

    def _opened(self, connection: Connection) -> bool | None:
        """Whether the fault that comes next strikes the connection at its very beginning, and how."""
        if self._stopping:
            return True  # accepted in the very turn in which the port was closed
        self._open.add(connection)
        if self._queue and isinstance(self._queue[0], Refuse):
            refuse = self._queue.popleft()
            assert isinstance(refuse, Refuse)
            return refuse.reset
        return self.default.reset if not self._queue and isinstance(self.default, Refuse) else None

    def _lost(self, connection: Connection, request: Received | None) -> None:
        self._open.discard(connection)
        # While stopping it is we who hang up.
        if request is not None and not self._stopping:
            request.hung_up_at = self.clock.now()

    def _next_number(self) -> int:
        self._count += 1
        return self._count

    def _serve(self, connection: Connection, request: Received) -> None:
        """Answer at once where nothing has to wait; else start the task that does."""
        if self._keep:
            self.requests.append(request)
        voice = VOICES.get(request.path)
        anthropic = "anthropic-version" in request.headers or request.path.startswith("/v1/messages")
        speaks = voice or (ANTHROPIC if anthropic else OPENAI)
        wall = int(self.clock.wall())
        trouble = self._unauthorized(request, speaks)
        outcome: Answer | Fault | None = None
        body = b""
        if trouble is None and voice is not None and request.method == "POST":
            try:
                request.ask = voice.ask(
                    msgspec.json.decode(request.body), number=request.number, created=wall
                )
                self._demand(request, voice)
            except (msgspec.DecodeError, UnicodeDecodeError):
                trouble = Trouble(
                    400, "invalid_request_error", "We could not parse the JSON body of your request."
                )
            except BadAsk as bad:
                trouble = Trouble(400, "invalid_request_error", str(bad), param=bad.param)
            else:
                if self._models is not None and request.model not in self._models:
                    trouble = self._unknown(voice, request.model)
                elif request.path.endswith("count_tokens"):
                    body = msgspec.json.encode({"input_tokens": request.ask.input_tokens})
                else:
                    outcome = self._chosen(request)
        elif trouble is None and voice is not None:
            trouble = Trouble(405, "invalid_request_error", f"Not allowed to {request.method} here.")
        elif trouble is None:
            trouble, body = self._models_page(request, speaks, wall)
        limits = speaks.limits(self._count) if self._limits and isinstance(outcome, Answer) else []
        own = outcome if isinstance(outcome, Answer) else getattr(outcome, "answer", None)
        wire = Wire(
            connection,
            request=request,
            voice=speaks,
            answer=own or self._default_answer(request),
            clock=self.clock,
            headers=limits,
        )
        if trouble is not None:
            wire.error(trouble)
        elif outcome is None:
            wire.whole(body)
        elif (
            isinstance(outcome, Answer)
            and not outcome.first_delay_s
            and not (outcome.delay_s and request.stream)
        ):
            wire.at_once()
        else:
            connection.task = task = asyncio.get_running_loop().create_task(self._act(outcome, wire))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def _chosen(self, request: Received) -> Answer | Fault:
        try:
            return self._choose(request)
        except Exception as error:  # noqa: BLE001  (the caller's function: raised again by stop)
            self._errors.append(error)
            return _Broken()

    async def _act(self, outcome: Answer | Fault, wire: Wire) -> None:
        try:
            if isinstance(outcome, Answer):
                await wire.play()
            else:
                await outcome.act(wire)
        except Exception as error:  # noqa: BLE001  (the caller's fault: raised again by stop)
            self._errors.append(error)
        if not wire.ended:
            wire.fin()

    def _default_answer(self, request: Received) -> Answer:
        """What is being said when a fault strikes that has no answer of its own."""
        if isinstance(self.default, Answer):
            return self.default
        return self.in_faults(request)

    def _unauthorized(self, request: Received, voice: Voice) -> Trouble | None:
        if self._api_key is None:
            return None
        bearer = request.headers.get("authorization", "").removeprefix("Bearer ")
        if self._api_key in (bearer, request.headers.get("x-api-key")):
            return None
        return voice.troubles["bad_key"]

    def _demand(self, request: Received, voice: Voice) -> None:
        """What the services insist on beyond the common."""
        if voice is not ANTHROPIC:
            return
        if "anthropic-version" not in request.headers:
            raise BadAsk("anthropic-version: header is required")
        if not request.path.endswith("count_tokens") and "max_tokens" not in request.json:
            raise BadAsk("max_tokens: Field required", "max_tokens")

    def _unknown(self, voice: Voice, model: str) -> Trouble:
        trouble = voice.troubles["no_such_model"]
        said = f"model: {model}" if voice is ANTHROPIC else f"The model `{model}` does not exist."
        return Trouble(trouble.status, trouble.type, said, trouble.code, trouble.param)

    def _models_page(self, request: Received, voice: Voice, created: int) -> tuple[Trouble | None, bytes]:
        names = list(MODELS) if self._models is None else self._models
        path = request.path.removeprefix("/v1")
        if request.method == "GET" and path == "/models":
            return None, voice.models(names, created)
        if request.method == "GET" and path.startswith("/models/"):
            name = path.removeprefix("/models/")
            if self._models is None or name in names:
                return None, voice.model(name, created)
            return self._unknown(voice, name), b""
        return Trouble(404, "not_found_error", f"Unknown request URL: {request.method} {request.path}."), b""


class _Rule:
    """What `on` set for one model."""

    __slots__ = ("always", "queue")

    def __init__(self) -> None:
        self.queue: deque[Outcome] = deque()
        self.always: Outcome | None = None


class _Broken(Fault):
    """The caller's function raised; the client gets a 500, and the test the exception when the provider stops."""

    __slots__ = ()

    async def act(self, wire: Wire) -> None:
        wire.error(wire.voice.troubles["server_error"])
