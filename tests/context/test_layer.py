"""The layer in the whole house: through the gateway and the library, buffered and streamed, in both dialects."""

from __future__ import annotations

import asyncio
import itertools
import json
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.gateway.gate import Gate, config, gated

from headrace import Client, Text, load
from headrace.call import Attempt, Call
from headrace.context import Context, Plan
from headrace.context.layer import REMEMBERED
from headrace.dialects import by_name
from headrace.errors import ContextTooLong, InvalidRequest, StoreError
from headrace.handler import Body, ContextPolicy, Handler, OneBatch, Request, Route, Stream
from headrace.store import MemoryStore
from headrace.testing import FakeProvider, TooLong, make_request
from headrace.types import Message, Target, Usage

both = pytest.mark.parametrize("dialect", ["openai", "anthropic"])
streamed = pytest.mark.parametrize("stream", [False, True], ids=["buffered", "streamed"])

ROUTES = """
[routes.packed-openai]
cascade = ["openai/m"]
[routes.packed-openai.context]
budget = 900
[routes.packed-anthropic]
cascade = ["anthropic/m"]
[routes.packed-anthropic.context]
budget = 900
[routes.wider]
cascade = ["openai/narrow", "anthropic/wide"]
[routes.wider.context]
[prices."openai/narrow"]
context_window = 600
[prices."anthropic/wide"]
context_window = 100000
"""


@pytest.fixture(scope="module")
def shared_gate(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gate]:
    """One gateway for the module."""
    with FakeProvider() as provider:
        text = config(provider, more=ROUTES)
        with gated(provider, tmp_path_factory.mktemp("context"), text) as running:
            yield running


@pytest.fixture
def gate(shared_gate: Gate) -> Gate:
    """The gateway, with nothing asked yet."""
    shared_gate.provider.reset()
    return shared_gate


def dialogue(turns: int) -> list[dict[str, Any]]:
    """Messages of a conversation that ends with the user; some members that nobody knows, some content as parts."""
    return [
        {
            "role": "user" if number % 2 == 0 else "assistant",
            "content": f"Turn {number} is about subject{number} and what was decided for case{number}.",
            **({"x_mark": [number, 1.50]} if number % 3 == 0 else {}),
        }
        for number in range(turns)
    ]


def body(model: str, messages: list[dict[str, Any]], **members: Any) -> bytes:
    """A request's body, spaced in a way of its own."""
    return json.dumps({"model": model, "max_tokens": 64, "messages": messages} | members, indent=1).encode()


def raw_messages(data: bytes) -> list[bytes]:
    """The JSON text of each message of a body."""
    return [bytes(raw) for raw in msgspec.json.decode(data, type=_Messages).messages]


class _Messages(msgspec.Struct):
    messages: list[msgspec.Raw]


@both
@streamed
def test_a_long_conversation_is_packed_and_its_bytes_are_kept(gate: Gate, dialect: str, stream: bool) -> None:
    """Old turns go, what stays is byte for byte the caller's, other members are not touched, and the plan is named."""
    said = dialogue(101)
    sent = body(f"packed-{dialect}", said, stream=stream, metadata={"user_id": "u"})
    got = gate.post(dialect, sent)
    assert got.status == 200
    theirs, ours = raw_messages(sent), raw_messages(gate.provider.requests[-1].body)
    assert 3 < len(ours) < 40
    assert b"Notes on the earlier turns" in ours[0]
    untouched = 0
    for number, raw in enumerate(ours[1:], len(said) - len(ours) + 1):
        if raw == theirs[number]:
            untouched += 1
        else:  # a question with what was recalled for it in front
            text = json.dumps(json.loads(raw)["content"])
            assert "Earlier turns of this conversation" in text
            assert text.count(str(said[number]["content"])) == 1
            assert said[number]["role"] == "user"
    assert untouched > len(ours) / 2
    assert gate.provider.requests[-1].json["metadata"] == {"user_id": "u"}
    assert "context: 101 turns in " in got.headers["x-headrace-warnings"]


