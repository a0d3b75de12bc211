"""The sixteen faults of Failover Bench, re-created: what becomes of an answer when its provider fails.

    python benchmarks/failover.py [--faster N] [--only S06,S08] [--json FILE|-] [--strict]

Every fault meets the library and the gateway, in both dialects, streamed and buffered, under two routes: `careful` (first content and
between events 10 s, `hold` of 64 tokens, a deadline of 20 s) and `default` (our defaults under the bench's own profile: two retries,
one fallback, a deadline of 60 s, which is its 30 s for each of the two targets). Streams that break after their first words (S08, S09, S10,
S14) meet a third, `continue` (`mid_stream = "continue"`, between events 10 s), with a fallback that goes on when it is asked to. A fake provider plays the fault by the
model's name and logs what it saw. Each row has raw facts; the verdict is a pure function of them (`judge`):

    pass      the whole answer, or the one right error, in time and within the attempts that the fault allows
    partial   the whole answer, late
    safe      no answer, one typed error
    fail      anything else: a truncated or doubled answer that looks whole, an untyped error, a hang, an attempt too many

`--faster N` runs every clock N times as fast, for a short run; sockets are not faster, so keep it at 20 or below. `--strict` exits with 1
unless `careful` and `continue` have passes only and `default` no fail. What the published bench measured is told in docs/failover.md.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import hashlib
import json
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import anthropic
import openai

from headrace import AsyncClient
from headrace.clock import SystemClock, Timer
from headrace.config import load
from headrace.engine import Engine
from headrace.errors import HeadraceError
from headrace.gateway.admin import request_report
from headrace.gateway.serve import Gateway, bind
from headrace.testing import (
    Answer,
    CutStream,
    FakeProvider,
    Fault,
    Filtered,
    Garbage,
    RateLimited,
    Reset,
    ServerError,
    Silence,
    Stall,
    Status,
    TooLong,
    Wire,
)
from headrace.testing.wire import Received

__all__ = ["SCENARIOS", "Facts", "Row", "Scenario", "judge", "run"]

PRIMARY = " ".join(f"pr{number:03}" for number in range(60))
FALLBACK = " ".join(f"fb{number:03}" for number in range(60))
"""Sixty words each, told apart so that a mixture shows."""

KEY = "hr-failover-bench-0123456789"
HANG_S = 120.0
"""After so long nobody waits any more: Bifrost's release hung for 130 s."""

PRICE = ("2", "8")
"""US dollars for a million tokens of input and output."""

Verdict = Literal["pass", "partial", "safe", "fail"]


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """One fault.

    Attributes:
        primary: What the primary does to every request, or to the first ones.
        attempts: Most requests that the primary may see.
        fallbacks: Most requests that the fallback may see.
        within_s: The whole answer must be there after so long to pass; later it is partial.
        error: The one right outcome is this kind of error, and no answer.
        gap_s: The second request to the primary may not come sooner after the first.
    """

    name: str
    title: str
    primary: tuple[Answer | Fault, ...]
    then: Answer | Fault | None = None
    attempts: int = 3
    fallbacks: int = 1
    within_s: float = HANG_S
    error: bool = False
    gap_s: float = 0.0
    fallback: Callable[[Received], Answer | Fault] | None = None


GOOD = Answer(PRIMARY, usage=(100, 60))


def _no_prefill(received: Received) -> Answer | Fault:
    """A model that refuses to continue a text, as some newer ones do."""
    last = received.json["messages"][-1]
    if last["role"] == "assistant":
        return Status(400, message="This model does not support assistant message prefill.")
    return Answer(FALLBACK, usage=(100, 60))


def _goes_on(received: Received) -> Answer | Fault:
    """A model that refuses a prefill, and begins with the words that it is asked to begin with."""
    said = json.dumps(received.json["messages"][-1])
    last = re.findall(r"pr\d+", said)
    if "cut off" not in said or not last:
        return _no_prefill(received)
    return Answer(PRIMARY[PRIMARY.index(last[0]) :], usage=(160, 20))


