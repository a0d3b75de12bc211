"""The cache through the library and the gateway, over a real socket."""

from __future__ import annotations

import json
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tests.gateway.gate import KEY, OTHER, ask, config, gated

import headrace
from headrace.sync import Client
from headrace.testing import FakeProvider

ROUTE = """
[routes.kept]
cascade = ["openai/first"]
[routes.kept.cache]
semantic = true
max_wrong = 0.05
"""


def test_the_library_is_answered_from_the_cache_also_after_a_restart(tmp_path: Path) -> None:
    """Buffered and streamed; the second client finds what the first one kept."""
    with FakeProvider() as provider:
        path = tmp_path / "headrace.toml"
        path.write_text(
            f'[providers.oai]\ndialect = "openai-chat"\nbase_url = "{provider.base_url}"\n'
            '[routes.kept]\ncascade = ["oai/m"]\n[routes.kept.cache]\nsemantic = true\nmax_wrong = 0.05\nlookup = "1s"\n'
            f'[store]\npath = "{tmp_path / "h.db"}"\n'
        )
        settings = headrace.load(path, environ={})
        provider.reply("It is void.")
        with Client(settings) as llm:
            first = llm.chat("kept", "How do I activate my new card?")
            second = llm.chat("kept", "how can I activate the new card")
            assert (first.call.cache, second.call.cache) == ("miss", "hit-semantic")
            assert second.text == "It is void."
        with Client(settings) as llm, llm.stream("kept", "How do I activate my new card?") as stream:
            assert "".join(stream) == "It is void."
            assert stream.final.call.cache == "hit-exact"
        assert len(provider.requests) == 1


def test_the_library_says_whether_the_cache_is_used(tmp_path: Path) -> None:
    """`refresh` asks anew and keeps, `off` does neither; a value with a form comes from the cache as it came from the model."""
    with FakeProvider() as provider:
        path = tmp_path / "headrace.toml"
        path.write_text(
            f'[providers.oai]\ndialect = "openai-chat"\nbase_url = "{provider.base_url}"\n'
            '[routes.kept]\ncascade = ["oai/m"]\n[routes.kept.cache]\n[store]\npath = ":memory:"\n'
        )
        with Client(headrace.load(path, environ={})) as llm:
            provider.reply("old")
            llm.chat("kept", "Is it so?")
            provider.reply("unseen")
            assert llm.chat("kept", "Is it so?", cache="off").text == "unseen"
            assert llm.chat("kept", "Is it so?").text == "old"
            provider.reply("new")
            assert llm.chat("kept", "Is it so?", cache="refresh").text == "new"
            with llm.stream("kept", "Is it so?") as stream:
                assert "".join(stream) == "new"
            provider.reply("[1, 2]")
            for how in ("miss", "hit-exact"):
                answer = llm.chat("kept", "Which?", output=list[int])
                assert (answer.value, answer.call.cache) == ([1, 2], how)
            with pytest.raises(
                headrace.InvalidRequest, match="cache must be one of use, refresh, off, not 'no'"
            ):
                llm.chat("kept", "Is it so?", cache="no")  # type: ignore[arg-type]


@pytest.mark.parametrize("dialect", ["openai", "anthropic"])
def test_the_gateway_replays_in_the_callers_dialect(tmp_path: Path, dialect: str) -> None:
    """Headers say what happened; a stream from the cache is one that the dialect's readers take; keys do not share."""
    with FakeProvider() as provider:
        text = config(provider, more=ROUTE)
        with gated(provider, tmp_path, text) as gate:
            provider.reply("It is void.")
            miss = gate.post(dialect, ask(dialect, "kept", "What is an annulment?"))
            hit = gate.post(dialect, ask(dialect, "kept", "What is an annulment?"))
            streamed = gate.post(dialect, ask(dialect, "kept", "what's an annulment", stream=True))
            assert (miss.headers["x-headrace-cache"], hit.headers["x-headrace-cache"]) == (
                "miss",
                "hit-exact",
            )
            assert "tier=exact" in hit.headers["x-headrace-cache-detail"]
            assert (hit.headers["x-headrace-cost-usd"], hit.headers["x-headrace-attempts"]) == ("0", "0")
            assert hit.json["id"] != miss.json["id"]
            assert "It is void." in json.dumps(hit.json)
            assert streamed.headers["x-headrace-cache"] == "hit-canonical"
            assert b"It is void." in streamed.body
            assert (b"[DONE]" if dialect == "openai" else b"message_stop") in streamed.body
            again = gate.post(
                dialect, ask(dialect, "kept", "What is an annulment?"), {"cache-control": "no-store"}
            )
            assert again.headers["x-headrace-cache"] == "bypass"
            assert len(provider.requests) == 2


