"""The fault matrix: 52 ways in which a provider fails, and what a caller of the gateway gets then.

    python benchmarks/fault_matrix.py [--only 1,42,51] [--json FILE|-] [--out FILE] [--strict]

Every fault meets the gateway over real sockets in OpenAI's and Anthropic's dialect: in a buffered answer, in a stream before its first
text, and in a stream after some text, where it can. The route has two targets, a deadline of 2 s and else our defaults; the first target
fails, the second is well. A fake provider plays the faults and keeps a bill. A case has raw facts, and what is wrong with it is a pure function of
them (`judge`). Nothing is wrong when

- the whole answer of one target came, or exactly one typed error, within the deadline and 250 ms;
- a stream ends with `[DONE]` or `message_stop` exactly when its answer is whole;
- the ledger has every attempt: at the provider's very bill where its usage arrived, else at an upper bound marked `estimated`, never below;
- the key went nowhere else, and after the fault as many tasks, connections and descriptors are open as before.

The cases of one fault run side by side, the faults one after the other, so that a leak has a culprit. `--strict` exits with 1 unless all is well.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import hashlib
import json
import ssl
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from email.utils import formatdate
from pathlib import Path
from typing import Any, Literal

import httpx

from headrace.config import load
from headrace.engine import Engine
from headrace.gateway.serve import Gateway, bind
from headrace.store import AttemptRow
from headrace.testing import (
    Answer,
    BadChunk,
    BadKey,
    Blackhole,
    Bomb,
    CleanCut,
    CutJson,
    CutStream,
    Doubled,
    Empty,
    ErrorEvent,
    ErrorIn200,
    FakeProvider,
    Fault,
    Garbage,
    Headless,
    Html,
    Huge,
    HugeHeader,
    Interim,
    LengthAndChunks,
    ManyHeaders,
    NoSuchModel,
    QuotaGone,
    RateLimited,
    Raw,
    Redirect,
    Refuse,
    Reordered,
    Reset,
    ServerError,
    Silence,
    SlowDrip,
    Stall,
    Status,
    TwoLengths,
    Unfinished,
    Unterminated,
    UntilClose,
    WrongCharset,
    WrongLength,
)
from headrace.testing.wire import Received

__all__ = ["FAULTS", "Booked", "Case", "Facts", "Kind", "Leaks", "Row", "judge", "leaked", "run"]

DEADLINE_S, GRACE_S, HANG_S = 2.0, 0.25, 8.0
QUIET_S = 2.0
"""Seconds that sockets have after a fault to close."""

AFTER = 8
"""Words before a fault "after text"."""

PRIMARY, FALLBACK = (" ".join(f"{name}{number:03}" for number in range(24)) for name in ("pr", "fb"))
GOOD = Answer(PRIMARY, delay_s=0.002)
BARE_CALL = Answer(tool_calls=[("look", '{"at": "the river", "for": "fish"}')], delay_s=0.002)
CALL = Answer("Look: ", tool_calls=[("look", '{"at": "the river", "for": "fish"}')], delay_s=0.002)
HALF_A_CALL = Answer("Look: ", tool_calls=[("look", '{"at": "the ri')], delay_s=0.002)

INPUT_NANO, OUTPUT_NANO = 2_000, 8_000
"""Nano-dollars for a token: 2 and 8 dollars for a million."""

KEY = "hr-fault-matrix-0123456789"
PEM = Path(__file__).parents[1] / "tests" / "providers" / "localhost.pem"

DIALECTS = ("openai", "anthropic")
Form = Literal["buffered", "before", "after"]
FORMS: tuple[Form, ...] = ("buffered", "before", "after")
Place = Literal["main", "refused", "blackhole", "unknown", "untrusted", "fin", "rst"]


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One fault of the matrix, or one of the kinds that it has.

    Attributes:
        number: Of the matrix.
        fault: Makes it from the content chunks after which it strikes; given the address of a host that must not be asked.
        forms: Where it applies.
        right: `served`: the whole answer must come; `told`: exactly one typed error; `either`. Behind some text always `either`.
        place: What stands at the first target's address.
        whole_calls: The route releases tool calls when they are whole.
        without_finish: The first target's answer has no finish reason, and its dialect has a terminator that is enough.
    """

    number: int
    name: str
    fault: Callable[[int, str], Fault] = lambda after, elsewhere: ServerError()
    forms: tuple[Form, ...] = FORMS[:2]
    right: Literal["served", "told", "either"] = "served"
    place: Place = "main"
    whole_calls: bool = False
    without_finish: bool = False