@both
def test_what_fits_goes_through_untouched(gate: Gate, dialect: str) -> None:
    """A short conversation on a packed route is the caller's bytes but for the model's name."""
    sent = body(f"packed-{dialect}", dialogue(3))
    assert gate.post(dialect, sent).status == 200
    assert gate.provider.requests[-1].body == sent.replace(f'"packed-{dialect}"'.encode(), b'"m"')


@streamed
def test_what_does_not_fit_goes_to_the_wider_target(gate: Gate, stream: bool) -> None:
    """A newest turn over the first window is not sent there: the next target gets it, no attempt is spent, and it is named."""
    long = [{"role": "user", "content": "many words " * 900}]
    got = gate.post("openai", body("wider", long, stream=stream))
    assert got.status == 200
    assert (got.headers["x-headrace-target"], got.headers["x-headrace-attempts"]) == ("anthropic/wide", "1")
    assert "skipped openai/narrow: " in got.headers["x-headrace-warnings"]


def test_what_fits_nowhere_is_refused_as_too_long(gate: Gate) -> None:
    """Without a target whose window fits the caller is told so, in its dialect, and no provider is asked."""
    got = gate.post("openai", body("packed-openai", [{"role": "user", "content": "many words " * 900}]))
    assert got.status == 400
    assert "need" in got.json["error"]["message"] and "the limit is 900" in got.json["error"]["message"]
    assert gate.provider.requests == []


def test_an_overflow_at_the_provider_is_packed_smaller_once(gate: Gate) -> None:
    """A provider that finds the request too long gets a smaller one, and its second refusal is final."""
    gate.provider.script(TooLong())
    assert gate.post("openai", body("packed-openai", dialogue(101))).status == 200
    first, second = (request.body for request in gate.provider.requests)
    assert len(second) < 0.85 * len(first)
    gate.provider.reset()
    gate.provider.script(TooLong(), TooLong(), TooLong())
    assert gate.post("openai", body("packed-openai", dialogue(103))).status == 400
    assert len(gate.provider.requests) == 2


def test_the_library_packs_and_shows_its_plan(tmp_path: Path) -> None:
    """`answer.plan` says of every turn what became of it, buffered and streamed; None on a route that does not pack."""
    with FakeProvider() as provider:
        (tmp_path / "headrace.toml").write_text(config(provider, more=ROUTES))
        turns: list[Message | dict[str, object]] = [
            Message(role=message["role"], content=(Text(text=message["content"]),))
            for message in dialogue(101)
        ]
        with Client(load(tmp_path / "headrace.toml", environ={})) as llm:
            answer = llm.chat("packed-openai", turns)
            with llm.stream("packed-openai", turns) as stream:
                assert "".join(stream) == answer.text
            streamed_plan = stream.final.plan
            assert llm.chat("both", "hi").plan is None
    assert isinstance(answer.plan, Plan) and streamed_plan is not None
    assert len(answer.plan.turns) == 101
    assert streamed_plan.items == answer.plan.items
    assert provider.requests[0].body == provider.requests[1].body.replace(STREAMED, b"")


STREAMED = b',"stream":true,"stream_options":{"include_usage":true}'


# --- the layer alone --------------------------------------------------------------------------------------------------

POLICY = ContextPolicy(budget=900)
TIGHT = ContextPolicy(budget=380, recall=0.0)


def context() -> Context:
    """A layer that knows no model's window, and remembers nothing yet."""
    return Context(lambda provider, model: None)


def packed(
    layer: Context,
    messages: list[dict[str, Any]],
    dialect: str = "openai",
    *,
    tenant: str = "t",
    **members: Any,
) -> tuple[list[bytes], Plan]:
    """The messages that a request is sent with, and its plan."""
    target = Target(dialect, "m")
    request = Request(
        body=Body(wire=body("m", messages, **members), dialect=by_name(NAMES[dialect])),
        route=Route(name="r", cascade=(target,), context=POLICY),
        call=Call(id="c", started_at=0.0, started_wall=0.0, tenant=tenant),
        stream=False,
        target=target,
    )
    made = layer.packed(request, POLICY, target)
    assert made.body.wire is not None and isinstance(request.call.plan, Plan)
    return raw_messages(made.body.wire), request.call.plan


