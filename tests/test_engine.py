"""What a model's name means, and the order of the stack."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import pytest

import headrace
from headrace.engine import LAYERS, Engine, as_route
from headrace.errors import CredentialsMissing, UnknownModel
from headrace.handler import Body, Route
from headrace.testing import make_request
from headrace.types import Chat, Reasoning, Target, Tool

TOML = """
[providers.vllm]
base_url = "http://127.0.0.1:9/v1"
[routes.smart]
deadline = "9s"
cascade = [{ target = "vllm/a", attempts = 4 }, "local/default"]
"""


KEYS = """
[providers.groq]
base_url = "https://groq.internal.example/v1"
[routes.r]
cascade = ["openai/gpt-4o", "groq/x", "mistral/y"]
"""


def engine(tmp_path: Path, toml: str = TOML, **environ: str) -> Engine:
    """An engine of its own; nothing is sent by these tests."""
    path = tmp_path / "headrace.toml"
    path.write_text(toml)
    return Engine(headrace.load(path, environ=environ))


def test_the_order_of_the_default_stack() -> None:
    """The order is what the decision record says, and every place has a reason; the engine builds from this very table."""
    order = [
        "trace",
        "deadline",
        "identity",
        "idempotency",
        "ratelimit",
        "choose",
        "guard",
        "cache",
        "budget",
        "restart",
        "continuation",
        "cascade",
        "output",
        "context",
        "seam",
        "retry",
        "ledger",
        "balance",
        "breaker",
        "concurrency",
        "reserve",
        "hold",
        "whole_calls",
        "timeout",
        "provider",
    ]
    names = [note.name for note in LAYERS]
    assert names == [name for name in order if name in names]
    assert set(order) - set(names) <= {"output", "breaker"}
    assert all(len(note.reason) > 20 for note in LAYERS)


def test_a_known_service_without_a_key_is_not_asked(tmp_path: Path) -> None:
    """The reason says which variable to set; a server of one's own at another address is asked, key or not."""
    house = engine(tmp_path, KEYS, MISTRAL_API_KEY="sk-m")
    openai, groq, mistral = (
        house._misfit(target, make_request()) for target in house.settings.routes["r"].cascade
    )
    assert openai is not None and isinstance(openai.error, CredentialsMissing) and openai.certain
    assert "no key is configured for openai: set OPENAI_API_KEY" in str(openai.error)
    assert groq is None
    assert mistral is None


def test_the_embedded_model_has_no_tools(tmp_path: Path) -> None:
    """It is passed over for certain by requests with tools, and by those alone."""
    house, target = engine(tmp_path), Target("local", "default", 1)
    tool = Tool(name="f", parameters=msgspec.Raw(b"{}"))
    tooled = msgspec.structs.replace(
        make_request(), body=Body(chat=Chat(model="", messages=(), tools=(tool,)))
    )
    found = house._misfit(target, tooled)
    assert found is not None and found.certain and "has no tools" in str(found.error)
    assert house._misfit(target, make_request()) is None


def test_names_of_models(tmp_path: Path) -> None:
    """A route, provider/model, a comma-separated cascade, the embedded model."""
    house = engine(tmp_path)
    assert house.route("smart").cascade == (Target("vllm", "a", 4), Target("local", "default", 1))
    assert house.route("vllm/org/model").cascade == (Target("vllm", "org/model", 3),)
    assert [str(target) for target in house.route("vllm/x, local/default").cascade] == [
        "vllm/x",
        "local/default",
    ]
    assert house.route("smart") is house.route("smart")


def test_a_bare_name_belongs_to_the_dialects_own_provider(tmp_path: Path) -> None:
    """A client that names a model as its provider does is understood, in that provider's dialect only."""
    house = engine(tmp_path, OPENAI_API_KEY="sk-test")
    assert house.route("gpt-4o", "openai-chat").cascade == (Target("openai", "gpt-4o", 3),)
    with pytest.raises(UnknownModel, match=r"openai/\.\.\."):
        house.route("claude-sonnet-4-5", "anthropic")


def test_without_any_key_a_bare_name_goes_to_the_embedded_model(tmp_path: Path) -> None:
    """Somebody who has no key is answered by the local model; a name with a slash is still taken at its word."""
    house = engine(tmp_path, "")
    assert house.route("gpt-4o", "openai-chat").cascade == (Target("local", "default", 1),)
    with pytest.raises(UnknownModel):
        house.route("openai/gpt-4o", "openai-chat")


