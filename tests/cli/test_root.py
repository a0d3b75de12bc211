"""How commands end: exit codes, errors, interrupts, and what a process loads. Real processes where it matters."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from headrace import __version__
from headrace.cli import root
from headrace.testing import Answer, FakeProvider

CLEAN = {"PATH": os.defpath, "PYTHONWARNINGS": "error"}


def process(
    *arguments: str, cwd: Path, stdin: str = "", environ: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "headrace", *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        cwd=cwd,
        env=CLEAN | {"HOME": str(cwd)} | (environ or {}),
        timeout=60,
        check=False,
    )


def test_version(folder: Path) -> None:
    """The package's own, from a real process."""
    ran = process("--version", cwd=folder)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, f"headrace {__version__}\n", "")


def test_a_wrong_number_is_told_in_words(headrace: Any) -> None:
    """The option, the value, and what it is not."""
    assert "'--rpm': 'x' is not a whole number" in headrace("keys", "create", "--rpm", "x").err
    assert "'--rate': 'x' is not a number" in headrace("simulate", "--rate", "x").err


def test_help_lists_verbs_and_exit_codes(headrace: Any) -> None:
    """Every verb has a line; every code that `run` returns is explained."""
    ran = headrace("--help")
    assert ran.code == 0
    for verb in root.headrace.commands:
        assert re.search(rf"^  {verb}  +\S", ran.out, re.MULTILINE), verb
    for code in (root.OK, root.FAILED, root.USAGE, root.MISSING, root.INTERRUPTED):
        assert re.search(rf"^ +{code} +\S", ran.out, re.MULTILINE), code


def test_every_verb_takes_json_and_tells_its_exit_codes() -> None:
    """Also those below `models`."""
    verbs = [*root.headrace.commands.values()]
    verbs += [verb for group in verbs for verb in getattr(group, "commands", {}).values()]
    assert len(verbs) >= 9
    for verb in verbs:
        assert any("--json" in parameter.opts for parameter in verb.params), verb.name
        assert verb.name == "stack" or "Exit codes:" in (verb.help or ""), verb.name


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["bogus"], "bogus"),
        (["check", "--jsn"], "--jsn"),
        (["serve", "--port", "70000"], "--port"),
        (["models", "pull", "a", "b"], "b"),
        (["ask", "-m"], "-m"),
    ],
)
def test_wrong_usage_is_one_line(headrace: Any, arguments: list[str], said: str) -> None:
    """Exit code 2; the line names what was wrong and where help is."""
    ran = headrace(*arguments)
    assert (ran.code, ran.out) == (2, "")
    (line,) = ran.err.splitlines()
    assert line.startswith("error: ")
    assert said in line
    assert "--help" in line


def test_every_verb_and_option_is_documented() -> None:
    """`docs/cli.md` has a section for each verb and names each of its options."""
    text = (Path(__file__).parents[2] / "docs" / "cli.md").read_text("utf-8")
    for name, verb in root.headrace.commands.items():
        assert f"\n## {name}\n" in text or f"`{name}`" in text, name
        verbs = [verb, *getattr(verb, "commands", {}).values()]
        for option in {option for each in verbs for parameter in each.params for option in parameter.opts}:
            assert not option.startswith("-") or f"`{option}" in text, (name, option)
    for code in (root.OK, root.FAILED, root.USAGE, root.MISSING, root.INTERRUPTED, root.PIPE):
        assert f"\n| {code} |" in text, code


def test_wrong_usage_as_json(headrace: Any) -> None:
    """Even when the options cannot be parsed."""
    ran = headrace("check", "--json", "--bogus")
    assert (ran.code, ran.err) == (2, "")
    assert ran.json["error"]["kind"] == "usage"


def test_no_verb_prints_the_help(headrace: Any) -> None:
    """With exit code 2, since nothing was done."""
    ran = headrace()
    assert ran.code == 2
    assert "Usage: headrace" in ran.out


