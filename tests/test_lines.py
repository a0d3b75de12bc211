"""The line of each key: on documents that carry their own line numbers as values."""

from __future__ import annotations

import json
import re
import tomllib
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from headrace.lines import KeyPath, key_lines

# Every value holds "@@", which is replaced by the number of the line it stands on: what `tomllib` then reads is, for each
# key, the line that `key_lines` must find.
MARK = "@@"
NOISE = st.text(alphabet="ab#[]{}=.,' \t", max_size=6)
BLANK = st.sampled_from(["", "\n", " \t\n\n", "# [x] = { \n", " # \"'\n  "])
SPACE = st.sampled_from(["", " ", "\t"])


@st.composite
def keys(draw: st.DrawFn) -> str:
    """A key as it may be written: bare, in double quotes, in single quotes."""
    name = draw(st.text(alphabet='abz-_. #[=é"\\', min_size=1, max_size=4))
    if re.fullmatch("[A-Za-z_-]+", name) and draw(st.booleans()):
        return name
    return f"'{name}'" if draw(st.booleans()) else json.dumps(name, ensure_ascii=draw(st.booleans()))


def plain(key: str) -> str:
    """The name that a written key stands for."""
    return next(iter(tomllib.loads(f"{key} = 1")))


def some_keys(low: int, high: int) -> st.SearchStrategy[list[str]]:
    return st.lists(keys(), min_size=low, max_size=high, unique_by=plain)


@st.composite
def values(draw: st.DrawFn, depth: int = 2) -> str:
    """A value whose first line has the mark."""
    kind = draw(st.sampled_from("nbltm" if depth == 0 else "nbltmai"))
    noise = draw(NOISE)
    match kind:
        case "n":
            return MARK
        case "b":
            return json.dumps(f'{MARK}{noise}"\\')
        case "l":
            return f"'{MARK}" + noise.replace("'", '"') + "'"
        case "t":
            return f'"""{MARK}{noise}\n[x]\n  y = "\\"{draw(st.sampled_from(["", chr(34), chr(34) * 2]))}"""'
        case "m":
            body = noise.replace("'", '"')
            return f"'''{MARK}{body}\n\"\"\" # [x]\n{draw(st.sampled_from(['', chr(39)]))}'''"
        case "a":
            items = draw(st.lists(values(depth=depth - 1), max_size=3))
            text = "".join(f"{draw(BLANK)}{item}{draw(BLANK)}," for item in items)
            return f"[{text}{draw(BLANK)}]"
        case _:
            pairs = [f"{key}{draw(SPACE)}= {draw(values(depth=depth - 1))}" for key in draw(some_keys(0, 3))]
            return f"{{{draw(SPACE)}{' , '.join(pairs)} }}"


@st.composite
def bodies(draw: st.DrawFn) -> str:
    """Some `key = value` lines, plain and dotted."""
    text = ""
    for key in draw(some_keys(0, 3)):
        inner = "".join(f"{draw(SPACE)}.{draw(SPACE)}{part}" for part in draw(some_keys(0, 2)))
        text += f"{draw(BLANK)}{key}{inner} = {draw(values())}{draw(SPACE)}\n"
    return text


@st.composite
def documents(draw: st.DrawFn) -> str:
    """A document with tables, subtables, arrays of tables and tables below them."""
    text = ""
    for name in draw(some_keys(1, 4)):
        match draw(st.sampled_from(["plain", "sub", "array", "body"])):
            case "body" if not text:
                text += f"{name} = {draw(values())}\n"
            case "sub":
                text += f"[{name}.{draw(keys())}]\n{draw(bodies())}"
            case "array":
                for _ in range(draw(st.integers(1, 3))):
                    text += f"[[ {name} ]] # ]]\n{draw(bodies())}"
                    text += f'[{name}."(below)"]\n{draw(bodies())}' if draw(st.booleans()) else ""
            case _:
                text += f"[{name}]\n{draw(bodies())}"
        text += draw(BLANK)
        if not text.endswith("\n"):
            text += "\n"
    return "\n".join(line.replace(MARK, str(n)) for n, line in enumerate(text.split("\n"), start=1))


def leaves(value: Any, path: KeyPath = ()) -> list[tuple[KeyPath, int]]:
    match value:
        case dict():
            return [leaf for name, inner in value.items() for leaf in leaves(inner, (*path, name))]
        case list():
            return [leaf for index, inner in enumerate(value) for leaf in leaves(inner, (*path, index))]
        case _:
            found = re.search("[0-9]+", str(value))
            assert found is not None
            return [(path, int(found[0]))]


@given(documents())
def test_every_leaf_is_found_on_the_line_it_names(text: str) -> None:
    """Whatever the form of keys, strings, arrays and tables, each value's line is the one written into it."""
    data = tomllib.loads(text)
    lines = key_lines(text)
    for path, line in leaves(data):
        assert lines[path] == line, (path, text)


def test_tables_stand_where_their_header_is() -> None:
    """A table that its own header opens later than a subtable does is found at its own header."""
    lines = key_lines('[a.b]\nx = 1\n[a]\ny = 2\n\n[[c]]\n[[c]]\n[c.d]\nz."w x" = 3\n')
    assert lines[("a", "b")] == 1
    assert lines[("a",)] == 3
    assert lines[("c", 0)] == 6
    assert lines[("c", 1)] == 7
    assert lines[("c", 1, "d", "z", "w x")] == 9


def test_line_ends_of_windows_count_once() -> None:
    """A carriage return before the line feed changes no number."""
    assert key_lines("a = 1\r\n# x\r\nb = [\r\n 1,\r\n 2\r\n]\r\n")[("b", 1)] == 5