NAMES = {"openai": "openai-chat", "anthropic": "anthropic"}


@both
def test_a_growing_conversation_keeps_its_prefix(dialect: str) -> None:
    """Turn after turn the request begins with the one before, but for compactions; a process that knows nothing sends the same."""
    layer, said = context(), dialogue(161)
    requests = [packed(layer, said[:end], dialect) for end in range(61, 162, 2)]
    for (before, _), (after, plan) in itertools.pairwise(requests):
        assert plan.compacted or after[: len(before)] == before
    assert 1 <= sum(plan.compacted for _, plan in requests[1:]) <= len(requests) / 4
    for end, (messages, _) in zip(range(61, 162, 2), requests, strict=True):
        assert packed(context(), said[:end], dialect)[0] == messages


def test_a_conversation_that_takes_another_way_keeps_what_it_shares() -> None:
    """Asking the last question anew forks the log: both ways are planned right, from the same beginning."""
    layer, said = context(), dialogue(101)
    packed(layer, said[:99])
    one, _ = packed(layer, said)
    other = [*said[:100], {"role": "user", "content": "Something else, about subject7."}]
    two, _ = packed(layer, other)
    assert one[:-1] == two[:-1] and one[-1] != two[-1]
    assert packed(context(), other)[0] == two
    assert packed(layer, said)[0] == one