def _head(number: int, name: str, fault: Fault, right: Any = "served") -> Kind:
    return Kind(number=number, name=name, fault=lambda after, elsewhere: fault, right=right)


def _everywhere(
    number: int, name: str, fault: Callable[[int], Fault], forms: tuple[Form, ...] = FORMS
) -> Kind:
    return Kind(number=number, name=name, fault=lambda after, elsewhere: fault(after), forms=forms)


def _soon() -> str:
    return formatdate(time.time() + 1.0, usegmt=True)


STREAMS: tuple[Form, ...] = ("before", "after")
ENDS: tuple[Form, ...] = ("buffered", "after")
TOO_LARGE = "Request too large for fake on tokens per min (TPM): Limit 10000, Requested 20000."

FAULTS: tuple[Kind, ...] = (
    Kind(number=1, name="refused", place="refused"),
    Kind(number=2, name="blackhole", place="blackhole"),
    Kind(number=3, name="DNS failure", place="unknown"),
    Kind(number=4, name="TLS bad certificate", place="untrusted"),
    Kind(number=5, name="accept, then FIN", place="fin"),
    Kind(number=6, name="accept, then RST", place="rst"),
    _head(7, "accept, then silence", Silence(answer=GOOD)),
    _head(8, "slow headers", SlowDrip(seconds=1.0, answer=GOOD)),
    _head(9, "malformed status line", Raw(b"HTPP/9 well\r\ncontent-length: 2\r\n\r\n{}")),
    _head(10, "1 MiB header", HugeHeader()),
    _head(11, "2000 headers", ManyHeaders()),
    _head(12, "two content-lengths", TwoLengths(answer=GOOD)),
    _head(13, "content-length and chunks", LengthAndChunks(answer=GOOD)),
    _head(14, "HTTP/1.0 close", UntilClose(answer=GOOD)),
    _everywhere(14, "HTTP/1.0 close, cut", lambda after: UntilClose(after=after, answer=GOOD)),
    _head(15, "1xx flood", Interim(answer=GOOD)),
    _head(16, "redirect loop", Redirect()),
    Kind(number=16, name="redirect elsewhere", fault=lambda after, elsewhere: Redirect(elsewhere)),
    _head(17, "400", Status(400), right="told"),
    _head(18, "401", BadKey()),
    _head(19, "403", Status(403)),
    _head(20, "404", NoSuchModel()),
    _head(21, "408", Status(408)),
    _head(22, "409", Status(409)),
    _head(23, "413", Status(413)),
    _head(24, "422", Status(422), right="told"),
    _head(25, "429 with seconds", RateLimited(retry_after=1)),
    _head(26, "429 with ms", Status(429, headers={"retry-after-ms": "300"})),
    Kind(number=27, name="429 with a date", fault=lambda after, elsewhere: RateLimited(retry_after=_soon())),
    _head(28, "429 with garbage", RateLimited(retry_after="as soon as possible")),
    _head(28, "429 with a negative wait", RateLimited(retry_after=-5)),
    _head(28, "429 with a huge wait", RateLimited(retry_after=1e12)),
    _head(29, "429 quota gone", QuotaGone()),
    _head(30, "429 request too large", RateLimited(message=TOO_LARGE)),
    _head(31, "500", ServerError()),
    _head(32, "502 HTML", Html(502)),
    _head(33, "503", Status(503)),
    _head(34, "504", Status(504)),
    _head(35, "529", Status(529)),
    _head(36, "599", Status(599)),
    _head(36, "799", Status(799)),
    _head(37, "500, x-should-retry: false", Status(500, should_retry=False)),
    _head(37, "400, x-should-retry: true", Status(400, should_retry=True), right="told"),
    _head(38, "200 HTML", Html(200)),
    _head(39, "200 empty", Empty()),
    _head(40, "cut JSON", CutJson(answer=GOOD)),
    _everywhere(41, "content-length too long", lambda after: WrongLength(10, answer=GOOD), ENDS),
    _everywhere(41, "content-length too short", lambda after: WrongLength(-10, answer=GOOD), ENDS),
    _head(42, "gzip bomb", Bomb()),
    _everywhere(43, "invalid UTF-8", lambda after: WrongCharset(after, answer=GOOD)),
    _head(44, "200 with an error", ErrorIn200()),
    _everywhere(45, "100 MB answer", lambda after: Huge(after=after, answer=GOOD)),
    _everywhere(46, "stall", lambda after: Stall(after, answer=GOOD)),
    _everywhere(47, "RST", lambda after: Reset(after, answer=GOOD)),
    _everywhere(48, "FIN without last chunk", lambda after: CutStream(after, answer=GOOD)),
    _everywhere(49, "clean end, no finish", lambda after: CleanCut(after, answer=GOOD)),
    _head(49, "clean end, no terminator", Unterminated(answer=GOOD)),
    _everywhere(50, "garbage frame", lambda after: Garbage(after, answer=GOOD)),
    _everywhere(50, "bad chunk size", lambda after: BadChunk(after, answer=GOOD)),
    _everywhere(51, "error event", lambda after: ErrorEvent(after, answer=GOOD), STREAMS),
    _everywhere(
        51, "error event, then [DONE]", lambda after: ErrorEvent(after, done=True, answer=GOOD), STREAMS
    ),
    _everywhere(52, "duplicate frame", lambda after: Doubled(after, answer=GOOD)),
    _everywhere(52, "reordered frames", lambda after: Reordered(after, answer=GOOD), STREAMS),
    _head(52, "missing first frames", Headless(answer=GOOD)),
    Kind(
        number=52,
        name="missing finish",
        fault=lambda after, elsewhere: Unfinished(99 if after else 0, answer=GOOD),
        forms=FORMS,
        without_finish=True,
    ),
    Kind(
        number=52,
        name="tool arguments cut",
        fault=lambda after, elsewhere: CutStream(4, answer=CALL if after else BARE_CALL),
        forms=STREAMS,
        whole_calls=True,
    ),
    Kind(
        number=52,
        name="half a tool call, well ended",
        fault=lambda after, elsewhere: _Saying(HALF_A_CALL),
        forms=("after",),
        whole_calls=True,
    ),
)


