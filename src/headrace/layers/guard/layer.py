"""Redacts a request before anything below sees it, and puts the values back in the answer; looks at what comes from outside, and at what is
answered.

It stands above the cache, so that neither cache, ledger, trace nor provider ever has a value; they live in this request alone. Counts by
kind are all that is said about them.
"""

from __future__ import annotations

import logging
import secrets
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from hashlib import blake2b
from math import isinf
from typing import TypeAlias

import msgspec

from headrace.call import Call
from headrace.clock import Clock, timeout_at
from headrace.dialects.openai_chat.embeddings import NAME as EMBEDDINGS
from headrace.dialects.texts import change_body, in_json
from headrace.errors import AnswerBlocked, HeadraceError, InvalidRequest, RequestBlocked
from headrace.guards import Finding, Judge, Judgement, Redactor, Restorer, Values, find_injections
from headrace.guards.judge import Side
from headrace.guards.outgoing import Violation
from headrace.guards.redact import as_json, exchanger
from headrace.guards.untrusted import fenced
from headrace.handler import AnswerPolicy, Body, GuardPolicy, Handler, OneBatch, Request, Stream, assemble
from headrace.layers.guard.checked import Checked, CheckedStream
from headrace.layers.guard.restored import Restored
from headrace.types import Batch, Chat, Document, Text, ToolResult

__all__ = ["Guard", "Known", "ModelJudge"]

logger = logging.getLogger("headrace.guard")

ModelJudge: TypeAlias = Callable[[str, Side, str, Request], Awaitable[Judgement]]
"""A route's name, which side, the text, and the request that it is for."""


REMEMBERED = 4_096
"""Texts of a policy of which it is known where their values are; the one unused for longest goes first."""

WORTH_IT = 200
"""Characters from which remembering is cheaper than looking again."""


PART = 16_384
"""Characters that are looked through at a time: some 8 ms (1 MB of a transcript took 0.55 s)."""


class Known:
    """A redactor that remembers where the values of a text are, since a conversation is sent again with every turn. Kept are places and
    kinds under a keyed hash of the text: no text and no value."""

    __slots__ = ("_found", "_secret", "redactor")

    def __init__(self, redactor: Redactor) -> None:
        self.redactor = redactor
        self._secret = secrets.token_bytes(32)
        self._found: OrderedDict[bytes, tuple[Finding, ...]] = OrderedDict()

    def find(self, text: str) -> Sequence[Finding]:
        """As the redactor's own."""
        if len(text) < WORTH_IT:
            return self.redactor.find(text)
        key = blake2b(text.encode("utf-8", "surrogatepass"), key=self._secret, digest_size=16).digest()
        found = self._found.get(key)
        if found is None:
            found = self._found[key] = tuple(self.redactor.find(text))
            if len(self._found) > REMEMBERED:
                self._found.popitem(last=False)
        else:
            self._found.move_to_end(key)
        return found


