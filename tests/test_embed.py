"""`embed`: vectors in order, many in a request, none asked for twice, and every request in the ledger."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

import headrace
from headrace import dialects
from headrace.call import Call
from headrace.embed import CHARACTERS, TEXTS
from headrace.testing import ErrorIn200, FakeProvider, Html, Overloaded, Silence, Status
from headrace.types import Message, Text

MODEL = "openai/text-embedding-3-small"


def test_vectors_come_in_the_order_of_the_texts() -> None:
    """Over several requests, with the same text twice; near texts have near vectors."""
    texts = ["a red car", "a red bus", "tax law", "a red car", *(f"text {n}" for n in range(2 * TEXTS))]
    with headrace.fake("unused") as llm:
        found = llm.embed(MODEL, texts)
        assert len(found) == len(texts) and found.vectors[0] == found.vectors[3]
        one = llm.embed(MODEL, "tax law")
        assert one.vector == found.vectors[2] and not one.calls

        def cosine(a: list[float], b: list[float]) -> float:
            return sum(map(math.prod, zip(a, b, strict=True)))

        assert cosine(found.vectors[0], found.vectors[1]) > cosine(found.vectors[0], found.vectors[2])
        assert [len(request.json["input"]) for request in llm.provider.requests] == [TEXTS, TEXTS, 3]


def test_no_text_is_paid_for_twice() -> None:
    """Known ones are not asked; another model, other dimensions, and another client are something else."""
    with headrace.fake("unused") as llm:
        first = llm.embed(MODEL, ["a", "b"])
        again = llm.embed(MODEL, ["b", "c", "a"])
        assert (
            again.cached == 2
            and again.vectors[2] == first.vectors[0]
            and again.vectors[0] == first.vectors[1]
        )
        assert [request.json["input"] for request in llm.provider.requests] == [["a", "b"], ["c"]]
        assert len(llm.embed(MODEL, "a", dimensions=8).vector) == 8
        assert llm.embed("openai/text-embedding-3-large", "a").cached == 0
        assert llm.provider.requests[2].json == {
            "model": "text-embedding-3-small",
            "input": ["a"],
            "dimensions": 8,
        }


def test_a_route_with_a_cache_keeps_them_for_the_next_program(tmp_path: Path) -> None:
    """A second client, with another's memory, pays nothing for what the first one asked, and gets it to the bit."""
    with FakeProvider() as provider:
        path = tmp_path / "headrace.toml"
        path.write_text(
            f'[providers.openai]\ndialect = "openai-chat"\nbase_url = "{provider.base_url}"\napi_key = "k"\n'
            f'[routes.vectors]\ncascade = ["{MODEL}"]\n[routes.vectors.cache]\n[store]\npath = "{tmp_path / "h.db"}"\n'
        )
        with headrace.Client(headrace.load(path, environ={})) as llm:
            first = llm.embed("vectors", ["a", "b"])
        with headrace.Client(headrace.load(path, environ={})) as llm:
            again = llm.embed("vectors", ["a", "b"])
            assert llm.embed("vectors", ["b", "a"]).vectors == first.vectors[::-1]  # of its memory by now
        assert again.vectors == first.vectors and len(provider.requests) == 1
        assert first.cost_usd != "0" and (again.cost_usd, again.tokens) == ("0", 0)
        assert again.calls[0].cache == "hit-exact"


def test_every_request_is_in_the_ledger_with_its_cost(tmp_path: Path) -> None:
    """Retries and all: attempts, tokens, cost and tags."""
    settings = headrace.load(environ={"OPENAI_API_KEY": "k"})
    with headrace.fake("unused", faults=[Status(429, retry_after=3), Overloaded()], settings=settings) as llm:
        found = llm.embed(MODEL, ["x" * 400], tags={"job": "index"}, user="ann")
        assert (
            found.tokens == 100 and found.cost_usd == "0.000002" and found.model == "text-embedding-3-small"
        )
        assert llm.clock.now() >= 3
        engine = llm.client.engine

        async def rows() -> list[Any]:
            await engine.store.flush()
            return await engine.store.recent(5)

        (row,) = llm.portal.run(rows())
        assert [attempt.outcome for attempt in row.attempts] == ["error", "error", "ok"]
        assert (row.dialect, row.tags, row.user) == ("openai-embeddings", {"job": "index"}, "ann")
        assert row.attempts[2].input_tokens == 100 and row.attempts[2].cost_nano == 2000