@dataclass(frozen=True, slots=True)
class _Saying(Fault):
    """This answer."""

    answer: Answer | None

    async def act(self, wire: Any) -> None:
        await wire.play()


# --- facts and what is wrong with them --------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Booked:
    """One attempt as the ledger has it (`cost_nano` None: unknown), or as the provider bills it. `tokens`: input and output, None if not reported."""

    target: str
    request_id: str
    cost_nano: int | None
    tokens: tuple[int, int] | None = None
    wasted_nano: int | None = 0
    estimated: bool = False
    outcome: str = ""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What was seen, without judgement.

    Attributes:
        ending: How HTTP ended: `whole`, `cut`, or `hang` if the client gave up.
        status: Of the gateway's answer; 0 if there was none.
        text_sha: Hash of the text that came; `whole` says of which whole answer it is.
        finishes, terminators, errors: How many finish reasons, `[DONE]` or `message_stop`, and typed errors came.
        noise: Events or a body that could not be read, or came behind the end.
        strayed: Requests at a host that the provider redirects to.
        ended: Whether the ledger has the call's end.
    """

    ending: Literal["whole", "cut", "hang"]
    status: int = 0
    elapsed_s: float = 0.0
    text_sha: str = ""
    whole: Literal["", "primary", "fallback"] = ""
    finishes: int = 0
    terminators: int = 0
    errors: int = 0
    error: str = ""
    noise: int = 0
    strayed: int = 0
    ended: bool = True
    booked: tuple[Booked, ...] = ()
    billed: tuple[Booked, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Case:
    """One fault in one form and dialect."""

    kind: int
    dialect: str
    form: Form

    @property
    def fault(self) -> Kind:
        """The fault."""
        return FAULTS[self.kind]

    @property
    def streamed(self) -> bool:
        """Whether a stream is asked for."""
        return self.form != "buffered"

    @property
    def name(self) -> str:
        """A route's and a provider's name."""
        return f"f{self.kind:02}-{self.dialect}-{self.form}"


def judge(case: Case, facts: Facts) -> list[str]:
    """What is wrong; pure."""
    wrong: list[str] = []
    if facts.ending == "hang":
        return ["hang"]
    if facts.ending == "cut":
        wrong.append("HTTP was cut")
    if facts.elapsed_s > DEADLINE_S + GRACE_S:
        wrong.append(f"late: {facts.elapsed_s:.2f} s")
    if facts.noise:
        wrong.append(f"{facts.noise} unreadable or behind the end")
    if facts.strayed:
        wrong.append("the key went elsewhere")
    if facts.errors:
        wrong += _of_error(case, facts)
    else:
        wrong += _of_answer(case, facts)
    if not facts.ended:
        return [*wrong, "the ledger has no end"]
    return wrong + _of_books(facts)


def _of_error(case: Case, facts: Facts) -> list[str]:
    wrong = [f"{facts.errors} errors"] if facts.errors != 1 else []
    if facts.terminators:
        wrong.append("a false terminator")
    if not facts.error:
        wrong.append("an error without a type")
    if case.form != "after" and facts.status < 400:
        wrong.append(f"an error with status {facts.status}")
    if case.form != "after" and case.fault.right == "served":
        wrong.append("not served")
    return wrong


def _of_answer(case: Case, facts: Facts) -> list[str]:
    wrong = [] if facts.status == 200 else [f"status {facts.status}"]
    if not facts.whole:
        wrong.append(
            "a truncated or wrong answer that looks whole" if facts.finishes else "no answer and no error"
        )
    if facts.finishes != (0 if case.fault.without_finish and facts.whole == "primary" else 1):
        wrong.append(f"{facts.finishes} finish reasons")
    if case.streamed and facts.terminators != 1:
        wrong.append(f"{facts.terminators} terminators")
    if case.form != "after" and case.fault.right == "told":
        wrong.append("served, where the error should be told")
    return wrong


def _of_books(facts: Facts) -> list[str]:
    """Every request that is on the bill is in the ledger, by its id; where the id never arrived, by what the attempts at its target cost."""
    wrong: list[str] = []
    sent = [attempt for attempt in facts.booked if attempt.outcome != "skipped"]
    billed = {bill.request_id: bill for bill in facts.billed}
    for attempt in sent:
        bill = billed.pop(attempt.request_id, None)
        if attempt.cost_nano is None:
            wrong.append(f"{attempt.target}: cost unknown")
        elif bill is not None and bill.cost_nano is not None:
            wrong += _of_attempt(attempt, bill.cost_nano, bill.tokens)
        elif attempt.cost_nano and not attempt.estimated:
            wrong.append(f"{attempt.target}: {attempt.cost_nano} booked that nobody bills")
        if attempt.outcome == "ok":
            wrong += (
                [f"{attempt.target}: {attempt.wasted_nano} wasted, yet it answered"]
                if attempt.wasted_nano
                else []
            )
        elif attempt.wasted_nano != attempt.cost_nano:
            wrong.append(f"{attempt.target}: {attempt.outcome}, but not booked as wasted")
    for bill in billed.values():
        unknown = [one for one in sent if one.target == bill.target and not one.request_id]
        if (bill.cost_nano or 0) > sum(one.cost_nano or 0 for one in unknown):
            wrong.append(f"{bill.target}: {bill.cost_nano} billed that nobody booked")
    if (answered := sum(attempt.outcome == "ok" for attempt in sent)) != (0 if facts.errors else 1):
        wrong.append(f"{answered} attempts are said to have answered")
    return wrong


def _of_attempt(attempt: Booked, bill: int, tokens: tuple[int, int] | None) -> list[str]:
    cost = attempt.cost_nano or 0
    if cost < bill:
        return [f"{attempt.target}: {cost} booked below the bill of {bill}"]
    if not attempt.estimated and (cost != bill or attempt.tokens != tokens):
        return [f"{attempt.target}: {cost} for {attempt.tokens} booked, {bill} for {tokens} billed"]
    return []


@dataclass(frozen=True, kw_only=True)
class Leaks:
    """What is open at a quiet moment: tasks, descriptors (but for kept connections), connections in use at the provider, upstream and at
    the gateway."""

    tasks: int
    descriptors: int
    provider: int
    upstream: int
    gateway: int


def leaked(before: Leaks, after: Leaks) -> list[str]:
    """What is more than before; pure."""
    return [
        f"{getattr(after, field.name) - getattr(before, field.name)} {field.name} leaked"
        for field in dataclasses.fields(Leaks)
        if getattr(after, field.name) > getattr(before, field.name)
    ]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One case, its facts, and what is wrong."""

    number: int
    fault: str
    dialect: str
    form: Form
    facts: Facts
    before: Leaks
    after: Leaks
    wrong: tuple[str, ...]

    @property
    def result(self) -> str:
        """In a word."""
        if self.wrong:
            return "FAIL"
        return "error" if self.facts.errors else self.facts.whole