class Guard:
    """The layer; it does nothing for routes without a policy.

    Args:
        judges: By the names that routes give them.
        model_judge: Asks a route of that name in place of a judge.
    """

    __slots__ = ("_clock", "_judges", "_known", "_model_judge")

    def __init__(self, clock: Clock, judges: Mapping[str, Judge], model_judge: ModelJudge) -> None:
        self._clock = clock
        self._judges = judges
        self._model_judge = model_judge
        self._known: dict[GuardPolicy, Known] = {}

    def __call__(self, inner: Handler) -> Handler:
        async def handle(request: Request) -> Stream:
            policy = request.route.guard
            if policy is None or request.call.purpose != "answer":
                return await inner(request)
            if policy.answer is not None or policy.judge_answers:
                _only_one(request, policy)
            await self._search(request.body, policy)
            body, values = self.redacted(request.body, policy, request.call)
            if policy.injections != "off":
                _look_for_injections(body, policy, request.call)
            if policy.judge:
                await self._judge("request", _last_words(body), request, policy)
            asked = request
            if body is not request.body:
                asked = msgspec.structs.replace(
                    request, body=body, redacted=values, watch=_restoring(request.watch, values)
                )
            if policy.judge_answers or (policy.answer is not None and policy.answer.action == "block"):
                asked = msgspec.structs.replace(asked, watch=None)  # nobody hears what was not looked at
            stream = await inner(asked)
            if policy.answer is not None or policy.judge_answers:
                stream = await self._looked_at(stream, request, policy)
            if not values:
                return stream
            if request.stream and _answers(body) > 1:
                request.call.warn("guard: only the first answer has its values back where a stream cuts them")
            json_text = request.output is not None or _asks_for_json(body)
            return RestoredStream(stream, Restored(values, json_text=json_text))

        return handle

    async def _looked_at(self, stream: Stream, request: Request, policy: GuardPolicy) -> Stream:
        """`stream` without what must not come back: as it comes, or all at once where nothing may be given out before."""
        rules = policy.answer
        if rules is not None:
            stream = CheckedStream(stream, Checked(rules, _found(rules, request.call)))
        if request.stream and not policy.judge_answers and (rules is None or not rules.whole):
            return stream
        frames: Batch = []
        try:
            async for batch in stream:
                frames += batch
        finally:
            await stream.aclose()
        if policy.judge_answers:
            reply = assemble([event for frame in frames for event in frame.events])
            await self._judge("answer", reply.text, request, policy)
        return OneBatch(frames)

    async def _judge(self, side: Side, text: str, request: Request, policy: GuardPolicy) -> None:
        """Raises `RequestBlocked` or `AnswerBlocked` unless the judge finds `text` safe."""
        if not text.strip():
            return
        name, judge = policy.judge, self._judges.get(policy.judge)
        try:
            async with timeout_at(self._clock, None if isinf(request.deadline) else request.deadline):
                said = self._model_judge(name, side, text, request) if judge is None else judge(side, text)
                judgement = said if isinstance(said, Judgement) else await said
        except Exception as error:  # noqa: BLE001  (a judge of one's own may raise anything)
            kind = error.kind if isinstance(error, HeadraceError) else type(error).__name__
            logger.warning("the judge %s gave no opinion on a %s: %s", name, side, kind)
            if policy.judge_fails == "pass":
                request.call.warn(f"guard: the judge {name} gave no opinion on the {side}")
                return
            judgement = Judgement(False, f"the judge gave no opinion: {kind}")
        if not judgement.safe:
            _count(request.call, "block", "judge")
            refusal = f"the {side} is not let through by {name}" + (
                f": {judgement.why}" if judgement.why else ""
            )
            if side == "request":
                raise RequestBlocked(refusal, reason="judge", found=(judgement.why,))
            raise AnswerBlocked(refusal, reason="judge", target=str(request.call.target or ""))

    def _knowledge(self, policy: GuardPolicy) -> Known:
        known = self._known.get(policy)
        if known is None:
            known = self._known[policy] = Known(Redactor(policy.redact, dict(policy.patterns)))
        return known

    async def _search(self, body: Body, policy: GuardPolicy) -> None:
        """Look through a large body in parts, so that other requests get their turns; what was found is remembered."""
        if body.wire is None or len(body.wire) < PART or not (policy.redact or policy.patterns):
            return
        known, seen = self._knowledge(policy), 0
        for text in _texts(body)[0]:
            known.find(text)
            seen += len(text)
            if seen >= PART:
                seen = 0
                await self._clock.sleep(0.0)

    def redacted(self, body: Body, policy: GuardPolicy, call: Call | None = None) -> tuple[Body, Values]:
        """`body` as it may leave, and what its placeholders stand for. What was done is named on `call`, in numbers.

        Raises:
            RequestBlocked: The policy blocks what was found.
            InvalidRequest: The body cannot be read.
        """
        if not policy.redact and not policy.patterns:
            return body, {}
        known = self._knowledge(policy)
        texts, own = _texts(body)
        values = known.redactor.values(texts, own, known.find)
        if not values:
            return body, {}
        kinds = Counter(name[1 : name.rindex("_")].lower() for name in values)
        said = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
        if call is not None:
            for kind, count in kinds.items():
                _count(call, policy.action, kind, count)
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
        if body.dialect is not None and body.dialect.name == EMBEDDINGS:
            # Each text is asked for its own vector: what stands beside it must not number its values.
            each = {text: known.redactor.values([text], find=known.find) for text in texts}
            return change_body(body, lambda text, _: exchanger(each[text])(text)), {}
        exchange = exchanger(values, also_json=True)
        return change_body(body, lambda text, _: exchange(text)), values


