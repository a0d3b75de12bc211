"""A prompt in a file: YAML front matter with dotprompt's names, then the template, in Jinja2.

``{{role "system"}}`` begins the system's part, ``{{role "user"}}`` the user's. Roles are found in the file and never in a value; a
value goes into the user's parts only, unless the file declares it trusted. The template runs in Jinja2's sandbox, and a name that
has no value is an error.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import msgspec

from headrace.errors import ConfigError, InvalidRequest
from headrace.output.validate import faults, refuse_unknown
from headrace.prompts.picoschema import json_schema
from headrace.prompts.prompt import Filled, front, version_of
from headrace.types import Message, Role, Text

__all__ = ["SUFFIX", "FilePrompt", "parse", "prompt"]

SUFFIX = ".prompt"

_FRONT = re.compile(r"\A---[ \t]*\r?\n(.*?)^---[ \t]*(?:\r?\n|\Z)", re.DOTALL | re.MULTILINE)
_ROLE = re.compile(r"\{\{\s*role\s*(?:\(\s*)?[\"'](\w+)[\"']\s*\)?\s*\}\}[ \t]*\n?")
_ROLES = {"system": "system", "user": "user", "model": "assistant", "assistant": "assistant"}
_NAMES = frozenset(
    {
        "name",
        "variant",
        "version",
        "model",
        "config",
        "input",
        "output",
        "description",
        "metadata",
        "examples",
        "ext",
    }
)
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class FilePrompt:
    """A prompt that was read from a file; call it with its values by name.

    Attributes:
        name, label: From `name` (or the file's name) and `version` of the front matter.
        parts: Role and template, in order.
        inputs: JSON Schema of the values, an object.
        defaults: Values that need not be given.
        trusted: Values that may stand in a system or assistant part.
        source: The file's whole text.
    """

    name: str
    label: str | None
    parts: tuple[tuple[Role, str], ...]
    inputs: Mapping[str, Any]
    defaults: Mapping[str, Any]
    trusted: frozenset[str]
    examples: tuple[tuple[str, str], ...]
    model: str | None
    config: Mapping[str, Any]
    output: Mapping[str, Any] | None
    source: str

    @property
    def version(self) -> str:
        """Name, label and the hash of everything that decides what is sent."""
        content = {
            "parts": [list(part) for part in self.parts],
            "inputs": self.inputs,
            "defaults": self.defaults,
            "trusted": sorted(self.trusted),
            "examples": [list(pair) for pair in self.examples],
            "model": self.model,
            "config": self.config,
            "output": self.output,
        }
        return version_of(self.name, content, self.label)

    def __call__(self, **values: object) -> Filled:
        """The prompt with its values. (The one place of arbitrary names: they are those of your own template.)

        Raises:
            InvalidRequest: A value is missing, is not declared, or is not of its type; or a part uses one that it may not.
        """
        return self.fill(values)

    def fill(self, values: Mapping[str, object]) -> Filled:
        """As calling it, with the values in a mapping."""
        given = {**self.defaults, **values}
        try:
            plain = msgspec.to_builtins(given, str_keys=True)
        except TypeError as error:
            raise InvalidRequest(f"a value of prompt {self.name!r} has no JSON form: {error}") from None
        if wrong := faults(plain, self.inputs):
            raise InvalidRequest(f"the values of prompt {self.name!r} do not fit: {'; '.join(wrong)}")
        for name in self.inputs.get("properties", {}):
            given.setdefault(name, None)  # optional and not given: a template may ask whether it is there
        messages = [
            Message(role=role, content=(Text(text=text),))
            for role, template in self.parts
            if (text := self._rendered(role, template, given).strip())
        ]
        at = sum(message.role == "system" for message in messages)
        turns = (*messages[:at], *front("", self.examples), *messages[at:])
        return Filled(turns, self.version, self.model, self.config, self.output)

    def _rendered(self, role: Role, template: str, values: Mapping[str, object]) -> str:
        import jinja2

        shown = values if role == "user" else {n: v for n, v in values.items() if n in self.trusted}
        try:
            return cast("str", _environment().from_string(template).render(shown))
        except jinja2.UndefinedError as error:
            hidden = [
                name
                for name in values
                if name not in shown and re.search(rf"\b{re.escape(name)}\b", template)
            ]
            why = (
                f"{hidden[0]!r} is not trusted and may not stand in a {role} part: move it, or list it under input.trusted"
                if hidden
                else str(error)
            )
            raise InvalidRequest(f"prompt {self.name!r}: {why}") from None
        except (jinja2.TemplateError, TypeError, ValueError, ArithmeticError) as error:
            raise InvalidRequest(f"prompt {self.name!r} cannot be filled: {error}") from None


def prompt(path: str | Path) -> FilePrompt:
    """The prompt in the file at `path`; needs the `prompts` extra.

    Raises:
        ConfigError: The file cannot be read, or something in it is wrong; the message names it.
    """
    path = Path(path)
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the prompt {str(path)!r} cannot be read: {error}") from None
    return parse(text, path.name.removesuffix(SUFFIX), where=str(path))


def parse(text: str, name: str, *, where: str) -> FilePrompt:
    """The prompt in `text`; `name` where its front matter gives none, `where` for messages. Raises as `prompt` does."""
    matter, body = _front_matter(text, where)
    if unknown := sorted(map(str, matter.keys() - _NAMES)):
        raise ConfigError(
            f"{where}: unknown in the front matter: {', '.join(unknown)}; there is: {', '.join(sorted(_NAMES))}"
        )
    given = matter.get("input") or {}
    wanted = matter.get("output") or {}
    try:
        inputs = json_schema(given.get("schema") or {})
        output = None if wanted.get("schema") is None else json_schema(wanted["schema"])
        refuse_unknown(inputs)
        refuse_unknown(output or {})
    except (ValueError, AttributeError) as error:
        raise ConfigError(f"{where}: {error}") from None
    called = str(matter.get("name") or name)
    if not _NAME.fullmatch(called):
        raise ConfigError(
            f"{where}: a prompt's name is a letter, then letters, digits, _, - and ., not {called!r}"
        )
    trusted = frozenset(map(str, given.get("trusted") or ()))
    if unknown := sorted(trusted - inputs.get("properties", {}).keys()):
        raise ConfigError(f"{where}: input.trusted names {', '.join(unknown)}, which input.schema has not")
    found = FilePrompt(
        name=called,
        label=None if matter.get("version") is None else str(matter["version"]),
        parts=_parts(body, where),
        inputs=inputs,
        defaults=dict(given.get("default") or {}),
        trusted=trusted,
        examples=_examples(matter.get("examples") or [], where),
        model=None if matter.get("model") is None else str(matter["model"]),
        config=dict(matter.get("config") or {}),
        output=output,
        source=text,
    )
    _judge(found, where)
    return found


def _front_matter(text: str, where: str) -> tuple[dict[str, Any], str]:
    import yaml

    front_matter = _FRONT.match(text)
    if front_matter is None:
        return {}, text
    try:
        matter = yaml.safe_load(front_matter[1]) or {}
    except yaml.YAMLError as error:
        raise ConfigError(f"{where}: the front matter is not YAML: {error}") from None
    if not isinstance(matter, dict):
        raise ConfigError(f"{where}: the front matter is a mapping, not {type(matter).__name__}")
    return matter, text[front_matter.end() :]


def _parts(body: str, where: str) -> tuple[tuple[Role, str], ...]:
    pieces = _ROLE.split(body)
    parts: list[tuple[Role, str]] = [("user", pieces[0])]
    for word, template in zip(pieces[1::2], pieces[2::2], strict=True):
        if word not in _ROLES:
            raise ConfigError(f"{where}: no role {word!r}; there is: {', '.join(_ROLES)}")
        parts.append((cast("Role", _ROLES[word]), template))
    return tuple(part for part in parts if part[1].strip())


def _examples(given: Any, where: str) -> tuple[tuple[str, str], ...]:
    wrong = ConfigError(f"{where}: examples are a list of {{user: ..., assistant: ...}}")
    if not isinstance(given, list):
        raise wrong
    pairs: list[tuple[str, str]] = []
    for example in given:
        if not (isinstance(example, dict) and example.keys() == {"user", "assistant"}):
            raise wrong
        pairs.append((str(example["user"]), str(example["assistant"])))
    return tuple(pairs)


def _judge(found: FilePrompt, where: str) -> None:
    """The templates are well formed, and no part names a value that it cannot have."""
    import jinja2
    from jinja2 import meta

    declared = found.inputs.get("properties", {}).keys()
    for role, template in found.parts:
        try:
            used = meta.find_undeclared_variables(_environment().parse(template))
        except jinja2.TemplateSyntaxError as error:
            raise ConfigError(f"{where}: the template is not Jinja2: {error}") from None
        if unknown := sorted(used - declared):
            raise ConfigError(
                f"{where}: the template uses {', '.join(unknown)}, which input.schema does not declare"
            )
        if role != "user" and (hidden := sorted(used - found.trusted)):
            raise ConfigError(
                f"{where}: the {role} part uses {', '.join(hidden)}, which is not trusted: move it to a user part, or list it "
                "under input.trusted"
            )


def _environment() -> Any:
    import jinja2
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    return ImmutableSandboxedEnvironment(
        undefined=jinja2.StrictUndefined,
        autoescape=False,
        trim_blocks=True,
        lstrip_blocks=True,
    )
