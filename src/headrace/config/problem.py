"""The mistakes of a configuration, each with its line, the value and the fix; secrets are masked."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from headrace.lines import KeyPath, key_lines


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake. `line` counts from 1 and is 0 for what does not stand in the file; `value` is masked where secret."""

    line: int
    key: str
    value: str
    message: str
    fix: str

    def __str__(self) -> str:
        where = f"line {self.line}: " if self.line else ""
        value = f" = {self.value}" if self.value else ""
        fix = f" {self.fix}" if self.fix else ""
        return (
            f"{where}{self.key}{value}: {self.message}.{fix}" if self.key else f"{where}{self.message}.{fix}"
        )


def report(problems: Sequence[Problem], source: Path | None) -> str:
    """All of `problems` as text, one a line."""
    what = "the environment" if source is None else str(source)
    count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
    return "\n".join([f"{what} is not usable ({count}):", *(f"  {problem}" for problem in problems)])


SECRET_KEYS = frozenset({"value", "api_key", "admin_key"})


_CREDENTIAL = re.compile(r"(sk|gsk|xai|pplx|csk|fw|hf|hr|AIza|Bearer)[-_ ]?[\w-]{6,}|\S*://[^/\s]*@")
"""What a credential in the wrong place looks like: the prefixes that providers give their keys, a password in a URL."""


_VARIABLE = re.compile(r"\$\$|\$\{([^}]*)\}")


_VARIABLE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class Report:
    """The mistakes found so far, and what is needed to describe one: where each key stands, and the environment."""

    def __init__(self, text: str, environ: Mapping[str, str]) -> None:
        self.lines = key_lines(text)
        self.environ = environ
        self.problems: list[Problem] = []

    def add(self, path: KeyPath, message: str, fix: str = "", *, value: object = None) -> None:
        """Note that what stands at `path` is wrong; `value` is as written in the file."""
        shown = "" if value is None else _shown(path, value)
        self.problems.append(Problem(self._line(path), _spelled(path), shown, message, fix))

    def _line(self, path: KeyPath) -> int:
        for length in range(len(path), 0, -1):
            if path[:length] in self.lines:
                return self.lines[path[:length]]
        return 0

    def variable(self, *names: str) -> tuple[str, str] | None:
        """The first of the variables that is set to something, and its value without the space around it."""
        for name in names:
            if value := self.environ.get(name, "").strip():
                return name, value
        return None

    def substitute(self, path: KeyPath, text: str) -> str | None:
        """`text` with each `${NAME}` replaced by the variable (`$$` is a dollar sign); None after noting a mistake."""
        failed = False

        def put(match: re.Match[str]) -> str:
            nonlocal failed
            name = match[1]
            if name is None:
                return "$"
            if _VARIABLE_NAME.fullmatch(name) is None:
                self.add(
                    path, "not a variable's name between ${ and }", "Write ${NAME}, or $$ for a dollar sign."
                )
            elif name in self.environ:
                return self.environ[name].strip()
            else:
                self.add(path, f"the environment variable {name} is not set", f"Set it: export {name}=...")
            failed = True
            return ""

        result = _VARIABLE.sub(put, text)
        return None if failed else result


def _spelled(path: KeyPath) -> str:
    """`routes.smart.cascade[1].target`."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            bare = re.fullmatch(r"[A-Za-z0-9_-]+", part)
            text += ("." if text else "") + (part if bare else quoted(part))
    return text


def quoted(text: str) -> str:
    clean = "".join(c if c.isprintable() else "�" for c in text)
    return f'"{clean[:120]}…"' if len(clean) > 120 else f'"{clean}"'


def _shown(path: KeyPath, value: object) -> str:
    """`value` as a report shows it."""
    if isinstance(value, str) and re.fullmatch(r"\$\{[A-Za-z0-9_]*\}", value):
        return quoted(value)
    if (path[-1:] and path[-1] in SECRET_KEYS) or "headers" in path:
        return "********"
    match value:
        case str():
            return "********" if _CREDENTIAL.match(value) else quoted(value)
        case bool():
            return str(value).lower()
        case int() | float():
            return str(value)
        case _:
            return kind_of(value)


def kind_of(value: object) -> str:
    match value:
        case str():
            return "a string"
        case bool():
            return "a boolean"
        case int() | float():
            return "a number"
        case list():
            return "an array"
        case dict():
            return "a table"
        case _:
            return "a date"


def guess(word: str, known: Sequence[str]) -> str:
    """`Did you mean "x"?`, or nothing."""
    begun = [name for name in known if len(word) > 2 and name.startswith(word)]
    near = begun or difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f'Did you mean "{near[0]}"?' if near else ""


def closest(word: str, known: Sequence[str]) -> str:
    """`Did you mean "x"?`, or what there is to choose from."""
    return guess(word, known) or (f"Known: {', '.join(known)}." if known else "")