def test_tenants_and_system_prompts_do_not_share_plans() -> None:
    """What one tenant's conversation left behind is not looked at for another's, nor under other instructions."""
    layer, said = context(), dialogue(101)
    packed(layer, said, "anthropic")
    count = len(layer.remembered)
    packed(layer, said, "anthropic", tenant="u")
    packed(layer, said, "anthropic", system="Be brief.")
    assert len(layer.remembered) == count + 2


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The plan unused for longest is forgotten first."""
    assert REMEMBERED > 3
    monkeypatch.setattr("headrace.context.layer.REMEMBERED", 3)
    layer = context()
    for number in range(5):
        packed(layer, [{"role": "user", "content": f"hello {number}"}])
    assert len(layer.remembered) == 3


def test_a_tool_loop_stays_whole_on_anthropic_s_wire() -> None:
    """A user message that holds results and words is one turn: it is kept, or dropped with the call before it."""
    said: list[dict[str, Any]] = []
    for number in range(24):
        said += [
            {
                "role": "user",
                "content": [{"type": "text", "text": f"Look up case{number}, please, and tell me."}],
            },
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "hm", "signature": f"sig{number}"},
                    {"type": "tool_use", "id": f"c{number}", "name": "look", "input": {"q": number}},
                ],
            },
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": f"c{number}", "content": "found " * 20},
                    {"type": "text", "text": "Go on."},
                ],
            },
            {"role": "assistant", "content": f"Case {number} is closed."},
        ]
    said.append({"role": "user", "content": "Which cases are closed?"})
    messages = [json.loads(raw) for raw in packed(context(), said, "anthropic")[0]]
    for at, message in enumerate(messages):
        blocks = message["content"] if isinstance(message["content"], list) else []
        for block in blocks:
            assert (
                block["type"] != "thinking"
            )  # a process that knows nothing cannot tell which prefix it was thought behind
            if block["type"] == "tool_result":
                assert block["tool_use_id"] in [b.get("id") for b in messages[at - 1]["content"]]
            if block["type"] == "tool_use":
                assert messages[at + 1]["content"][0]["tool_use_id"] == block["id"]
    assert sum(b"tool_use" in json.dumps(m).encode() for m in messages) >= 2


def test_a_broken_history_is_mended_on_the_wire() -> None:
    """A result without its call goes, an unanswered call gets its answer, and mending what was mended changes nothing."""
    said: list[dict[str, Any]] = [
        {"role": "tool", "tool_call_id": "gone", "content": "late"},
        {"role": "user", "content": "Look."},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {"id": "a", "type": "function", "function": {"name": "look", "arguments": "{}"}},
                {"id": "b", "type": "function", "function": {"name": "look", "arguments": "{}"}},
            ],
        },
        {"role": "tool", "tool_call_id": "b", "content": "here"},
        {"role": "user", "content": "And?"},
    ]
    sent = [json.loads(raw) for raw in packed(context(), said)[0]]
    assert [message["role"] for message in sent] == ["user", "assistant", "tool", "tool", "user"]
    assert {m["tool_call_id"]: m["content"] for m in sent if m["role"] == "tool"} == {
        "a": "[not recorded]",
        "b": "here",
    }
    again, plan = packed(context(), sent)
    assert not plan.changed and [json.loads(raw) for raw in again] == sent


def test_a_message_that_cannot_be_read_is_named_by_its_place() -> None:
    """The error says which message it is, although each is read alone."""
    with pytest.raises(InvalidRequest, match=r"messages\[1\]"):
        packed(context(), [{"role": "user", "content": "hi"}, {"role": "nobody", "content": "x"}])


def test_what_a_provider_counts_is_learned() -> None:
    """Once three answers have said how many tokens a request had, plans trust the likely count, corrected, not the bound."""
    layer, said, target = context(), dialogue(9), Target("openai", "m")
    bound = packed(layer, said)[1].tokens
    for number in range(4):
        request = Request(
            body=Body(
                wire=body("m", [*said, {"role": "user", "content": f"{number}?"}]),
                dialect=by_name("openai-chat"),
            ),
            route=Route(name="r", cascade=(target,), context=POLICY),
            call=Call(id="c", started_at=0.0, started_wall=0.0),
            stream=False,
            target=target,
        )
        layer.packed(request, POLICY, target)
        assert isinstance(request.call.plan, Plan)
        likely = sum(turn.tokens for turn in request.call.plan.turns) / 1.7
        attempt = Attempt(
            number=1, target=target, started_at=0.0, started_wall=0.0, usage=Usage(input_tokens=int(likely))
        )
        attempt.end("ok", 1.0)
        request.call.attempts.append(attempt)
        request.call.end(200, 1.0)
    assert packed(layer, said)[1].tokens < bound


def test_a_conversation_goes_on_from_what_its_provider_counted() -> None:
    """After one answer the next request is counted from its usage; another conversation, or another target, is not."""
    layer, said = context(), dialogue(9)
    request = Request(
        body=Body(wire=body("m", said), dialect=by_name("openai-chat")),
        route=Route(name="r", cascade=(Target("openai", "m"),), context=POLICY),
        call=Call(id="c", started_at=0.0, started_wall=0.0, tenant="t"),
        stream=False,
        target=Target("openai", "m"),
    )
    layer.packed(request, POLICY, Target("openai", "m"))
    attempt = Attempt(
        number=1,
        target=Target("openai", "m"),
        started_at=0.0,
        started_wall=0.0,
        usage=Usage(input_tokens=321),
    )
    attempt.end("ok", 1.0)
    request.call.attempts.append(attempt)
    request.call.end(200, 1.0)
    longer = [*said, {"role": "assistant", "content": "I see."}, {"role": "user", "content": "And?"}]
    made = packed(layer, longer)[1]
    assert made.anchored == 321 and 321 < made.tokens < 321 + 40
    assert made.likely is not None and 321 < made.likely <= made.tokens
    assert packed(layer, longer, tenant="another")[1].anchored is None
    assert packed(layer, longer, dialect="anthropic")[1].anchored is None


@pytest.mark.parametrize(("hour", "cold"), [(0, True), (9, False)])
def test_the_age_of_the_prompt_cache_is_known(hour: int, cold: bool) -> None:
    """It is counted from the last request; a provider that wrote for an hour remembers for one."""
    layer, said, target = context(), dialogue(9), Target("openai", "m")
    ages: list[tuple[float | None, bool]] = []
    for wall in (1_000.0, 1_400.0):
        request = Request(
            body=Body(wire=body("m", said), dialect=by_name("openai-chat")),
            route=Route(name="r", cascade=(target,), context=TIGHT),
            call=Call(id="c", started_at=0.0, started_wall=wall),
            stream=False,
            target=target,
        )
        layer.packed(request, TIGHT, target)
        made = request.call.plan
        assert isinstance(made, Plan)
        ages.append((made.decision.cache_age, made.decision.cold))
        usage = Usage(input_tokens=200, cache_write_1h_tokens=hour)
        attempt = Attempt(number=1, target=target, started_at=0.0, started_wall=wall, usage=usage)
        attempt.end("ok", 1.0)
        request.call.attempts.append(attempt)
        request.call.end(200, 1.0)
        said = [*said, {"role": "assistant", "content": "I see. " * 60}, {"role": "user", "content": "And?"}]
    assert ages == [(None, False), (400.0, cold)]


def test_calls_of_headrace_itself_are_not_packed() -> None:
    """A summary or a judge's question goes through as it is."""
    layer = context()
    request = make_request(
        "many words " * 900, route=Route(name="r", cascade=(Target("a", "b"),), context=POLICY)
    )
    request.call.purpose = "summary"
    asked: list[Request] = []

    async def inner(request: Request) -> Stream:
        asked.append(request)
        return OneBatch([])

    asyncio.run(_ask(layer(inner), request))
    assert asked == [request] and asked[0] is request
    request.call.purpose = "answer"
    with pytest.raises(ContextTooLong):
        asyncio.run(_ask(layer(inner), request))


