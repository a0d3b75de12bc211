"""The requests behind one question: one, or several where the model calls functions.

All rounds share one deadline, one `max_cost_usd` and one tag in the ledger (`loop`, the id of the first). The functions are run here,
between two requests; what retries a request is below and never gets here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import msgspec

from headrace.answer import Answer, Opened, read_value
from headrace.budget import Pot
from headrace.call import Call
from headrace.errors import HeadraceError, InvalidRequest, ToolLoopStopped
from headrace.handler import Body, Request, Route, collect
from headrace.layers.idempotency import read_key
from headrace.output import Shape
from headrace.tools import Approve, FunctionTool, Repeats, ToolRun, run_calls
from headrace.types import Chat, Message, Reply

if TYPE_CHECKING:
    from headrace.engine import Engine

__all__ = ["Asked", "Rounds"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked(Generic[T]):
    """A question, whatever it was given as. `timeout` and `tool_timeout` are seconds, the one over all rounds, the other for one
    function; `max_rounds` is 1 or more."""

    route: Route
    chat: Chat
    shape: Shape[T] | None = None
    functions: Mapping[str, FunctionTool]
    max_rounds: int
    approve: Approve | None
    tool_timeout: float
    timeout: float | None
    user: str | None
    tags: Mapping[str, str]
    cache_control: str = ""
    idempotency_key: str | None = None
    pots: tuple[Pot, ...] = ()


class Rounds(Generic[T]):
    """Asks, runs what the model calls, and asks again, until it answers.

    Raises:
        InvalidRequest: `max_rounds` is below 1.
    """

    __slots__ = ("_asked", "_chat", "_deadline", "_engine", "_pots", "_repeats", "answers", "calls", "runs")

    def __init__(self, engine: Engine, asked: Asked[T]) -> None:
        if asked.max_rounds < 1:
            raise InvalidRequest(
                f"max_rounds must be 1 or more, not {asked.max_rounds!r}", param="max_rounds"
            )
        limit = asked.route.deadline_s
        self._deadline = engine.clock.now() + (limit if asked.timeout is None else min(asked.timeout, limit))
        self._engine = engine
        self._asked = asked
        self._chat = asked.chat
        self._repeats = Repeats()
        self._pots = asked.pots
        if asked.functions and asked.route.max_cost is not None:
            self._pots += (Pot("this request", asked.route.max_cost),)
        if asked.functions and asked.route.max_total_tokens is not None:
            self._pots += (Pot("this request", asked.route.max_total_tokens, unit="tokens"),)
        self.calls: list[Call] = []
        """The record of every round, of one that failed too."""
        self.answers: list[Answer[Any]] = []
        """Those that asked for functions, in order."""
        self.runs: list[ToolRun] = []
        """What was run for them, in order."""

    async def ask(self, *, stream: bool, watch: Callable[[str | None], None] | None = None) -> Opened:
        """Send the question as it now stands; `watch` hears the pieces of an answer with a form. Raises what `chat` raises."""
        asked, engine = self._asked, self._engine
        route = asked.route
        call = engine.new_call(model=route.name, stream=stream)
        self.calls.append(call)
        call.route, call.user, call.tags = route.name, asked.user, dict(asked.tags)
        if asked.functions:
            call.tags["loop"] = self.answers[0].id if self.answers else call.id
        request = Request(
            body=Body(chat=self._chat),
            route=route,
            call=call,
            cache_control=asked.cache_control,
            idempotency_key=self._key(),
            stream=stream,
            wants_usage=True,
            max_tokens=route.output_limit(self._chat.max_tokens),
            pots=self._pots,
            timeout_s=asked.timeout,
            deadline=self._deadline,
            output=asked.shape,
            watch=None if asked.shape is None else watch,
        )
        try:
            return Opened(await engine.handle(request), call)
        except HeadraceError as error:
            self.end(call, error.http_status)
            raise
        except BaseException:
            self.end(call, 499)
            raise

    def _key(self) -> str | None:
        """The key of this round. Of a later one it follows from what the functions said too: where they say something else the next time, that is
        another request."""
        key = self._asked.idempotency_key
        if key is None or not self.answers:
            return key
        said = hashlib.sha256(msgspec.json.encode([read_key(key), self._chat]))
        return f"round {len(self.answers) + 1} {said.hexdigest()}"

    async def whole(self) -> Answer[T]:
        """Ask and wait for the whole answer. Raises what `chat` raises."""
        opened = await self.ask(stream=False)
        try:
            reply = await collect(opened.stream)
        except BaseException:
            self.end(opened.call, 499)
            raise
        self.end(opened.call, 200)
        return self.answer(reply, opened.call)

    async def finish(self) -> Answer[T]:
        """Ask, and go on until it is answered. Raises what `chat` raises."""
        while await self.go_on(answer := await self.whole()):
            pass
        return answer

    def end(self, call: Call, status: int) -> None:
        """Close the record of a round, with the HTTP status that a caller of the gateway would have got."""
        call.end(status, self._engine.clock.now())

    def answer(self, reply: Reply, call: Call) -> Answer[T]:
        """A round's whole answer, with the rounds before it.

        Raises:
            ModelRefused: A value was asked for, and the model declined.
            InvalidOutput: See `read_value`.
        """
        shape, before, runs = self._asked.shape, tuple(self.answers), tuple(self.runs)
        if shape is None or (reply.tool_calls and self._asked.chat.tools):
            return Answer(reply, call, None, before, runs)
        return Answer(reply, call, read_value(reply, shape, call), before, runs)

    async def go_on(self, answer: Answer[T]) -> bool:
        """Run what `answer` calls, so that `ask` sends the results; False where it is the last.

        Raises:
            ToolLoopStopped: The model goes on calling functions, or calls the same three times.
        """
        asked, calls = self._asked, answer.tool_calls
        told_only = {tool.name for tool in asked.chat.tools} - asked.functions.keys()
        if not asked.functions or not calls or any(call.name in told_only for call in calls):
            return False
        self.answers.append(answer)
        try:
            self._repeats.count(calls)
            if len(self.answers) >= asked.max_rounds:
                raise ToolLoopStopped(
                    f"the model still calls functions after {asked.max_rounds} rounds: "
                    f"{', '.join(call.name for call in calls)}",
                    reason="max_rounds",
                )
        except ToolLoopStopped as stopped:
            stopped.answers, stopped.runs = tuple(self.answers), tuple(self.runs)
            raise
        results, ran = await run_calls(
            calls,
            asked.functions,
            approve=asked.approve,
            timeout_s=asked.tool_timeout,
            deadline=self._deadline,
            clock=self._engine.clock,
        )
        self.runs += ran
        said = Message(role="assistant", content=answer.content)
        self._chat = msgspec.structs.replace(self._chat, messages=(*self._chat.messages, said, results))
        return True