class _NoTerminator(Fault):
    """Everything was said, the finish reason too, and HTTP ends in order; `[DONE]` or `message_stop` is missing."""

    async def act(self, wire: Wire) -> None:
        if not wire.ask.stream:
            wire.whole(wire.spell())
            return
        pieces = wire.pieces()
        wire.write(
            wire.stream_head() + b"".join(wire.chunk(piece.data) for piece in pieces[:-1]) + b"0\r\n\r\n"
        )
        wire.finish()


class _SlowStart(Fault):
    """The head of the answer at once, its first content after 21 s; a buffered answer after 21 s."""

    async def act(self, wire: Wire) -> None:
        if wire.ask.stream:
            await wire.play_until(0)
        await wire.sleep(21.0)
        if wire.ask.stream:
            await wire.play_rest(0)
        else:
            await wire.play()


SCENARIOS: tuple[Scenario, ...] = (
    Scenario(
        name="S01",
        title="429 once, Retry-After 2 s",
        primary=(RateLimited(retry_after=2),),
        then=GOOD,
        attempts=2,
        gap_s=2.0,
    ),
    Scenario(name="S02", title="429 for ever", primary=(), then=RateLimited()),
    Scenario(name="S03", title="500 once", primary=(ServerError(),), then=GOOD, attempts=2),
    Scenario(name="S04", title="503 for ever", primary=(), then=Status(503)),
    Scenario(name="S05", title="TCP reset", primary=(), then=Reset(after=0, answer=GOOD)),
    Scenario(name="S06", title="silence", primary=(), then=Silence(), attempts=1),
    Scenario(
        name="S07", title="first token after 21 s", primary=(), then=_SlowStart(), attempts=1, within_s=15.0
    ),
    Scenario(name="S08", title="cut after 40 of 60 words", primary=(), then=CutStream(after=40, answer=GOOD)),
    Scenario(name="S09", title="stall after 40 words", primary=(), then=Stall(after=40, answer=GOOD)),
    Scenario(name="S10", title="malformed chunk", primary=(), then=Garbage(after=20, answer=GOOD)),
    Scenario(name="S11", title="no terminator", primary=(), then=_NoTerminator(), attempts=1, fallbacks=0),
    Scenario(name="S12", title="context too long", primary=(), then=TooLong(), attempts=1),
    Scenario(
        name="S13", title="content filter", primary=(), then=Filtered(), attempts=1, fallbacks=0, error=True
    ),
    Scenario(
        name="S14",
        title="cut, and a fallback that rejects prefill",
        primary=(),
        then=CutStream(after=40, answer=GOOD),
        fallback=_no_prefill,
    ),
    Scenario(
        name="S15", title="flapping: dead for 30 s", primary=(), then=Status(503), attempts=5, fallbacks=99
    ),
    Scenario(name="S16", title="accounting after failover", primary=(), then=ServerError()),
)

FLAP_S, FLAP_REQUESTS, BACK_S = 30.0, 15, 30.0
"""S15: so long dead, so many requests meanwhile, and so soon it must be used again."""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What was seen, without judgement. Times in the provider's seconds since the request was sent.

    `outcome`: `answer` (the client ended without an error), `error` (typed), `untyped`, or `hang`. `whole`: the text's hash is that of one
    of the two whole answers. `served`, `requests` and `back_s` are of S15, `booked` and `billed` of S16.
    """

    outcome: Literal["answer", "error", "untyped", "hang"]
    text_sha: str = ""
    whole: bool = False
    error: str = ""
    elapsed_s: float = 0.0
    primary_at: tuple[float, ...] = ()
    fallback_at: tuple[float, ...] = ()
    requests: int = 1
    served: int = 0
    back_s: float | None = None
    booked: str = ""
    billed: str = ""


def judge(scenario: Scenario, facts: Facts) -> Verdict:
    """The verdict; pure."""
    if facts.outcome in ("hang", "untyped") or facts.elapsed_s > HANG_S:
        return "fail"
    if len(facts.primary_at) > scenario.attempts or len(facts.fallback_at) > scenario.fallbacks:
        return "fail"
    if scenario.gap_s and len(facts.primary_at) > 1:
        first, second, *_ = facts.primary_at
        if second - first < scenario.gap_s:
            return "fail"
    if facts.booked != facts.billed:
        return "fail"
    if scenario.error:
        return "pass" if facts.outcome == "error" else "fail"
    if facts.outcome == "error":
        return "safe"
    if not facts.whole or facts.served < facts.requests:
        return "fail"
    late = scenario.name == "S15" and (facts.back_s is None or facts.back_s > BACK_S)
    return "partial" if late or facts.elapsed_s > scenario.within_s else "pass"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One fault through one face in one dialect."""

    scenario: str
    route: str
    face: str
    dialect: str
    streamed: bool
    facts: Facts
    verdict: Verdict