def test_a_missing_extra_is_named(headrace: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit code 3 with the command that installs it."""
    monkeypatch.setitem(sys.modules, "rich", None)
    for name in [name for name in sys.modules if name.startswith("rich.")]:
        monkeypatch.delitem(sys.modules, name)
    ran = headrace("stack")
    assert (ran.code, ran.out) == (3, "")
    assert "pip install 'headrace[cli]'" in ran.err


def test_without_click_the_extra_is_named(folder: Path) -> None:
    """Before anything else is imported."""
    code = "import sys; sys.modules['click'] = None; import headrace.cli; headrace.cli.main()"
    ran = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=folder,
        env=CLEAN,
        timeout=60,
        check=False,
    )
    assert ran.returncode == 3
    assert ran.stderr == "error: the command line needs the cli extra: pip install 'headrace[cli]'\n"


def test_errors_are_red_unless_no_color_says_so(
    headrace: Any, environ: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Colour is for terminals; `NO_COLOR` turns it off there too."""
    import click

    monkeypatch.setattr(click.utils, "should_strip_ansi", lambda *_: False)
    assert headrace("bogus").err.startswith("\x1b[31merror: ")
    environ["NO_COLOR"] = "1"
    assert headrace("bogus").err.startswith("error: ")


def test_the_verbs_that_do_not_draw_do_not_load_rich(folder: Path) -> None:
    """`serve` must start quickly and stay small: importing all verbs loads neither Rich nor the engine's clients."""
    code = (
        "import sys, headrace.cli.root, headrace.cli.server\n"
        "loaded = {name.partition('.')[0] for name in sys.modules}\n"
        "assert not loaded & {'rich', 'numpy', 'xllamacpp', 'openai', 'anthropic'}, loaded\n"
        "import headrace.gateway.serve\n"
        "loaded = {name.partition('.')[0] for name in sys.modules}\n"
        "assert not loaded & {'rich', 'numpy', 'xllamacpp', 'openai', 'anthropic'}, loaded\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=folder, env=CLEAN, timeout=60)


def test_a_reader_that_leaves_is_no_error(folder: Path) -> None:
    """As with `| head -1`: no traceback, and the exit code that shells know."""
    script = f"{sys.executable} -m headrace models --provider openrouter --json; echo code $? >&2"
    ran = subprocess.Popen(
        ["sh", "-c", script],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=folder,
        env=CLEAN | {"HOME": str(folder)},
    )
    assert ran.stdout is not None and ran.stderr is not None
    ran.stdout.read(10)
    ran.stdout.close()
    assert ran.stderr.read() == b"code 141\n"
    ran.stderr.close()
    ran.wait(60)


def test_a_real_process_asks_a_real_provider(
    folder: Path, write: Callable[[str], Path], provider: FakeProvider
) -> None:
    """From the file through sockets to standard output, with no warning on the way."""
    write(f'[providers.fake]\ndialect = "anthropic"\nbase_url = "{provider.anthropic_url}"\n')
    provider.script(Answer("Héllo wörld"))
    ran = process("ask", "-m", "fake/x", "-q", "--max-tokens", "50", "hi", cwd=folder)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "Héllo wörld\n", "")


def test_an_interrupt_ends_quietly(
    folder: Path, write: Callable[[str], Path], provider: FakeProvider
) -> None:
    """Ctrl-C while the provider thinks: exit code 130, no traceback, and the provider is left at once."""
    write(f'[providers.fake]\ndialect = "openai-chat"\nbase_url = "{provider.base_url}"\n')
    provider.script(Answer("late", first_delay_s=30))
    ran = subprocess.Popen(
        [sys.executable, "-m", "headrace", "ask", "-m", "fake/x", "hi"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=folder,
        env=CLEAN | {"HOME": str(folder)},
    )
    deadline = time.monotonic() + 30  # noqa: TID251
    while not provider.requests and time.monotonic() < deadline:  # noqa: TID251
        time.sleep(0.01)
    ran.send_signal(signal.SIGINT)
    out, err = ran.communicate(timeout=20)
    assert (ran.returncode, out) == (130, b"")
    assert b"Traceback" not in err