# --- reading the gateway's answer -------------------------------------------------------------------------------------


def read_answer(dialect: str, streamed: bool, status: int, body: bytes) -> dict[str, Any]:
    """The text, finishes, terminators, errors and noise of a body, as members of `Facts`; pure and apart from `headrace.dialects`."""
    found = _Reading(dialect)
    if streamed and status == 200:
        for block in body.split(b"\n\n"):
            lines = [line for line in block.split(b"\n") if line and not line.startswith(b":")]
            data = b"\n".join(line[5:].strip() for line in lines if line.startswith(b"data:"))
            if data:
                found.event(data)
            elif lines:
                found.noise += 1
    else:
        found.whole(status, body)
    text = "".join(found.text)
    return {
        "text_sha": hashlib.sha256(text.encode()).hexdigest()[:12] if text else "",
        "whole": {PRIMARY: "primary", FALLBACK: "fallback"}.get(text, ""),
        "finishes": found.finishes,
        "terminators": found.terminators,
        "errors": found.errors,
        "error": found.error,
        "noise": found.noise,
    }


class _Reading:
    def __init__(self, dialect: str) -> None:
        self.dialect = dialect
        self.text: list[str] = []
        self.finishes = self.terminators = self.errors = self.noise = 0
        self.error = ""

    def event(self, data: bytes) -> None:
        """One event of a stream."""
        if self.terminators or self.errors:
            self.noise += 1
        if data == b"[DONE]":
            self.terminators += 1
            return
        try:
            value = json.loads(data)
            if "error" in value:
                self._err(value["error"])
            elif self.dialect == "openai":
                self._chunk(value)
            else:
                self._message_event(value)
        except (ValueError, KeyError, TypeError, IndexError):
            self.noise += 1

    def whole(self, status: int, body: bytes) -> None:
        """A body of JSON."""
        try:
            value = json.loads(body)
            if status != 200:
                self._err(value["error"])
            elif self.dialect == "openai":
                choice = value["choices"][0]
                self.text.append(choice["message"]["content"] or "")
                self.finishes += choice["finish_reason"] is not None
            else:
                self.text += [block.get("text", json.dumps(block.get("input"))) for block in value["content"]]
                self.finishes += value["stop_reason"] is not None
        except (ValueError, KeyError, TypeError, IndexError):
            self.noise += 1

    def _err(self, error: Any) -> None:
        self.errors += 1
        self.error = f"{error['type']}: {error['message'][:120]}"

    def _chunk(self, value: Any) -> None:
        for choice in value["choices"]:
            delta = choice["delta"]
            self.text.append(delta.get("content") or "")
            self.text += [call["function"].get("arguments") or "" for call in delta.get("tool_calls") or ()]
            self.finishes += choice["finish_reason"] is not None

    def _message_event(self, value: Any) -> None:
        match value["type"]:
            case "content_block_delta":
                delta = value["delta"]
                self.text.append(delta.get("text") or delta.get("partial_json") or "")
            case "message_delta":
                self.finishes += value["delta"].get("stop_reason") is not None
            case "message_stop":
                self.terminators += 1
            case _:
                pass


