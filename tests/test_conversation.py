"""A conversation that is kept: its turns outlive the client, questions go with all of them, what failed leaves nothing behind."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from tests.context.histories import histories
from tests.gateway.gate import config

from headrace import AsyncClient, AsyncConversation, Client, Conversation, load
from headrace.config import Settings
from headrace.content import user
from headrace.conversation import _read, _written
from headrace.errors import AllTargetsFailed, StoreError
from headrace.testing import Answer, FakeProvider, ServerError
from headrace.types import Details, Message, Opaque, Text, Thinking, ToolResult

ROUTE = '[routes.talk]\ncascade = ["openai/m"]\n[routes.talk.context]\nbudget = 700\n'


def settings(folder: Path, provider: FakeProvider) -> Settings:
    """A packed route over `provider`, with a store in a file."""
    path = folder / "headrace.toml"
    path.write_text(config(provider, more=ROUTE))
    return load(path, environ={})


def texts(messages: list[Message]) -> list[tuple[str, str]]:
    """Roles and what was said."""
    return [
        (message.role, "".join(b.text for b in message.content if isinstance(b, Text)))
        for message in messages
    ]


def test_turns_are_kept_and_sent_with_the_next_question(tmp_path: Path) -> None:
    """Another client goes on with it by its id; what was asked and answered before is in the request."""
    with FakeProvider() as provider:
        made = settings(tmp_path, provider)
        provider.script(Answer("Noted."), Answer("It is 7719."))
        with Client(made) as llm:
            talk = Conversation(llm, "talk", id="mine", system="Be brief.")
            assert talk.ask("The code is 7719.").text == "Noted."
        with Client(made) as llm:
            again = Conversation(llm, "talk", id="mine", system="Ignored: it has begun.")
            with again.stream("Which code?") as stream:
                assert "".join(stream) == "It is 7719."
            assert texts(again.turns()) == [
                ("system", "Be brief."),
                ("user", "The code is 7719."),
                ("assistant", "Noted."),
                ("user", "Which code?"),
                ("assistant", "It is 7719."),
            ]
            assert [m["role"] for m in provider.requests[-1].json["messages"]] == [
                "system",
                "user",
                "assistant",
                "user",
            ]
            exported = again.export("anthropic")
            assert (
                exported["system"] and [m["role"] for m in exported["messages"]] == ["user", "assistant"] * 2
            )


def test_what_failed_or_was_left_is_not_kept(tmp_path: Path) -> None:
    """A question without a whole answer is as if it had never been asked."""
    with FakeProvider() as provider, Client(settings(tmp_path, provider)) as llm:
        talk = Conversation(llm, "talk")
        provider.script(ServerError(), Answer("one two three four"))
        with pytest.raises(AllTargetsFailed):
            talk.ask("Hello?")
        with talk.stream("Hello?") as stream:
            next(iter(stream))
        with pytest.raises(RuntimeError, match="mine"), talk.stream("Hello?"):
            raise RuntimeError("mine")
        assert talk.turns() == []
        talk.ask("Hello?")
        assert len(talk.turns()) == 2


def test_a_fork_goes_its_own_way(tmp_path: Path) -> None:
    """It begins with what was said so far, and neither hears the other."""
    with FakeProvider() as provider, Client(settings(tmp_path, provider)) as llm:
        talk = Conversation(llm, "talk")
        talk.ask("One.")
        fork = talk.fork()
        fork.ask("Two.")
        talk.ask("Three.")
        assert [text for role, text in texts(fork.turns()) if role == "user"] == ["One.", "Two."]
        assert [text for role, text in texts(talk.turns()) if role == "user"] == ["One.", "Three."]
        assert len(talk.fork(1).turns()) == 1
        with pytest.raises(ValueError, match="has 4 turns, not 5"):
            talk.fork(5)


def test_old_turns_are_searched_and_summaries_expanded(tmp_path: Path) -> None:
    """What is not sent any more is found by its words, and a segment gives the turns it stands for."""
    with FakeProvider() as provider, Client(settings(tmp_path, provider)) as llm:
        talk = Conversation(llm, "talk")
        talk.ask("My locker at the gym has the code 7719, please remember.")
        for number in range(20):
            talk.ask(f"Then there is topic{number}, about which a lot could be said by all of us.")
        plan = talk.plan
        assert plan is not None and plan.period.segments
        assert talk.search("What was the code of the locker?")[0].turn in (0, 1)
        part = plan.period.segments[0]
        assert talk.expand(part.digest) == talk.turns()[part.first : part.last + 1]
        with pytest.raises(ValueError, match="no segment"):
            talk.expand("0" * 16)


def test_two_that_go_on_with_one_conversation_do_not_mix(tmp_path: Path) -> None:
    """The second is told that somebody else went on with it; nothing of its turn is kept."""

    async def main() -> None:
        async with FakeProvider() as provider, AsyncClient(settings(tmp_path, provider)) as llm:
            one, two = (AsyncConversation(llm, "talk", id="c") for _ in range(2))
            await one.turns()
            await two.turns()
            await one.ask("Mine.")
            with pytest.raises(StoreError, match="somebody else went on with it"):
                await two.ask("No, mine.")
            assert len(await AsyncConversation(llm, "talk", id="c").turns()) == 2

    asyncio.run(main())


@given(histories())
def test_turns_come_back_as_they_were(history: tuple[Message, ...]) -> None:
    """Blocks of every kind, also inside results, and members that only one dialect knows."""
    odd = Message(
        role="assistant",
        content=(
            Thinking(text="hm", signature="s"),
            Opaque(dialect="anthropic", kind="compaction", raw=msgspec.Raw(b'{"a": 1.50}')),
            ToolResult(call_id="c", content=(Text(text="x"), ToolResult(call_id="d"))),
        ),
        provider_details=Details("anthropic", {"m": msgspec.Raw(b"[1]")}),
    )
    for message in (*history, odd, user("é")):
        assert _read(_written(message)) == message
