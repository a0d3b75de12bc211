"""The cookbook: every recipe is a file that runs, and its page shows that very file."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from tests.docs.test_snippets import ROOT, blocks

EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
PAGES = ROOT / "docs" / "cookbook"


def test_there_are_fifteen_and_the_index_has_them() -> None:
    """No recipe without a page, no page without a recipe, and all of them are listed."""
    assert len(EXAMPLES) >= 15
    names = {path.stem for path in EXAMPLES}
    assert names == {path.stem for path in PAGES.glob("*.md")} - {"README"}
    index = (PAGES / "README.md").read_text("utf-8")
    assert all(f"({name}.md)" in index for name in names)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_the_page_shows_the_file(path: Path) -> None:
    """The pages are run with the other documentation; what they show is the file, to the letter."""
    page = PAGES / f"{path.stem}.md"
    shown = [block.code for block in blocks(page.read_text("utf-8")) if block.info == ("python",)]
    assert shown == [path.read_text("utf-8")]


@pytest.mark.parametrize("name", ["nightly_extraction", "ci_without_keys"])
def test_it_runs_as_a_file(name: str, tmp_path: Path) -> None:
    """From anywhere, without keys, with warnings as errors."""
    command = [sys.executable, "-W", "error", str(ROOT / "examples" / f"{name}.py")]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60)
    assert ran.returncode == 0, ran.stderr