# --- running ----------------------------------------------------------------------------------------------------------


def cases(only: Iterable[int] = (), *, dialects: Sequence[str] = DIALECTS) -> list[Case]:
    """All cases, or those of some numbers of the matrix."""
    wanted = set(only)
    return [
        Case(kind=at, dialect=dialect, form=form)
        for at, kind in enumerate(FAULTS)
        if not wanted or kind.number in wanted
        for dialect in dialects
        for form in kind.forms
    ]


def _config(wanted: Sequence[Case], places: dict[Place, str], good: str) -> str:
    lines = [f'[keys.bench]\nvalue = "{KEY}"\n[store]\npath = ":memory:"']

    def provider(name: str, dialect: str, url: str) -> None:
        spoken, url = ("openai-chat", f"{url}/v1") if dialect == "openai" else ("anthropic", url)
        lines.append(f'[providers.{name}]\ndialect = "{spoken}"\nbase_url = "{url}"\napi_key = "sk-matrix"')

    for dialect in DIALECTS:
        provider(f"good-{dialect}", dialect, good)
    for case in wanted:
        provider(case.name, case.dialect, places[case.fault.place])
        targets = (f"{case.name}/{case.name}-primary", f"good-{case.dialect}/{case.name}-fallback")
        levels = ", ".join(f'{{ target = "{target}", attempts = 2 }}' for target in targets)
        whole = '\ntool_calls = "whole"' if case.fault.whole_calls else ""
        lines.append(f'[routes.{case.name}]\ndeadline = "{DEADLINE_S:g}s"\ncascade = [{levels}]{whole}')
        lines += [
            f'[prices."{target}"]\ninput_usd_per_mtok = "{INPUT_NANO // 1000}"\noutput_usd_per_mtok = "{OUTPUT_NANO // 1000}"'
            for target in targets
        ]
    return "\n".join(lines)


