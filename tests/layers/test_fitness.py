"""Whether a target can serve a request, from what is known of its model."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from headrace.dialects import ANTHROPIC, OPENAI_CHAT
from headrace.errors import ContextTooLong, Unsupported
from headrace.handler import Body, ContextPolicy, Request, Route
from headrace.layers.fitness import Misfit, misfit
from headrace.prices import Model
from headrace.testing import ManualClock, make_request
from headrace.types import Chat, Target

TARGET = Target("a", "one")
ABLE = Model(tools=True, images=True, json_schema=True, context_total=8_000)
UNKNOWN = Model()
UNABLE = Model(tools=False, images=False, json_schema=False)


def asking(body: Body, **rules: Any) -> Request:
    """A request with that body."""
    route = Route(name="r", cascade=(TARGET,), **rules)
    return msgspec.structs.replace(make_request(clock=ManualClock(), route=route), body=body)


def openai(**members: Any) -> Body:
    """In the caller's bytes."""
    text = msgspec.json.encode({"model": "m", "messages": [{"role": "user", "content": "Hello"}], **members})
    return Body(wire=text, dialect=OPENAI_CHAT)


def anthropic(content: object = "Hello", **members: Any) -> Body:
    """In the caller's bytes, in the other dialect."""
    messages = [{"role": "user", "content": content}]
    text = msgspec.json.encode({"model": "m", "max_tokens": 9, "messages": messages, **members})
    return Body(wire=text, dialect=ANTHROPIC)


TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
PIXEL = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}}
SCHEMA = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}}
PICTURE = {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}

FEATURES = [
    ("tools", openai(tools=[TOOL])),
    ("tools", anthropic(tools=[{"name": "f", "input_schema": {"type": "object"}}])),
    ("images", openai(messages=[{"role": "user", "content": [PICTURE]}])),
    ("images", anthropic([PIXEL])),
    ("images", anthropic([{"type": "tool_result", "tool_use_id": "t", "content": [PIXEL]}])),
    ("JSON Schema", openai(response_format=SCHEMA)),
]


@pytest.mark.parametrize(("word", "body"), FEATURES)
def test_a_feature_that_the_model_lacks(word: str, body: Body) -> None:
    """Named in the reason; a model of which nothing is known is asked, and one that has it."""
    found = misfit(TARGET, asking(body), UNABLE)
    assert found is not None and isinstance(found.error, Unsupported) and not found.certain
    assert str(found.error) == f"a/one has no {word}"
    assert misfit(TARGET, asking(body), ABLE) is None
    assert misfit(TARGET, asking(body), UNKNOWN) is None
    typed = misfit(TARGET, asking(Body(chat=body.chat)), UNABLE)
    assert typed is not None and str(typed.error) == str(found.error)


def test_what_is_not_used_is_not_missed() -> None:
    """A plain question may go anywhere, also one that talks about tools; and its bytes are not decoded for it."""
    plain = openai()
    assert misfit(TARGET, asking(plain), UNABLE) is None
    assert plain._chat is None
    assert misfit(TARGET, asking(openai(messages=[{"role": "user", "content": '"tools"'}])), UNABLE) is None
    assert misfit(TARGET, asking(openai(tools=[])), UNABLE) is None


def test_a_schema_that_is_held_needs_no_mode() -> None:
    """Where answers are held until they are valid, the model is asked in words if it has no mode."""
    assert misfit(TARGET, asking(openai(response_format=SCHEMA), repair=True), UNABLE) is None


def test_the_embedded_model_is_known_for_certain() -> None:
    """Nobody need ask it."""
    found = misfit(Target("local", "default"), asking(openai(tools=[TOOL])), UNABLE)
    assert found is not None and found.certain


LONG = "word " * 10_000


@pytest.mark.parametrize("wire", [True, False])
def test_a_request_beyond_the_window(wire: bool) -> None:
    """The reason has both figures, and the output that was asked for where that is what is too much."""
    body = openai(messages=[{"role": "user", "content": LONG}], max_tokens=5_000)

    def judged(**limits: int) -> Misfit | None:
        return misfit(
            TARGET,
            asking(body if wire else Body(chat=body.chat)),
            Model(**limits),  # type: ignore[arg-type]
        )

    found = judged(context_total=8_000)
    assert found is not None and isinstance(found.error, ContextTooLong) and not found.certain
    assert "takes 8,000 tokens, the request has about 10,0" in str(found.error)
    assert judged(context_total=16_000) is None
    tight = judged(context_total=12_000)
    assert tight is not None and "asks for 5,000 more" in str(tight.error)
    assert judged(context_total=100_000, max_input=9_000) is not None
    assert judged() is None


def test_a_route_that_packs_fits_everywhere() -> None:
    """The context layer makes it fit."""
    body = openai(messages=[{"role": "user", "content": LONG}])
    assert misfit(TARGET, asking(body, context=ContextPolicy()), Model(context_total=8_000)) is None


def test_what_cannot_be_read_is_not_judged() -> None:
    """Its provider says what is wrong with it."""
    body = openai(messages=7, tools=[TOOL])
    assert misfit(TARGET, asking(body), UNABLE) is None


def test_any_chat_is_judged() -> None:
    """Nothing in it: it fits."""
    assert misfit(TARGET, asking(Body(chat=Chat(model="", messages=()))), UNABLE) is None
