"""From what a provider says it used to what it bills: by hand for the main ones, and every shape that was ever recorded."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from fractions import Fraction
from typing import Any

import pytest
from tests.contract.recording import Recording, committed, of_exchanges

from headrace.dialects import by_name
from headrace.errors import HeadraceError
from headrace.handler import assemble, reply_events
from headrace.prices import Catalog
from headrace.types import End, Event, Reply, Usage

CATALOG = Catalog()

OPENAI = "openai-chat"
ANTHROPIC = "anthropic"

BY_HAND: list[tuple[str, str, str, dict[str, Any], str, int]] = [
    # Dialect, provider, model, the usage as the provider writes it, dollars a million by hand, nano-dollars by hand.
    (
        OPENAI,
        "openai",
        "gpt-4o-2024-08-06",
        {
            "prompt_tokens": 2_006,
            "completion_tokens": 300,
            "total_tokens": 2_306,
            "prompt_tokens_details": {"cached_tokens": 1_920, "audio_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
        },
        "86 x 2.50 + 1920 x 1.25 + 300 x 10",
        5_615_000,
    ),
    (
        OPENAI,
        "openai",
        "gpt-5",
        {
            "prompt_tokens": 1_100,
            "completion_tokens": 1_900,
            "total_tokens": 3_000,
            "prompt_tokens_details": {"cached_tokens": 1_024},
            "completion_tokens_details": {"reasoning_tokens": 1_600},
        },
        "76 x 1.25 + 1024 x 0.125 + 1900 x 10, thinking within the 1900",
        19_223_000,
    ),
    (
        OPENAI,
        "openai",
        "o3",
        {
            "prompt_tokens": 75,
            "completion_tokens": 1_186,
            "total_tokens": 1_261,
            "prompt_tokens_details": {"cached_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 1_024},
        },
        "75 x 2 + 1186 x 8",
        9_638_000,
    ),
    (
        OPENAI,
        "openai",
        "gpt-4o-mini",
        {"prompt_tokens": 9, "completion_tokens": 1, "total_tokens": 10},
        "9 x 0.15 + 1 x 0.60 = 1.95 millionths",
        1_950,
    ),
    (
        ANTHROPIC,
        "anthropic",
        "claude-sonnet-4-5-20250929",
        {
            "input_tokens": 21,
            "cache_creation_input_tokens": 1_500,
            "cache_creation": {"ephemeral_5m_input_tokens": 500, "ephemeral_1h_input_tokens": 1_000},
            "cache_read_input_tokens": 18_000,
            "output_tokens": 393,
        },
        "21 x 3 + 500 x 3.75 + 1000 x 6 + 18000 x 0.30 + 393 x 15",
        19_233_000,
    ),
    (
        ANTHROPIC,
        "anthropic",
        "claude-opus-4-1",
        {
            "input_tokens": 50,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 100_000,
            "output_tokens": 503,
        },
        "50 x 15 + 100000 x 1.50 + 503 x 75",
        188_475_000,
    ),
    (
        ANTHROPIC,
        "anthropic",
        "claude-haiku-4-5",
        {
            "input_tokens": 1_000,
            "cache_creation_input_tokens": 2_048,
            "cache_read_input_tokens": 0,
            "output_tokens": 700,
            "output_tokens_details": {"thinking_tokens": 512},
        },
        "1000 x 1 + 2048 x 1.25 + 700 x 5, thinking within the 700",
        7_060_000,
    ),
    (
        ANTHROPIC,
        "anthropic",
        "claude-sonnet-4-5",
        {
            "input_tokens": 1_000,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 200_000,
            "output_tokens": 10,
        },
        "201000 tokens of input, above 200000: 1000 x 6 + 200000 x 0.60 + 10 x 22.50",
        126_225_000,
    ),
    (
        OPENAI,
        "deepseek",
        "deepseek-chat",
        {
            "prompt_tokens": 1_284,
            "completion_tokens": 210,
            "total_tokens": 1_494,
            "prompt_tokens_details": {"cached_tokens": 1_280},
            "prompt_cache_hit_tokens": 1_280,
            "prompt_cache_miss_tokens": 4,
        },
        "4 x 0.28 + 1280 x 0.028 + 210 x 0.42",
        125_160,
    ),
    (
        OPENAI,
        "deepseek",
        "deepseek-reasoner",
        {
            "prompt_tokens": 100,
            "completion_tokens": 900,
            "total_tokens": 1_000,
            "prompt_cache_hit_tokens": 64,
            "prompt_cache_miss_tokens": 36,
            "completion_tokens_details": {"reasoning_tokens": 640},
        },
        "36 x 0.28 + 64 x 0.028 + 900 x 0.42 = 389.872",
        389_872,
    ),
    (
        OPENAI,
        "groq",
        "llama-3.3-70b-versatile",
        {
            "queue_time": 0.05,
            "prompt_tokens": 43,
            "prompt_time": 0.002,
            "completion_tokens": 518,
            "completion_time": 1.2,
            "total_tokens": 561,
            "total_time": 1.25,
        },
        "43 x 0.59 + 518 x 0.79",
        434_590,
    ),
    (
        OPENAI,
        "groq",
        "openai/gpt-oss-120b",
        {
            "prompt_tokens": 4_641,
            "completion_tokens": 1_817,
            "total_tokens": 6_458,
            "prompt_tokens_details": {"cached_tokens": 4_608},
            "completion_tokens_details": {"reasoning_tokens": 1_500},
        },
        "33 x 0.15 + 4608 x 0.075 + 1817 x 0.60",
        1_440_750,
    ),
]


def test_images_that_are_put_out_have_a_price_of_their_own() -> None:
    """From the provider's `image_tokens`, whole, streamed and told again; within the output, and at the price of output without one."""
    usage = {
        "prompt_tokens": 10,
        "completion_tokens": 1_310,
        "total_tokens": 1_320,
        "completion_tokens_details": {"reasoning_tokens": 10, "image_tokens": 1_290},
    }
    prices = {"input_usd_per_mtok": "0.3", "output_usd_per_mtok": "2.5"}
    own = Catalog.from_settings({"a/draws": prices | {"image_usd_per_mtok": "30"}, "a/writes": prices})
    whole = by_name(OPENAI).decode_reply(answer(OPENAI, "draws", usage))
    pieces = streamed(OPENAI, stream(OPENAI, "draws", usage))
    again = by_name(OPENAI).decode_reply(by_name(OPENAI).encode_reply(whole, []))
    assert whole.usage is not None and whole.usage.image_tokens == 1_290
    assert whole.usage == pieces.usage == again.usage
    assert own.cost("a", "draws", whole.usage) == 10 * 300 + 20 * 2_500 + 1_290 * 30_000
    assert own.cost("a", "writes", whole.usage) == 10 * 300 + 1_310 * 2_500