class Fast(SystemClock):
    """Runs `factor` times as fast."""

    def __init__(self, factor: float) -> None:
        self.factor = factor

    def now(self) -> float:
        """Seconds of its own."""
        return time.monotonic() * self.factor

    async def sleep(self, seconds: float) -> None:
        """Wait for `seconds` of its own."""
        await asyncio.sleep(max(0.0, seconds) / self.factor)

    def call_at(self, when: float, callback: Callable[[], None]) -> Timer:
        """See `Clock`."""
        return asyncio.get_running_loop().call_later(max(0.0, when - self.now()) / self.factor, callback)


# --- the bench --------------------------------------------------------------------------------------------------------

ROUTES = {
    "careful": 'deadline = "20s"\nfirst_content = "10s"\nbetween_events = "10s"\nmid_stream = "hold"\nhold_tokens = 64\n',
    "default": 'deadline = "60s"\n',
    "continue": 'deadline = "60s"\nbetween_events = "10s"\nmid_stream = "continue"\n',
}

CUTS = frozenset({"S08", "S09", "S10", "S14"})
"""The faults that a route which continues is for."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """What one row runs; its name is in the models' names."""

    scenario: Scenario
    route: str
    face: str
    dialect: str
    streamed: bool

    @property
    def name(self) -> str:
        """A route's name."""
        form = "s" if self.streamed else "b"
        return f"{self.scenario.name}-{self.route}-{self.face}-{self.dialect}-{form}".lower()


def _config(provider: FakeProvider, cases: Sequence[Case]) -> str:
    lines = [
        f'[keys.bench]\nvalue = "{KEY}"\n[store]\npath = ":memory:"',
        f'[providers.openai]\nbase_url = "{provider.base_url}"\napi_key = "sk-bench"',
        f'[providers.anthropic]\nbase_url = "{provider.anthropic_url}"\napi_key = "sk-bench"',
    ]
    for case in cases:
        targets = [f"{case.dialect}/{case.name}-{which}" for which in ("primary", "fallback")]
        levels = ", ".join(f'{{ target = "{target}", attempts = 3 }}' for target in targets)
        lines.append(f"[routes.{case.name}]\ncascade = [{levels}]\n{ROUTES[case.route]}")
        lines += [
            f'[prices."{target}"]\ninput_usd_per_mtok = "{PRICE[0]}"\noutput_usd_per_mtok = "{PRICE[1]}"'
            for target in targets
        ]
    return "\n".join(lines)


