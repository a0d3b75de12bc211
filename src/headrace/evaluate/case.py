"""A question with what its answer must be; which of it needs no model is judged here. Pure but for reading the file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from headrace.errors import ConfigError, InvalidRequest
from headrace.output import Mismatch, Shape, judge, shape_of

__all__ = ["JUDGES", "Case", "read_cases"]

JUDGES = ("equals", "contains", "matches", "schema", "similar", "judge")
"""What a case may ask of its answer: all that it names must hold."""


@dataclass(frozen=True, slots=True)
class Case:
    """One case.

    Attributes:
        question: Text, or messages.
        equals, contains: Of the answer's text, without the space around it.
        matches: A regular expression that is found in it.
        schema: A JSON Schema; the answer is asked for with it.
        similar: A text; the answer's vector is near its own.
        judge: A criterion in words, that a model judges.
    """

    id: str
    question: Any
    equals: str | None = None
    contains: str | None = None
    matches: re.Pattern[str] | None = None
    schema: Shape[Any] | None = None
    similar: str | None = None
    judge: str | None = None

    def wrong(self, text: str) -> str:
        """What is wrong with an answer, as far as it can be told without a model; empty for nothing."""
        said, got = text.strip(), f"got {text.strip()!r:.120}"
        if self.equals is not None and said != self.equals.strip():
            return f"is not {self.equals!r:.80}, {got}"
        if self.contains is not None and self.contains not in said:
            return f"does not contain {self.contains!r:.80}, {got}"
        if self.matches is not None and self.matches.search(said) is None:
            return f"does not match {self.matches.pattern!r:.80}, {got}"
        if self.schema is not None:
            try:
                judge(said, self.schema)
            except Mismatch as error:
                return f"is not of the schema: {error}"
        return ""


def read_cases(path: Path) -> list[Case]:
    """The cases in a `.jsonl` file.

    Raises:
        ConfigError: It cannot be read, or a case is none; the message has the line.
    """
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the cases {str(path)!r} cannot be read: {error}") from None
    cases = [
        _case(line, f"{path}, line {number}", number) for number, line in enumerate(lines, 1) if line.strip()
    ]
    if not cases:
        raise ConfigError(f"there are no cases in {str(path)!r}")
    return cases


def _case(line: str, where: str, number: int) -> Case:
    try:
        given = msgspec.json.decode(line, type=dict[str, Any])
    except (msgspec.MsgspecError, RecursionError) as error:
        raise ConfigError(f"{where}: not a JSON object: {error}") from None
    question = given.get("prompt") or given.get("messages")
    if unknown := sorted(given.keys() - {"id", "prompt", "messages", *JUDGES}):
        raise ConfigError(
            f"{where}: unknown: {', '.join(unknown)}; there is: id, prompt, messages, {', '.join(JUDGES)}"
        )
    if not question or not given.keys() & set(JUDGES):
        raise ConfigError(f"{where}: a case has prompt or messages, and one or more of {', '.join(JUDGES)}")
    for name in ("equals", "contains", "matches", "similar", "judge"):
        if not isinstance(given.get(name, ""), str):
            raise ConfigError(f"{where}: {name} is a text, not {given[name]!r:.80}")
    try:
        matches = None if "matches" not in given else re.compile(given["matches"])
        schema = None if "schema" not in given else _shape(given["schema"])
    except (re.error, InvalidRequest) as error:
        raise ConfigError(f"{where}: {error}") from None
    return Case(
        id=str(given.get("id", number)),
        question=question,
        equals=given.get("equals"),
        contains=given.get("contains"),
        matches=matches,
        schema=schema,
        similar=given.get("similar"),
        judge=given.get("judge"),
    )


def _shape(schema: Any) -> Shape[Any]:
    if not isinstance(schema, Mapping):
        raise InvalidRequest(f"a schema is an object, not {schema!r:.80}")
    return shape_of(schema)
