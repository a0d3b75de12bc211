"""`/v1/embeddings`: the official SDK's vectors, the caller's own bytes, keys and errors as for every other path."""

from __future__ import annotations

import json
from pathlib import Path

import openai
import pytest
from tests.gateway.gate import KEY, Gate, config, gated

from headrace.testing import FakeProvider, Overloaded


def test_the_official_sdk(gate: Gate) -> None:
    """It asks for base64 and gets floats; a fallback and a retry are in between, and the ledger has the tokens."""
    gate.provider.script(Overloaded())
    made = gate.oai.embeddings.create(model="openai/m", input=["a b", "c"], encoding_format="float")
    assert len(made.data) == 2 and len(made.data[0].embedding) == 32 and made.usage.prompt_tokens == 2
    raw = gate.oai.embeddings.with_raw_response.create(model="openai/m", input="a", encoding_format="float")
    stored = gate.http("GET", f"/v1/requests/{raw.headers['x-request-id']}", key=KEY).json
    assert stored["attempts"][0]["outcome"] == "ok"


def test_the_callers_bytes_go_through(gate: Gate) -> None:
    """Only the model is exchanged; members that nobody here knows arrive."""
    body = b'{ "input" : [[1, 2]],  "model":"openai/m", "input_type": "query"}'
    answer = gate.http("POST", "/v1/embeddings", body, key=KEY)
    assert answer.status == 200, answer.body
    assert gate.provider.requests[0].body == body.replace(b'"openai/m"', b'"m"')
    assert answer.headers["x-headrace-target"] == "openai/m" and answer.json["object"] == "list"


ROUTES = """
[routes.vectors]
cascade = ["openai/text-embedding-3-small"]
[routes.vectors.cache]
[routes.wide]
cascade = ["openai/text-embedding-3-small"]
[routes.wide.cache]
"""


def test_a_route_with_a_cache_asks_once_also_after_a_restart(tmp_path: Path) -> None:
    """The same vectors to the letter; another text, order, dimension, member, route or key is asked for."""
    more = ROUTES + '[keys.three]\nvalue = "hr-canary-third-key-0123456789"\n'

    def got(gate: Gate, text: object = ("a b", "c"), key: str = KEY, **members: object) -> tuple[str, bytes]:
        body = {"model": "vectors", "input": text} | members
        answer = gate.http("POST", "/v1/embeddings", json.dumps(body).encode(), key=key)
        assert answer.status == 200, answer.body
        return answer.headers["x-headrace-cache"], answer.body

    with FakeProvider() as provider:
        with gated(provider, tmp_path, config(provider, more=more)) as gate:
            first = got(gate)
            again = got(gate, user="ann")
            assert (first[0], again[0]) == ("miss", "hit-exact")
            assert json.loads(again[1])["data"] == json.loads(first[1])["data"]
            others: list[dict[str, object]] = [
                {"text": ["c", "a b"]},
                {"text": ["a b", "C"]},
                {"text": [[1, 2]]},
                {"text": "a b"},
                {"dimensions": 8},
                {"encoding_format": "base64"},
                {"input_type": "query"},
                {"model": "wide"},
                {"key": "hr-canary-third-key-0123456789"},
            ]
            assert [got(gate, **other)[0] for other in others] == ["miss"] * len(others)  # type: ignore[arg-type]
            assert len(provider.requests) == 1 + len(others)
        with gated(provider, tmp_path, config(provider, more=more)) as gate:
            assert got(gate) == ("hit-exact", again[1])
            assert len(provider.requests) == 1 + len(others)


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ({"input": "a"}, 400, "model"),
        ({"model": "openai/m", "input": "a", "stream": True}, 400, "not streamed"),
        ({"model": "anthropic/m", "input": "a"}, 400, "has no embeddings"),
        ({"model": "nobody/m", "input": "a"}, 404, "nobody/m"),
    ],
)
def test_what_is_wrong_is_told_in_openais_envelope(
    gate: Gate, body: dict[str, object], status: int, said: str
) -> None:
    """With the status that its SDK expects."""
    answer = gate.http("POST", "/v1/embeddings", json.dumps(body).encode(), key=KEY)
    assert answer.status == status and said in answer.json["error"]["message"], answer.body


def test_a_key_is_needed(gate: Gate) -> None:
    """As everywhere."""
    client = openai.OpenAI(base_url=str(gate.oai.base_url), api_key="wrong", max_retries=0)
    with pytest.raises(openai.AuthenticationError):
        client.embeddings.create(model="openai/m", input="a", encoding_format="float")