class Bench:
    """A provider, an engine for the library and a gateway, on one clock."""

    def __init__(self, provider: FakeProvider, clock: Fast, engine: Engine, url: str) -> None:
        self.provider = provider
        self.clock = clock
        self.engine = engine
        self.url = url
        self.library = AsyncClient(engine.settings)
        self.library._engine = Engine(engine.settings, clock=clock)  # noqa: SLF001  (on the bench's clock)
        self.openai = openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0, timeout=HANG_S * 2)
        self.anthropic = anthropic.AsyncAnthropic(
            base_url=url, api_key=KEY, max_retries=0, timeout=HANG_S * 2
        )

    async def aclose(self) -> None:
        """Close the clients."""
        await self.library.aclose()
        await self.openai.close()
        await self.anthropic.close()

    def script(self, case: Case) -> None:
        """Tell the provider what to do for this case's two models."""
        scenario = case.scenario
        self.provider.on(f"{case.name}-primary", *scenario.primary, always=_naming(scenario.then))
        fallback = scenario.fallback or Answer(FALLBACK, usage=(100, 60))
        if case.route == "continue":
            fallback = _goes_on
        self.provider.on(f"{case.name}-fallback", always=fallback)

    async def row(self, case: Case) -> Row:
        """Run one case."""
        self.script(case)
        runs = self._flap(case) if case.scenario.name == "S15" else self._once(case)
        facts = await runs
        return Row(
            scenario=case.scenario.name,
            route=case.route,
            face=case.face,
            dialect=case.dialect,
            streamed=case.streamed,
            facts=facts,
            verdict=judge(case.scenario, facts),
        )

    async def _once(self, case: Case) -> Facts:
        began = self.clock.now()
        outcome, text, error, booked = await self._bounded(case)
        facts = self._facts(case, began, outcome, text, error)
        if case.scenario.name != "S16":
            return facts
        sent = len(facts.primary_at) + len(facts.fallback_at)
        usd = f"0.{100 * int(PRICE[0]) + 60 * int(PRICE[1]):06d}".rstrip("0")
        return dataclasses.replace(facts, booked=booked, billed=f"{sent} requests, {usd} USD")

    async def _flap(self, case: Case) -> Facts:
        """A request every two seconds while the primary is dead, and then until it answers again."""
        began = self.clock.now()
        served, back, last = 0, None, ("answer", "", "", "")
        model = f"{case.name}-primary"
        requests = 0
        while requests < FLAP_REQUESTS or (back is None and self.clock.now() - began < FLAP_S + 2 * BACK_S):
            if requests == FLAP_REQUESTS:
                dead = self._seen(model, began)
                self.provider.on(model, always=GOOD)
                recovered = self.clock.now()
            requests += 1
            last = await self._bounded(case)
            served += last[1] in (PRIMARY, FALLBACK)
            if requests > FLAP_REQUESTS and last[1] == PRIMARY:
                back = self.clock.now() - recovered
            due = began + requests * FLAP_S / FLAP_REQUESTS
            await self.clock.sleep(due - self.clock.now())
        outcome, text, error, _ = last
        facts = self._facts(case, began, outcome, text, error)
        return dataclasses.replace(
            facts,
            elapsed_s=0.0,
            primary_at=tuple(dead),
            served=served,
            requests=requests,
            back_s=None if back is None else round(back, 2),
        )

    def _seen(self, model: str, began: float) -> list[float]:
        return [round(seen.t - began, 3) for seen in self.provider.requests if seen.model == model]

    def _facts(self, case: Case, began: float, outcome: Any, text: str, error: str) -> Facts:
        whole = text in (PRIMARY, FALLBACK)
        return Facts(
            outcome=outcome,
            text_sha=hashlib.sha256(text.encode()).hexdigest()[:12] if text else "",
            whole=whole,
            error=error,
            elapsed_s=round(self.clock.now() - began, 2),
            primary_at=tuple(self._seen(f"{case.name}-primary", began)),
            fallback_at=tuple(self._seen(f"{case.name}-fallback", began)),
            served=int(whole),
        )

    async def _bounded(self, case: Case) -> tuple[str, str, str, str]:
        """One request: outcome, text, error, and what was booked."""
        ask = {
            ("library", "openai"): self._ask_library,
            ("library", "anthropic"): self._ask_library,
            ("gateway", "openai"): self._ask_openai,
            ("gateway", "anthropic"): self._ask_anthropic,
        }[case.face, case.dialect]
        asked: Awaitable[tuple[str, str]] = ask(case)
        try:
            async with asyncio.timeout(HANG_S / self.clock.factor):
                text, booked = await asked
        except TimeoutError:
            return "hang", "", "", ""
        except (HeadraceError, openai.APIStatusError, anthropic.APIStatusError) as error:
            return "error", "", f"{type(error).__name__}: {str(error)[:100]}", ""
        except (openai.APIConnectionError, anthropic.APIConnectionError) as error:
            return "untyped", "", f"{type(error).__name__}: {error}", ""
        except (openai.APIError, anthropic.APIError) as error:  # an error event inside a stream
            return "error", "", f"{type(error).__name__}: {str(error)[:100]}", ""
        return "answer", text, "", booked

    async def _ask_library(self, case: Case) -> tuple[str, str]:
        if not case.streamed:
            answer = await self.library.chat(case.name, "Say it.")
            return answer.text, f"{answer.call.sent} requests, {answer.cost_usd} USD"
        async with self.library.stream(case.name, "Say it.") as stream:
            text = "".join([piece async for piece in stream])
            call = stream.final.call
        return text, f"{call.sent} requests, {stream.final.cost_usd} USD"

    async def _ask_openai(self, case: Case) -> tuple[str, str]:
        messages: Any = [{"role": "user", "content": "Say it."}]
        create = self.openai.chat.completions.with_raw_response.create
        raw = await create(model=case.name, messages=messages, stream=case.streamed)
        answer: Any = raw.parse()
        if case.streamed:
            chunks = [chunk async for chunk in answer]
            text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
        else:
            text = answer.choices[0].message.content
        return text, await self._booked(raw.headers["x-request-id"])

    async def _ask_anthropic(self, case: Case) -> tuple[str, str]:
        messages: Any = [{"role": "user", "content": "Say it."}]
        create = self.anthropic.messages.with_raw_response.create
        raw = await create(model=case.name, messages=messages, max_tokens=256, stream=case.streamed)
        answer: Any = await raw.parse()
        if case.streamed:
            deltas = [event.delta async for event in answer if event.type == "content_block_delta"]
            text = "".join(delta.text for delta in deltas if delta.type == "text_delta")
        else:
            text = answer.content[0].text
        return text, await self._booked(raw.headers["x-request-id"])

    async def _booked(self, request_id: str) -> str:
        stored = await self.engine.store.request(request_id, None)
        while stored is None or stored.status is None:  # the client may have read the end before it is booked
            await asyncio.sleep(0.01)
            stored = await self.engine.store.request(request_id, None)
        report = request_report(stored)
        sent = sum(attempt["outcome"] != "skipped" for attempt in report["attempts"])
        return f"{sent} requests, {report['cost_usd']} USD"