@pytest.mark.parametrize("stream", [False, True])
def test_identical_requests_to_the_gateway_are_one_upstream(tmp_path: Path, stream: bool) -> None:
    """100 at once."""
    with FakeProvider() as provider, gated(provider, tmp_path, config(provider, more=ROUTE)) as gate:
        provider.reply("It is void.")
        body = ask("openai", "kept", "What is an annulment?", stream=stream)
        with ThreadPoolExecutor(100) as pool:
            got = list(pool.map(lambda _: gate.post("openai", body), range(100)))
        assert {one.status for one in got} == {200}
        assert all(b"void" in one.body for one in got)
        assert len(provider.requests) == 1


@pytest.mark.parametrize("stream", [False, True])
def test_below_a_guard_the_same_words_about_others_are_another_question(tmp_path: Path, stream: bool) -> None:
    """The provider saw placeholders each time; each asker gets the answer about its own address."""
    route = ROUTE + '[routes.kept.guard]\nredact = ["email"]\n'
    with FakeProvider() as provider, gated(provider, tmp_path, config(provider, more=route)) as gate:

        def asked(who: str) -> tuple[str, bytes]:
            got = gate.post("openai", ask("openai", "kept", f"Is {who} a correct address?", stream=stream))
            return got.headers["x-headrace-cache"], got.body

        provider.reply("Yes, [EMAIL_1] is.")
        for who, how in (("ann@a.org", "miss"), ("bob@b.org", "miss"), ("ann@a.org", "hit-exact")):
            said, body = asked(who)
            assert said == how and who.encode() in body, (who, said)
        assert len(provider.requests) == 2
        assert not any(b"@" in json.dumps(request.json).encode() for request in provider.requests)


def test_a_stream_from_the_cache_has_its_usage(tmp_path: Path) -> None:
    """As the model's stream had: OpenAI's last chunk where it was asked for, Anthropic's delta."""
    with FakeProvider() as provider, gated(provider, tmp_path, config(provider, more=ROUTE)) as gate:
        for dialect, more, mark in (
            ("openai", {"stream_options": {"include_usage": True}}, b'"prompt_tokens":'),
            ("anthropic", {}, b'"output_tokens":'),
        ):
            provider.reply("It is void.")
            body = ask(dialect, "kept", "What is an annulment?", stream=True, **more)
            first, second = gate.post(dialect, body), gate.post(dialect, body)
            assert [one.headers["x-headrace-cache"] for one in (first, second)] == ["miss", "hit-exact"]
            counts = [re.findall(re.escape(mark) + rb"\s*(\d+)", one.body) for one in (first, second)]
            assert counts[0] and counts[0][-1] == counts[1][-1] != b"0", counts


def test_two_keys_and_two_system_prompts_at_once_never_cross(tmp_path: Path) -> None:
    """120 requests in flight together are one upstream for each key and system prompt, and each asker has its own scope's answer."""
    more = '[routes.both.cache]\nsemantic = true\nmax_wrong = 0.05\nlookup = "5s"\n'
    with FakeProvider() as provider, gated(provider, tmp_path, config(provider, more=more)) as gate:

        def asked(number: int) -> tuple[int, str, str]:
            key, system = (KEY, OTHER)[number % 2], ("Be brief.", "Be rude.")[number // 2 % 2]
            body = {
                "model": "both",
                "messages": [
                    {"role": "system", "content": system},
                    {"role": "user", "content": "How do I activate my new card?"},
                ],
            }
            got = gate.http("POST", "/v1/chat/completions", json.dumps(body).encode(), key=key)
            assert got.status == 200, got
            return number % 4, got.json["choices"][0]["message"]["content"], got.headers["x-headrace-cache"]

        for text in ("one", "two", "three", "four"):
            provider.reply(text)
        with ThreadPoolExecutor(120) as pool:
            got = list(pool.map(asked, range(120)))
        assert len(provider.requests) == 4
        answers = {scope: {text for one, text, _ in got if one == scope} for scope in range(4)}
        assert all(len(texts) == 1 for texts in answers.values()), answers
        assert set().union(*answers.values()) == {"one", "two", "three", "four"}
        assert sum(how == "miss" for *_, how in got) == 4
