"""LLMock, a fault server by someone else, judges us: it stands where the provider stands."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest
from llmock.scenarios import Fail, StreamFault
from llmock.testing import LLMockServer
from tests.gateway.gate import KEY, PAIRS, Gate, gated

from headrace.testing import FakeProvider

HI: Any = [{"role": "user", "content": "hi"}]

pairs = pytest.mark.parametrize(("client", "provider"), PAIRS)
streamed = pytest.mark.parametrize("stream", [False, True], ids=["buffered", "streamed"])


@pytest.fixture(scope="module")
def mock() -> Iterator[LLMockServer]:
    """The server, in a thread."""
    with LLMockServer() as server:
        yield server


@pytest.fixture(scope="module")
def before_mock(mock: LLMockServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gate]:
    """A gateway in front of it."""
    text = f"""
[providers.openai]
dialect = "openai-chat"
base_url = "{mock.base_url("openai")}"
api_key = "sk-mock"
[providers.anthropic]
dialect = "anthropic"
base_url = "{mock.base_url("anthropic")}"
api_key = "sk-mock"
[keys.one]
value = "{KEY}"
"""
    for dialect in ("openai", "anthropic"):
        cascade = f'cascade = [{{ target = "{dialect}/gpt-4o", attempts = 3 }}]\n'
        text += f"[routes.to-{dialect}]\n{cascade}"
        text += f'[routes.brisk-{dialect}]\n{cascade}first_content = "300ms"\nbetween_events = "300ms"\n'
    with (
        FakeProvider() as unused,
        gated(unused, tmp_path_factory.mktemp("llmock"), text) as gate,
    ):
        yield gate


def say(gate: Gate, client: str, provider: str, stream: bool, route: str = "to") -> str:
    """What the SDK hears, without retries of its own. The route `brisk` waits for no more than 0.3 s of silence."""
    model = f"{route}-{provider}"
    if client == "openai":
        oai = gate.oai.with_options(max_retries=0)
        if not stream:
            return oai.chat.completions.create(model=model, messages=HI).choices[0].message.content or ""
        chunks = oai.chat.completions.create(model=model, messages=HI, stream=True)
        return "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    ant = gate.ant.with_options(max_retries=0)
    if not stream:
        block: Any = ant.messages.create(model=model, messages=HI, max_tokens=99).content[0]
        return str(block.text)
    with ant.messages.stream(model=model, messages=HI, max_tokens=99) as events:
        return "".join(events.text_stream)


def judged(mock: LLMockServer) -> Any:
    """The verdict on all that was asked since the last one."""
    from llmock.verdict import judge

    verdict = judge(mock.state.journal.records(wait=5.0))
    mock.state.reset()
    return verdict


@pairs
@streamed
@pytest.mark.parametrize("status", [429, 500, 502, 503, 529])
def test_failures_that_pass(
    mock: LLMockServer, before_mock: Gate, client: str, provider: str, stream: bool, status: int
) -> None:
    """The client notices nothing of one failure; a wait that was asked for is kept."""
    mock.state.scenarios.add(Fail(status, retry_after=0.2 if status == 429 else 0.05))
    assert say(before_mock, client, provider, stream)
    verdict = judged(mock)
    assert (verdict.attempts, verdict.faults) == (2, 1)
    verdict.assert_ok(strict=True)


@pairs
@pytest.mark.parametrize("status", [400, 401, 403, 404, 422])
def test_failures_that_do_not_pass(
    mock: LLMockServer, before_mock: Gate, client: str, provider: str, status: int
) -> None:
    """Asked once."""
    mock.state.scenarios.add(Fail(status, times=None))
    with pytest.raises((openai.APIStatusError, anthropic.APIStatusError)):
        say(before_mock, client, provider, False)
    verdict = judged(mock)
    assert verdict.attempts == 1
    verdict.assert_ok(strict=True)


@pairs
@streamed
def test_an_outage(mock: LLMockServer, before_mock: Gate, client: str, provider: str, stream: bool) -> None:
    """Given up after the route's attempts."""
    mock.state.scenarios.add(Fail(503, retry_after=0.05, times=None))
    with pytest.raises((openai.APIStatusError, anthropic.APIStatusError)):
        say(before_mock, client, provider, stream)
    verdict = judged(mock)
    assert verdict.attempts == 3
    verdict.assert_ok()


@pairs
@pytest.mark.parametrize("kind", ["disconnect", "truncate", "stall", "malformed"])
def test_streams_that_break_before_a_word(
    mock: LLMockServer, before_mock: Gate, client: str, provider: str, kind: Any
) -> None:
    """Asked again, unseen by the client."""
    mock.state.scenarios.add(StreamFault(kind, after_chunks=0))
    assert say(before_mock, client, provider, True, "brisk" if kind == "stall" else "to")
    verdict = judged(mock)
    assert verdict.attempts == 2
    verdict.assert_ok(
        strict=kind != "malformed"
    )  # it has often sent the rest before we are gone, and warns of that


@pairs
@pytest.mark.parametrize("kind", ["disconnect", "truncate", "stall", "malformed"])
def test_streams_that_break_in_the_middle(
    mock: LLMockServer, before_mock: Gate, client: str, provider: str, kind: Any
) -> None:
    """An application sees an error of its SDK and can ask again, whatever the kind; the SDK alone would have raised nothing."""
    mock.state.scenarios.add(StreamFault(kind, after_chunks=4))
    with pytest.raises((openai.APIError, anthropic.APIError)):
        say(before_mock, client, provider, True, "brisk" if kind == "stall" else "to")
    assert say(before_mock, client, provider, True)
    verdict = judged(mock)
    assert verdict.attempts == 2
    verdict.assert_ok(
        strict=kind != "malformed"
    )  # it has often sent the rest before we are gone, and warns of that


def test_its_own_ports_are_closed(tmp_path: Path) -> None:
    """A provider that is not there at all."""
    with LLMockServer() as server:
        base = server.base_url("openai")
    text = f"""
[providers.openai]
dialect = "openai-chat"
base_url = "{base}"
[keys.one]
value = "{KEY}"
[routes.to-openai]
cascade = ["openai/gpt-4o"]
"""
    with (
        FakeProvider() as unused,
        gated(unused, tmp_path, text) as gate,
        pytest.raises(openai.InternalServerError),
    ):
        say(gate, "openai", "openai", False)