async def _ask(handle: Handler, request: Request) -> None:
    await handle(request)


# --- more than one process --------------------------------------------------------------------------------------------


def thinking_talk(exchanges: int) -> list[dict[str, Any]]:
    """Questions, each answered after signed thinking; ends with a question."""
    said: list[dict[str, Any]] = []
    for number in range(exchanges):
        said += [
            {"role": "user", "content": f"What about case{number}, which is about subject{number}?"},
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": f"hm {number}", "signature": f"sig{number}"},
                    {"type": "text", "text": f"Case {number} is decided in favour of subject{number}."},
                ],
            },
        ]
    return [*said, {"role": "user", "content": "And now?"}]


def through(layer: Context, messages: list[dict[str, Any]]) -> list[bytes]:
    """The messages that get below the layer."""
    target = Target("anthropic", "m")
    asked: list[Request] = []

    async def inner(request: Request) -> Stream:
        asked.append(request)
        return OneBatch([])

    request = Request(
        body=Body(wire=body("m", messages), dialect=by_name("anthropic")),
        route=Route(name="r", cascade=(target,), context=POLICY),
        call=Call(id="c", started_at=0.0, started_wall=0.0, tenant="t"),
        stream=False,
        target=target,
    )
    asyncio.run(_ask(layer(inner), request))
    assert asked[0].body.wire is not None
    return raw_messages(asked[0].body.wire)


def test_another_worker_goes_on_where_the_first_was() -> None:
    """With a store between them it sends the same bytes and the thinking behind them; alone it must leave the thinking out."""
    store = MemoryStore()
    one = Context(lambda provider, model: None, plans=store)
    two = Context(lambda provider, model: None, plans=store)
    said = thinking_talk(60)
    bound = alone = 0
    for end in range(1, 120, 2):
        sent = through(one, said[:end])
        if end > 60 and end % 8 == 5:  # the other one gets a request now and then
            assert through(two, said[:end]) == sent
            bound += any(b"signature" in raw for raw in sent)
            alone += any(b"signature" in raw for raw in through(context(), said[:end]))
    assert bound > 2 and alone == 0


class _Down(MemoryStore):
    """A store that cannot be read, or holds what is no state."""

    def __init__(self, answer: bytes | None) -> None:
        super().__init__()
        self.answer = answer

    async def find_plan(self, keys: Sequence[bytes]) -> tuple[int, bytes] | None:
        if self.answer is None:
            raise StoreError("the disk is gone")
        return 0, self.answer


@pytest.mark.parametrize(
    "answer", [None, b"?", zlib.compress(b"[]")], ids=["down", "damaged", "another kind"]
)
def test_a_store_that_fails_changes_nothing(answer: bytes | None) -> None:
    """The conversation is planned from its beginning, as without a store."""
    said = thinking_talk(40)
    layer = Context(lambda provider, model: None, plans=_Down(answer))
    assert through(layer, said) == through(context(), said)