def _naming(outcome: Answer | Fault | None) -> Answer | Fault:
    assert outcome is not None
    return outcome


def cases(only: Iterable[str] = ()) -> list[Case]:
    """Every row of both tables, or those of the named faults."""
    wanted = {name.upper() for name in only}
    return [
        Case(scenario=scenario, route=route, face=face, dialect=dialect, streamed=streamed)
        for route in ROUTES
        for scenario in SCENARIOS
        if (not wanted or scenario.name in wanted) and (route != "continue" or scenario.name in CUTS)
        for face in ("library", "gateway")
        for dialect in ("openai", "anthropic")
        for streamed in (True, False)
    ]


async def run(
    wanted: Sequence[Case], *, faster: float = 1.0, told: Callable[[Row], None] = lambda row: None
) -> list[Row]:
    """Run `wanted` side by side; `told` hears of each row as it ends."""
    clock = Fast(faster)
    default = Answer(PRIMARY, usage=(100, 60))
    async with FakeProvider(clock=clock) as provider:
        provider.default = default
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "headrace.toml"
            path.write_text(_config(provider, wanted))
            settings = load(path, environ={})
        engine = Engine(settings, clock=clock)
        sock = bind("127.0.0.1", 0)
        async with Gateway(settings, sockets=[sock], engine=engine):
            bench = Bench(provider, clock, engine, f"http://127.0.0.1:{sock.getsockname()[1]}")
            rows: list[Row] = []
            try:
                for ending in asyncio.as_completed([bench.row(case) for case in wanted]):
                    rows.append(row := await ending)
                    told(row)
            finally:
                await bench.aclose()
        sock.close()
    order = {case.name: place for place, case in enumerate(wanted)}
    return sorted(
        rows,
        key=lambda row: order[
            f"{row.scenario}-{row.route}-{row.face}-{row.dialect}-{'s' if row.streamed else 'b'}".lower()
        ],
    )