def answer(dialect: str, model: str, usage: dict[str, Any]) -> bytes:
    """A whole answer with that usage."""
    if dialect == ANTHROPIC:
        value: dict[str, Any] = {
            "id": "msg_1",
            "type": "message",
            "role": "assistant",
            "model": model,
            "content": [{"type": "text", "text": "hi"}],
            "stop_reason": "end_turn",
            "stop_sequence": None,
            "usage": usage,
        }
    else:
        message = {"role": "assistant", "content": "hi"}
        value = {
            "id": "c1",
            "object": "chat.completion",
            "created": 1,
            "model": model,
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": usage,
        }
    return json.dumps(value).encode()


def stream(dialect: str, model: str, usage: dict[str, Any]) -> bytes:
    """The same as its provider streams it: Anthropic tells the input at the start and the output at the end, Groq puts it into `x_groq`."""
    if dialect == ANTHROPIC:
        start = json.loads(answer(dialect, model, usage))
        start |= {"content": [], "stop_reason": None, "usage": usage | {"output_tokens": 1}}
        details = {k: v for k, v in usage.items() if k == "output_tokens_details"}
        events: list[dict[str, Any]] = [
            {"type": "message_start", "message": start},
            {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
            {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "hi"}},
            {"type": "content_block_stop", "index": 0},
            {
                "type": "message_delta",
                "delta": {"stop_reason": "end_turn", "stop_sequence": None},
                "usage": {"output_tokens": usage["output_tokens"]} | details,
            },
            {"type": "message_stop"},
        ]
        return b"".join(
            b"event: " + event["type"].encode() + b"\ndata: " + json.dumps(event).encode() + b"\n\n"
            for event in events
        )
    chunk = {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": model}
    last: dict[str, Any] = chunk | {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
    chunks = [chunk | {"choices": [{"index": 0, "delta": {"content": "hi"}, "finish_reason": None}]}, last]
    if "queue_time" in usage:
        last["x_groq"] = {"id": "r", "usage": usage}
    else:
        chunks.append(chunk | {"choices": [], "usage": usage})
    return b"".join(b"data: " + json.dumps(one).encode() + b"\n\n" for one in chunks) + b"data: [DONE]\n\n"


def streamed(dialect: str, data: bytes) -> Reply:
    """What a stream says in the end."""
    decoder = by_name(dialect).decoder(hide_usage=False)
    frames = [*decoder.feed(data), *decoder.close()]
    events: list[Event] = []
    for event in (event for frame in frames for event in frame.events):
        events.append(event)
        if isinstance(event, End):
            break  # nothing comes after it
    return assemble(events)


@pytest.mark.parametrize("row", BY_HAND, ids=lambda row: f"{row[1]}/{row[2]}")
def test_a_bill_is_what_it_is_by_hand(row: tuple[str, str, str, dict[str, Any], str, int]) -> None:
    """Cached, written and thinking tokens in each provider's own words, whole and streamed, to the last nano-dollar."""
    dialect, provider, model, usage, sum_, nano = row
    numbers = sum_.partition("=")[0].partition(":")[2] or sum_.partition("=")[0].partition(",")[0]
    terms = (term.split("x") for term in numbers.split(" + "))
    assert sum(Fraction(a.strip()) * Fraction(b.strip()) for a, b in terms) * 1_000 == nano
    whole = by_name(dialect).decode_reply(answer(dialect, model, usage))
    in_pieces = streamed(dialect, stream(dialect, model, usage))
    assert whole.usage is not None and whole.usage == in_pieces.usage
    assert CATALOG.cost(provider, model, whole.usage) == nano


# --- what was recorded ------------------------------------------------------------------------------------------------


def said(recording: Recording) -> Iterator[dict[str, Any]]:
    """The usages in an answer, in its provider's words."""
    if not recording.answered_stream:
        yield from _usages([json.loads(recording.body)])
        return
    merged: dict[str, Any] = {}
    for usage in _usages(_events(recording.body)):
        # Of several the last word on each count; Anthropic's start and end are one.
        if recording.kind == ANTHROPIC:
            merged |= {name: value for name, value in usage.items() if value}
        else:
            merged = usage
    if merged:
        yield merged


def _events(body: bytes) -> Iterator[dict[str, Any]]:
    for line in body.decode("utf-8", "replace").splitlines():
        if line.startswith("data:") and line[5:].strip().startswith("{"):
            event = json.loads(line[5:])
            yield event
            if event.get("type") == "message_stop":
                return  # some files have several answers after each other


def _usages(values: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for value in values:
        inside = value.get("message") or {}
        groq = value.get("x_groq") or {}
        usage = value.get("usage") or inside.get("usage") or groq.get("usage")
        if usage:
            yield usage


def reference(dialect: str, usage: dict[str, Any], prices: Any) -> Fraction:
    """The bill in nano-dollars from the provider's words alone, exact; written without a look at the dialects."""

    def count(*path: str) -> int:
        value: Any = usage
        for name in path:
            value = (value or {}).get(name)
        return value or 0

    read_price = prices.input if prices.cache_read is None else prices.cache_read
    write_price = prices.input if prices.cache_write is None else prices.cache_write
    hour_price = prices.cache_write_1h or max(write_price, 2 * prices.input)
    if dialect == ANTHROPIC:
        hour = count("cache_creation", "ephemeral_1h_input_tokens")
        total = count("input_tokens") * prices.input + count("cache_read_input_tokens") * read_price
        total += (count("cache_creation_input_tokens") - hour) * write_price + hour * hour_price
        total += count("output_tokens") * prices.output
    else:
        prompt, completion = count("prompt_tokens"), count("completion_tokens")
        read = min(
            prompt, count("prompt_tokens_details", "cached_tokens") or count("prompt_cache_hit_tokens")
        )
        write = min(prompt - read, count("prompt_tokens_details", "cache_write_tokens"))
        thought = count("completion_tokens_details", "reasoning_tokens")
        beside = count("total_tokens") - prompt - completion
        if beside > 0 and thought in (0, beside):
            completion += beside
        # More thinking than output (a Gemini behind Vercel): nobody says which is wrong, and the larger is charged.
        completion = max(completion, thought)
        total = (prompt - read - write) * prices.input + read * read_price + write * write_price
        total += completion * prices.output
    return Fraction(total, 1_000_000)


def priced(recordings: Iterable[Recording]) -> Counter[str]:
    """Checks each; how many had which fate."""
    fates: Counter[str] = Counter()
    for recording in recordings:
        if recording.kind == "count-tokens" or not 200 <= recording.status < 300:
            continue
        dialect = by_name(recording.kind)
        try:
            reply = (
                streamed(recording.kind, recording.body)
                if recording.answered_stream
                else dialect.decode_reply(recording.body)
            )
        except HeadraceError:
            fates["an error inside"] += 1
            continue
        usages = list(said(recording))
        if not usages or reply.usage is None:
            assert reply.usage in (None, Usage()) or usages, recording.name
            fates["no usage"] += 1
            continue
        found = CATALOG.model(recording.provider, recording.model)
        model = found if found is not None and found.prices is not None else None
        # A model that has no price here is priced as one that has every kind of price, so that its shape counts too.
        model = model or CATALOG.model("anthropic", "claude-3-haiku-20240307")
        assert model is not None
        cost = model.cost(reply.usage)
        prices = model.prices_at(reply.usage.input_tokens)
        assert cost is not None and prices is not None
        exact = reference(recording.kind, usages[-1], prices)
        assert exact <= cost < exact + 1, (recording.name, usages[-1], reply.usage)
        # Told again as a stream of either dialect it costs the same.
        for name in (OPENAI, ANTHROPIC):
            encoder = by_name(name).encoder(include_usage=True, model="m", id="i")
            data = b"".join(map(encoder.feed, reply_events(reply)[:-1])) + encoder.end()
            again = streamed(name, data).usage
            assert again is not None
            kept = without_hour(reply.usage) if name == OPENAI else reply.usage
            assert model.cost(again) == model.cost(kept), (recording.name, name)
        fates["priced"] += 1
    return fates


def without_hour(usage: Usage) -> Usage:
    """OpenAI's dialect has no word for how long a write is kept."""
    return Usage(
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        cache_read_tokens=usage.cache_read_tokens,
        cache_write_tokens=usage.cache_write_tokens,
        reasoning_tokens=usage.reasoning_tokens,
        image_tokens=usage.image_tokens,
    )


def test_every_committed_usage_is_priced() -> None:
    """As an independent reading of the provider's own words, and the same when it is streamed again in either dialect."""
    fates = priced(committed())
    assert fates["priced"] > 70, fates


def test_every_recorded_usage_is_priced(recordings: list[Any]) -> None:
    """All there are, where they are at hand."""
    fates = priced(recording for recording, _ in of_exchanges(recordings))
    assert fates["priced"] > 900, fates