def test_only_the_same_model_is_a_fallback() -> None:
    """The same model at another provider is asked; another model, and a provider without embeddings, is passed over by name."""
    with headrace.fake("unused") as llm:
        llm.provider.on("m", Status(500), Status(500), Status(500))
        found = llm.embed(["openai/m", "openai/other", "anthropic/m", "together/vendor/m"], "a")
        (call,) = found.calls
        assert [str(a.target) for a in call.attempts if a.outcome != "skipped"] == [
            *["openai/m"] * 3,
            "together/vendor/m",
        ]
        assert "not those of openai/m" in str(call.warnings) and "anthropic has no embeddings" in str(
            call.warnings
        )
        with pytest.raises(headrace.HeadraceError, match="has no embeddings"):
            llm.embed("local/default", "a")


@pytest.mark.parametrize("fault", [Html(200), ErrorIn200(), Silence()])
def test_what_a_provider_does_wrong_is_a_typed_error(fault: Any) -> None:
    """A page, an error in a good status and silence end as for a chat, and the first failure ends the other requests."""
    with headrace.fake("unused") as llm:
        llm.provider.default = fault
        with pytest.raises(headrace.HeadraceError):
            llm.embed([(MODEL, 1)], [f"{n}" for n in range(3 * TEXTS)])
        assert llm.embed(MODEL, []).vectors == []


def test_too_few_vectors_are_no_answer() -> None:
    """A server that drops a text must not shift the vectors of the others."""

    class Short(Status):
        async def act(self, wire: Any) -> None:
            wire.whole(b'{"object":"list","model":"m","data":[{"index":0,"embedding":[1.0]}]}')

    with headrace.fake("unused") as llm:
        llm.provider.default = Short(200)
        with pytest.raises(headrace.ProviderError, match=r"2 texts were given .* 1 vectors"):
            llm.embed(MODEL, ["a", "b"])


def test_what_has_no_vector() -> None:
    """Empty texts and other values are refused before anything is sent."""
    with headrace.fake("unused") as llm:
        for bad in (["a", ""], [3]):
            with pytest.raises(headrace.InvalidRequest, match="only texts"):
                llm.embed(MODEL, bad)  # type: ignore[arg-type]
        assert not llm.provider.requests
        llm.embed(MODEL, ["x" * (CHARACTERS - 1), "yy", "z"])
        assert [len(request.json["input"]) for request in llm.provider.requests] == [1, 2]


def test_the_dialect_keeps_what_it_does_not_know() -> None:
    """Tokens and other members go through the typed form and come out as they were."""
    dialect = dialects.by_name("openai-embeddings")
    for body in (
        b'{"model":"m","input":["a","b"],"encoding_format":"base64","user":"u"}',
        b'{"model":"m","input":[[1,2],[3]],"dimensions":3}',
        b'{"model":"m","input":[[1,2,3]]}',
    ):
        assert dialect.encode_request(dialect.decode_request(body), []) == body
    single = dialect.decode_request(b'{"model":"m","input":[1,2,3]}')
    assert dialect.encode_request(single, []) == b'{"model":"m","input":[[1,2,3]]}'
    assert single.messages[0].content and not isinstance(single.messages[0].content[0], Text)
    reply = b'{"object":"list","data":[{"object":"embedding","index":0,"embedding":"AAA="}],"model":"m","usage":{"prompt_tokens":2,"total_tokens":2}}'
    assert dialect.encode_reply(dialect.decode_reply(reply), []) == reply
    warnings: list[str] = []
    image = headrace.Image(url="https://x.test/a.png")
    asked = single.__class__(model="m", messages=(Message(role="user", content=(image,)),))
    dialect.encode_request(asked, warnings)
    assert warnings == ["image (embeddings)"]
    for bad in (b"{}", b'{"model":"m"}', b'{"model":"m","input":[]}', b'{"model":"m","input":3}', b"["):
        with pytest.raises(headrace.InvalidRequest):
            dialect.decode_request(bad)


def test_a_budget_scope_counts_vectors(tmp_path: Path) -> None:
    """What `budget` allows holds for vectors too: the second request does not fit any more."""
    (tmp_path / "headrace.toml").write_text(
        f'[prices."{MODEL}"]\ninput_usd_per_mtok = "1"\noutput_usd_per_mtok = "0"\n'
    )
    settings = headrace.load(tmp_path / "headrace.toml", environ={"OPENAI_API_KEY": "k"})
    calls: list[Call] = []
    with headrace.fake("unused", settings=settings) as llm, llm.budget(usd="0.001") as budget:
        calls += llm.embed(MODEL, "x" * 2000).calls
        with pytest.raises(headrace.BudgetExceeded):
            llm.embed(MODEL, "y" * 4000)
        assert budget.spent == sum(call.cost or 0 for call in calls) > 0
