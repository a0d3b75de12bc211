"""Structured output of the embedded model, with its real weights: llama.cpp's grammar makes every answer valid."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import pytest

import headrace

pytestmark = pytest.mark.model


@dataclasses.dataclass
class Label:
    sentiment: Literal["pos", "neg", "neutral"]
    sure: bool


@dataclasses.dataclass
class Town:
    name: Annotated[str, msgspec.Meta(max_length=20)]
    founded: Annotated[int, msgspec.Meta(ge=0, le=2000)]


BOUNDED = {
    "type": "object",
    "properties": {"n": {"type": "integer", "minimum": 1, "maximum": 5}, "w": {"enum": ["up", "down"]}},
    "required": ["n", "w"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def settings(model_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> headrace.Settings:
    """The embedded model alone."""
    path = tmp_path_factory.mktemp("local") / "headrace.toml"
    path.write_text(f'[local]\ncache_dir = "{model_cache}"\n[routes.small]\ncascade = ["local/default"]\n')
    return headrace.load(path, environ={})


def test_a_weak_model_gives_valid_values(settings: headrace.Settings) -> None:
    """Structs, lists, choices and bounded schemas: one request each, nothing repaired."""
    pair = Annotated[list[Literal["red", "blue"]], msgspec.Meta(max_length=2)]
    with headrace.Client(settings) as llm:
        kinds: list[Any] = [Label, pair, Literal["yes", "no"], BOUNDED]
        for kind in kinds:
            answer = llm.chat("small", "I loved it. Say what you think.", output=kind, temperature=0)
            assert [attempt.outcome for attempt in answer.attempts] == ["ok"], kind
            assert not answer.warnings, kind


def test_a_stream_grows_to_the_value(settings: headrace.Settings) -> None:
    """The partials of a constrained answer are the value's own beginnings."""
    with headrace.Client(settings) as llm, llm.stream("small", "Rome.", output=Town, temperature=0) as stream:
        partials = list(stream.partials())
    assert partials[-1] == dataclasses.asdict(stream.final.value) and len(partials) > 1