# --- telling ----------------------------------------------------------------------------------------------------------


def _table(rows: Sequence[Row], route: str) -> str:
    mine = [row for row in rows if row.route == route]
    columns = [
        (f, d, s) for f in ("library", "gateway") for d in ("openai", "anthropic") for s in (True, False)
    ]
    heads = [f"{f[:3]} {d[:4]} {'str' if s else 'buf'}" for f, d, s in columns]
    lines = [
        f"{route}: {' '.join(ROUTES[route].split(chr(10)))}",
        f"{'':38}" + "".join(f"{h:>14}" for h in heads),
    ]
    for scenario in SCENARIOS:
        cells = {(row.face, row.dialect, row.streamed): row for row in mine if row.scenario == scenario.name}
        if cells:
            said = [
                f"{cells[c].verdict} {cells[c].facts.elapsed_s:.1f}s/{len(cells[c].facts.primary_at)}"
                for c in columns
            ]
            lines.append(f"{scenario.name} {scenario.title:<34}" + "".join(f"{cell:>14}" for cell in said))
    for f, d, s in columns:
        counts = Counter(row.verdict for row in mine if (row.face, row.dialect, row.streamed) == (f, d, s))
        lines.append(
            f"  {f} {d} {'streamed' if s else 'buffered'}: "
            + ", ".join(f"{counts[v]} {v}" for v in ("pass", "partial", "safe", "fail"))
        )
    return "\n".join(lines)


def main() -> int:
    """The command."""
    arguments = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    arguments.add_argument(
        "--faster", type=float, default=1.0, metavar="N", help="run every clock N times as fast"
    )
    arguments.add_argument("--only", default="", help="faults, by comma: S06,S08")
    arguments.add_argument(
        "--json", metavar="FILE", help="write the rows there; - for standard output, alone"
    )
    arguments.add_argument(
        "--strict", action="store_true", help="exit with 1 unless the tables are as promised"
    )
    given = arguments.parse_args()
    wanted = cases([name for name in given.only.split(",") if name])
    done = 0

    def told(row: Row) -> None:
        nonlocal done
        done += 1
        if given.json != "-":
            sys.stderr.write(f"\r{done} of {len(wanted)} rows  ")
            sys.stderr.flush()

    rows = asyncio.run(run(wanted, faster=given.faster, told=told))
    if given.json:
        text = json.dumps(
            {"faster": given.faster, "rows": [dataclasses.asdict(row) for row in rows]}, indent=1
        )
        if given.json == "-":
            sys.stdout.write(text + "\n")
        else:
            Path(given.json).write_text(text)
    if given.json != "-":
        sys.stderr.write("\n")
        sys.stdout.write("each cell: verdict, seconds / requests that the primary saw\n\n")
        sys.stdout.write("\n\n".join(_table(rows, route) for route in ROUTES) + "\n")
        for row in rows:
            if row.verdict in ("fail", "partial"):
                sys.stdout.write(f"{row.verdict}: {row}\n")
    kept = all(row.verdict == "pass" for row in rows if row.route != "default") and not any(
        row.verdict == "fail" for row in rows
    )
    return 0 if kept or not given.strict else 1


if __name__ == "__main__":
    raise SystemExit(main())