def _texts(body: Body) -> tuple[list[str], list[str]]:
    """The texts in which values are looked for, and those of them whose placeholders are the caller's own."""
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
    return texts, own


def _count(call: Call, action: str, kind: str, number: int = 1) -> None:
    call.guarded[action, kind] = call.guarded.get((action, kind), 0) + number


def _look_for_injections(body: Body, policy: GuardPolicy, call: Call) -> None:
    """Raises `RequestBlocked` where text from outside speaks to the model and the policy blocks it; else it is named."""
    for place, text in _from_outside(body.chat):
        reasons = find_injections(text)
        if not reasons:
            continue
        said = f"{place} speaks to the model ({', '.join(reasons)})"
        _count(call, policy.injections, "injection")
        if policy.injections == "block":
            raise RequestBlocked(
                f"{said}, which this route does not let pass: leave it out", reason="injection", found=reasons
            )
        call.warn(f"guard: {said}")


def _from_outside(chat: Chat) -> Iterator[tuple[str, str]]:
    """Results of tools, documents, and what `untrusted` fenced; each with its place."""
    for number, message in enumerate(chat.messages):
        for block in message.content:
            match block:
                case ToolResult(content=content):
                    for part in content:
                        if isinstance(part, Text):
                            yield f"the tool result in message {number}", part.text
                case Document(text=str(text)):
                    yield f"the document in message {number}", text
                case Text(text=text):
                    for inside in fenced(text):
                        yield f"untrusted text in message {number}", inside
                case _:
                    pass


def _last_words(body: Body) -> str:
    """What the user said last."""
    for message in reversed(body.chat.messages):
        if message.role == "user":
            texts = [block.text for block in message.content if isinstance(block, Text)]
            if texts:
                return "\n".join(texts)
    return ""


def _found(rules: AnswerPolicy, call: Call) -> Callable[[Violation], None]:
    def tell(violation: Violation) -> None:
        _count(call, rules.action, violation.reason)
        if rules.action == "flag":
            call.warn(f"guard: the answer has {violation.said}")
            return
        raise AnswerBlocked(
            f"the answer has {violation.said}, which this route does not let pass",
            reason=violation.reason,
            target=str(call.target or ""),
        )

    return tell


def _only_one(request: Request, policy: GuardPolicy) -> None:
    """Of several answers only the first is looked at. Raises `InvalidRequest` where the others may not be given out unseen."""
    asked = _answers(request.body)
    if asked > 1 and (
        policy.judge_answers or (policy.answer is not None and policy.answer.action == "block")
    ):
        raise InvalidRequest(
            f"n is {asked}, but the route {request.route.name} looks at what is answered, one answer at a time: "
            "leave out n and ask again for each",
            param="n",
        )
    if asked > 1:
        request.call.warn("guard: only the first answer is looked at")


def _answers(body: Body) -> int:
    """How many answers are asked for."""
    if body.wire is not None and b'"n"' not in body.wire:
        return 1
    return body.chat.n or 1


def _asks_for_json(body: Body) -> bool:
    """Whether the answer's text is to be JSON."""
    if body.wire is not None and b"format" not in body.wire:
        return False
    form = body.chat.response_format
    return form is not None and form.kind != "text"


def _restoring(
    watch: Callable[[str | None], None] | None, values: Values
) -> Callable[[str | None], None] | None:
    """`watch`, which hears JSON, with the values in it."""
    if watch is None:
        return None
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