class Bench:
    """The providers, the gateway and the client of one run."""

    def __init__(
        self, providers: Sequence[FakeProvider], elsewhere: FakeProvider, gateway: Gateway, url: str
    ) -> None:
        self.providers = providers
        self.elsewhere = elsewhere
        self.gateway = gateway
        self.url = url
        self.client = httpx.AsyncClient(
            timeout=None, limits=httpx.Limits(max_keepalive_connections=0), trust_env=False
        )

    def script(self, case: Case) -> None:
        """Tell the provider what to do for this case's two models."""
        after = AFTER if case.form == "after" else 0
        fault = case.fault.fault(after, f"{self.elsewhere.anthropic_url}/v1/messages")
        self.providers[0].on(f"{case.name}-primary", always=fault)
        self.providers[0].on(f"{case.name}-fallback", always=Answer(FALLBACK))

    async def facts(self, case: Case) -> Facts:
        """Run one case."""
        began, strayed = time.monotonic(), len(self.elsewhere.requests)
        status, body, ending, request_id = 0, b"", "whole", ""
        path = "/v1/chat/completions" if case.dialect == "openai" else "/v1/messages"
        asked: dict[str, Any] = {
            "model": case.name,
            "max_tokens": 256,
            "messages": [{"role": "user", "content": "Say it."}],
            "stream": case.streamed,
        }
        if case.fault.whole_calls:
            asked["tools"] = [TOOLS[case.dialect]]
        headers = {"authorization": f"Bearer {KEY}", "anthropic-version": "2023-06-01"}
        try:
            async with (
                asyncio.timeout(HANG_S),
                self.client.stream("POST", self.url + path, json=asked, headers=headers) as response,
            ):
                status, request_id = response.status_code, response.headers.get("x-request-id", "")
                async for piece in response.aiter_bytes():
                    body += piece
        except TimeoutError:
            ending = "hang"
        except httpx.HTTPError:
            ending = "cut"
        elapsed = time.monotonic() - began
        attempts = await self._booked(request_id) if ending != "hang" else None
        return Facts(
            ending=ending,  # type: ignore[arg-type]
            status=status,
            elapsed_s=round(elapsed, 3),
            strayed=len(self.elsewhere.requests) - strayed,
            ended=attempts is not None,
            booked=tuple(map(_booked, attempts or ())),
            billed=tuple(
                _billed(seen, case)
                for provider in self.providers
                for seen in provider.requests
                if seen.model.startswith(f"{case.name}-") and seen.billed is not None
            ),
            **read_answer(case.dialect, case.streamed, status, body),
        )

    async def _booked(self, request_id: str) -> Sequence[AttemptRow] | None:
        until = time.monotonic() + 1.0  # the client may have read the end before it is booked
        while time.monotonic() < until:
            stored = await self.gateway.engine.store.request(request_id, None)
            if stored is not None and stored.status is not None:
                return stored.attempts
            await asyncio.sleep(0.01)
        return None

    def open(self) -> Leaks:
        """What is open now."""
        transport: Any = self.gateway.engine.transport
        idle = transport.idle_connections
        return Leaks(
            tasks=len(asyncio.all_tasks()),
            descriptors=sum(1 for _ in Path("/proc/self/fd").iterdir()) - 2 * idle,
            provider=sum(provider.open_connections for provider in self.providers) - idle,
            upstream=transport.open_connections - idle,
            gateway=len(self.gateway.server.connections),
        )

    async def quiet(self, before: Leaks | None) -> Leaks:
        """What is open once no more is than `before`, or sockets had their time; None: once nothing is under way."""
        until = time.monotonic() + QUIET_S
        while True:
            now = self.open()
            settled = (
                now.provider == now.upstream == now.gateway == 0
                if before is None
                else not leaked(before, now)
            )
            if settled or time.monotonic() > until:
                return now
            await asyncio.sleep(0.01)


