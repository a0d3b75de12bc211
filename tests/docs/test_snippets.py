"""Every Python block of the documentation runs.

In `README.md` and `docs/**/*.md`, blocks fenced as `python` are executed page by page, in order, in one namespace, as a reader
who pastes one after the other would. Blocks fenced as `python no-run` are only compiled: they show a shape, or need a key.
Other words after `python` are a mistake.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FENCE = re.compile(r"^(?P<indent> *)(?P<ticks>`{3,})(?P<info>[^`\n]*)$")


@dataclass(frozen=True)
class Block:
    """A fenced block: its code, the words after the ticks, and the line of its first code line, from 1."""

    code: str
    info: tuple[str, ...]
    line: int


def blocks(text: str) -> Iterator[Block]:
    """The fenced blocks of a page of Markdown, their indentation removed."""
    lines = iter(enumerate(text.splitlines(), 1))
    for number, line in lines:
        opening = FENCE.match(line)
        if opening is None:
            continue
        code: list[str] = []
        for _, inner in lines:
            closing = FENCE.match(inner)
            if closing and not closing["info"].strip() and len(closing["ticks"]) >= len(opening["ticks"]):
                break
            code.append(inner.removeprefix(opening["indent"]))
        else:
            raise ValueError(f"line {number}: the block is never closed")
        yield Block("\n".join(code) + "\n", tuple(opening["info"].split()), number + 1)


def run_page(path: Path) -> int:
    """Run a page's blocks; how many were run or compiled. Raises what a block raises, with the page's own line numbers."""
    namespace: dict[str, object] = {"__name__": "__main__"}
    count = 0
    for block in blocks(path.read_text("utf-8")):
        if block.info[:1] != ("python",):
            continue
        if block.info not in (("python",), ("python", "no-run")):
            raise ValueError(
                f"{path}:{block.line - 1}: unknown words after python: {' '.join(block.info[1:])}"
            )
        # Blank lines in front make tracebacks name the line of the page.
        code = compile("\n" * (block.line - 1) + block.code, str(path), "exec", dont_inherit=True)
        if "no-run" not in block.info:
            exec(code, namespace)  # the documentation is ours
        count += 1
    return count


def pages() -> list[Path]:
    """Every page of the documentation."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_the_page_runs(page: Path) -> None:
    """What the page shows works when it is pasted."""
    run_page(page)


def test_the_testing_page_has_blocks() -> None:
    """The mechanism finds blocks where there are some."""
    assert run_page(ROOT / "docs" / "testing.md") >= 5


PAGE = """# Page

```python
x = 1
```

```sh
exit 1
```

- in a list:

  ```python
  x += 1
  ```

```python no-run
raise SystemExit
```

````text
```python
1 / 0
```
````

```python
assert x == {expected}
```
"""


def test_blocks_share_a_page_and_only_python_runs(tmp_path: Path) -> None:
    """Blocks share a namespace; no-run, other languages and quoted fences are not executed."""
    page = tmp_path / "page.md"
    page.write_text(PAGE.replace("{expected}", "2"))
    assert run_page(page) == 4


def test_a_wrong_block_fails_at_its_line(tmp_path: Path) -> None:
    """A failing block fails the test, and its traceback names the line of the page."""
    page = tmp_path / "page.md"
    page.write_text(PAGE.replace("{expected}", "3"))
    with pytest.raises(AssertionError) as info:
        run_page(page)
    assert info.traceback[-1].lineno == PAGE.splitlines().index("assert x == {expected}")


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("```python no-run\nx = = 1\n```\n", SyntaxError),
        ("```python norun\nx = 1\n```\n", ValueError),
        ("```python\nx = 1\n", ValueError),
    ],
)
def test_mistakes_are_told(tmp_path: Path, text: str, error: type[Exception]) -> None:
    """What is only compiled must compile, a misspelt word is an error, and so is a fence that never closes."""
    page = tmp_path / "page.md"
    page.write_text(text)
    with pytest.raises(error):
        run_page(page)