def test_a_program_is_not_answered_under_a_wrong_name(tmp_path: Path) -> None:
    """In the library a name that nobody knows is a mistake, with or without keys; a missing key is named by its variable."""
    house = engine(tmp_path, "")
    assert house.route("default").cascade == (Target("local", "default", 1),)
    with pytest.raises(UnknownModel, match="'gpt-4o' is neither a route"):
        house.route("gpt-4o")
    with pytest.raises(UnknownModel, match=r"openai has no key\. Set OPENAI_API_KEY"):
        house.route("openai/gpt-4o")


def test_with_a_key_nothing_goes_to_the_embedded_model_unasked(tmp_path: Path) -> None:
    """The weak model never stands in for a name nobody routed to it."""
    house = engine(tmp_path, "", OPENAI_API_KEY="sk-test")
    with pytest.raises(UnknownModel):
        house.route("default", "anthropic")


def test_levels_made_on_the_spot() -> None:
    """A list keeps its order and attempts; a single named route keeps its rules."""
    smart = Route(name="smart", cascade=(Target("a", "x", 2),), deadline_s=9.0)
    routes = {"smart": smart, "b/y": Route(name="b/y", cascade=(Target("b", "y", 3),))}
    assert as_route("smart", routes.__getitem__) is smart
    made = as_route(["smart", ("b/y", 5)], routes.__getitem__)
    assert made.cascade == (Target("a", "x", 2), Target("b", "y", 5))
    with pytest.raises(ValueError, match="at least one level"):
        as_route([], routes.__getitem__)
    with pytest.raises(ValueError, match="must be 1 or more, not 0"):
        as_route([("b/y", 0)], routes.__getitem__)


def test_levels_do_not_escape_a_routes_caps() -> None:
    """Of what one request may use, the least that any of the routes allows holds for all of them together."""
    routes = {
        "a": Route(name="a", cascade=(Target("a", "x"),), max_cost=500, max_output_tokens=9),
        "b": Route(name="b", cascade=(Target("b", "y"),), max_cost=200, max_total_tokens=70),
        "c": Route(name="c", cascade=(Target("c", "z"),)),
    }
    made = as_route(["c", "a", "b"], routes.__getitem__)
    assert (made.max_cost, made.max_total_tokens, made.max_output_tokens) == (200, 70, 9)
    assert as_route(["c", "c"], routes.__getitem__).max_cost is None


def test_closing_an_engine_that_did_nothing(tmp_path: Path) -> None:
    """It is safe, and safe again."""

    async def main() -> None:
        house = engine(tmp_path)
        await house.aclose()
        await house.aclose()

    asyncio.run(main())


@pytest.mark.parametrize(
    ("target", "members"),
    [
        ("anthropic/claude-sonnet-4-5", {}),
        ("anthropic/claude-opus-4-6", None),
        ("anthropic/claude-3-sonnet-20240229", None),
        ("anthropic/nobody-knows", None),
        ("openai/gpt-5", None),
        ("deepseek/deepseek-v3", None),
        ("local/default", None),
        ("mistral/codestral-latest", {"prefix": msgspec.Raw(b"true")}),
        ("vllm/mine", {}),
    ],
)
def test_who_is_sent_a_prefill(tmp_path: Path, target: str, members: dict[str, msgspec.Raw] | None) -> None:
    """Only a model that is known to take one, in an API that does; never while it is to think."""
    house = engine(
        tmp_path,
        """
[providers.vllm]
dialect = "openai-chat"
base_url = "http://127.0.0.1:9/v1"
[prices."vllm/mine"]
prefill = true
[routes.r]
cascade = ["anthropic/claude-sonnet-4-5", "mistral/codestral-latest", "openai/gpt-5", "deepseek/deepseek-v3"]
""",
    )
    asked = make_request()
    provider, model = target.split("/", 1)
    assert house._prefill(Target(provider, model), asked) == members
    thinks = msgspec.structs.replace(asked.body.chat, reasoning=Reasoning(budget_tokens=2000))
    asked = msgspec.structs.replace(asked, body=Body(chat=thinks))
    assert house._prefill(Target(provider, model), asked) is None