_PARAMETERS = {"type": "object", "properties": {"at": {"type": "string"}}}
TOOLS = {
    "openai": {"type": "function", "function": {"name": "look", "parameters": _PARAMETERS}},
    "anthropic": {"name": "look", "input_schema": _PARAMETERS},
}


def _booked(row: AttemptRow) -> Booked:
    known = row.input_tokens is not None and row.output_tokens is not None
    return Booked(
        target=row.target_model,
        request_id=row.provider_request_id or "",
        cost_nano=row.cost_nano,
        tokens=(row.input_tokens or 0, row.output_tokens or 0) if known else None,
        wasted_nano=row.wasted_nano,
        estimated=row.estimated,
        outcome=row.outcome,
    )


def _billed(seen: Received, case: Case) -> Booked:
    usage = seen.billed
    assert usage is not None
    return Booked(
        target=seen.model,
        request_id=f"req_fake{seen.number:08d}",
        cost_nano=usage.input_tokens * INPUT_NANO + usage.output_tokens * OUTPUT_NANO,
        tokens=(usage.input_tokens, usage.output_tokens),
    )


async def run(wanted: Sequence[Case], *, told: Callable[[Row], None] = lambda row: None) -> list[Row]:
    """Run `wanted`; `told` hears of each row as its fault is over."""
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(PEM)
    main, fin, rst, untrusted, elsewhere, down = (
        FakeProvider(),
        FakeProvider(),
        FakeProvider(),
        FakeProvider(tls=tls),
        FakeProvider(),
        FakeProvider(),
    )
    fin.default, rst.default = Refuse(reset=False), Refuse(reset=True)
    async with contextlib.AsyncExitStack() as stack:
        await down.start()
        refused = down.anthropic_url
        await down.stop()
        for provider in (main, fin, rst, untrusted, elsewhere):
            await stack.enter_async_context(provider)
        hole = stack.enter_context(Blackhole())
        places: dict[Place, str] = {
            "main": main.anthropic_url,
            "refused": refused,
            "blackhole": hole.url,
            "unknown": "http://nowhere.invalid",
            "untrusted": untrusted.anthropic_url,
            "fin": fin.anthropic_url,
            "rst": rst.anthropic_url,
        }
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        path = Path(folder) / "headrace.toml"
        path.write_text(_config(wanted, places, main.anthropic_url))
        settings = load(path, environ={})
        sock = stack.enter_context(bind("127.0.0.1", 0))
        gateway = await stack.enter_async_context(Gateway(settings, sockets=[sock], engine=Engine(settings)))
        url = f"http://127.0.0.1:{sock.getsockname()[1]}"
        bench = Bench((main, fin, rst, untrusted, elsewhere), elsewhere, gateway, url)
        stack.push_async_callback(bench.client.aclose)
        rows: list[Row] = []
        for kind in dict.fromkeys(case.kind for case in wanted):
            for row in await _side_by_side(bench, [case for case in wanted if case.kind == kind]):
                rows.append(row)
                told(row)
        return rows


async def _side_by_side(bench: Bench, mine: Sequence[Case]) -> list[Row]:
    """The cases of one fault, and what is open before and after."""
    for case in mine:
        bench.script(case)
    before = await bench.quiet(None)
    found = await asyncio.gather(*(bench.facts(case) for case in mine))
    after = await bench.quiet(before)
    more = leaked(before, after)
    return [
        Row(
            number=case.fault.number,
            fault=case.fault.name,
            dialect=case.dialect,
            form=case.form,
            facts=facts,
            before=before,
            after=after,
            wrong=(*judge(case, facts), *more),
        )
        for case, facts in zip(mine, found, strict=True)
    ]


# --- telling ----------------------------------------------------------------------------------------------------------


def table(rows: Sequence[Row], took_s: float) -> str:
    """Every fault with what became of it, and the sums."""
    columns = [(dialect, form) for dialect in DIALECTS for form in FORMS]
    lines = [
        "primary, fallback: the whole answer of that target; error: one typed error; behind it the seconds it took",
        "",
        f"{'':34}" + "".join(f"{dialect:>17}" for dialect, _ in columns),
        f"{'':34}" + "".join(f"{form:>17}" for _, form in columns),
    ]
    for number, fault in dict.fromkeys((row.number, row.fault) for row in rows):
        cells = {(r.dialect, r.form): r for r in rows if (r.number, r.fault) == (number, fault)}
        said = [
            f"{cells[at].result} {cells[at].facts.elapsed_s:.2f}" if at in cells else "-" for at in columns
        ]
        lines.append(f"{number:2} {fault:<31}" + "".join(f"{cell:>17}" for cell in said))
    numbers = {row.number for row in rows}
    bad = {row.number for row in rows if row.wrong}
    slowest = max(row.facts.elapsed_s for row in rows)
    booked = [one for row in rows for one in row.facts.booked]
    good = sum(not row.wrong for row in rows)
    served, errors = (
        sum(bool(what) for what in each)
        for each in zip(*((r.facts.whole, r.facts.errors) for r in rows), strict=True)
    )
    estimated = sum(one.estimated for one in booked)
    lines += [
        "",
        f"{len(numbers - bad)} of {len(numbers)} faults, {good} of {len(rows)} cases as they must be",
        f"{served} served, {errors} with an error; {len(booked)} attempts in the ledger, {estimated} of them estimated",
        f"{took_s:.0f} s in all, the slowest case {slowest:.2f} s (deadline {DEADLINE_S:g} s)",
        f"open before and after: {rows[0].before} {rows[-1].after}",
    ]
    lines += [
        f"FAIL {r.number} {r.fault}, {r.dialect} {r.form}: {'; '.join(r.wrong)}" for r in rows if r.wrong
    ]
    return "\n".join(lines) + "\n"


def main() -> int:
    """The command."""
    arguments = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    arguments.add_argument("--only", default="", help="faults, by comma: 1,42,51")
    arguments.add_argument(
        "--json", metavar="FILE", help="write the rows there; - for standard output, alone"
    )
    arguments.add_argument("--out", metavar="FILE", help="write the table there too")
    arguments.add_argument(
        "--strict", action="store_true", help="exit with 1 unless every case is as it must be"
    )
    given = arguments.parse_args()
    wanted = cases([int(number) for number in given.only.split(",") if number])
    if not wanted:
        arguments.error(f"--only has none of the faults 1 to 52: {given.only}")
    done = 0

    def told(row: Row) -> None:
        nonlocal done
        done += 1
        sys.stderr.write(f"\r{done} of {len(wanted)} cases  ")
        sys.stderr.flush()

    began = time.monotonic()
    rows = asyncio.run(run(wanted, told=told))
    sys.stderr.write("\n")
    said = table(rows, time.monotonic() - began)
    if given.json:
        text = json.dumps({"rows": [dataclasses.asdict(row) for row in rows]}, indent=1) + "\n"
        sys.stdout.write(text) if given.json == "-" else Path(given.json).write_text(text)
    if given.json != "-":
        sys.stdout.write(said)
    if given.out:
        Path(given.out).write_text(said)
    return int(given.strict and any(row.wrong for row in rows))


if __name__ == "__main__":
    raise SystemExit(main())
