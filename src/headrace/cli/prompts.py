"""`prompts`: the prompt files of a folder: what there is, what they become, how two differ, and whether their cases hold."""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from headrace import config
from headrace.cli import options
from headrace.cli.console import Console, printable
from headrace.errors import ConfigError, HeadraceError
from headrace.types import Text

if TYPE_CHECKING:
    from headrace.prompts import FilePrompt, Filled

__all__ = ["prompts"]

CASES = ".cases.yaml"
"""The cases of `label.prompt` stand in `label.cases.yaml` beside it."""

_JUDGES = ("equals", "contains", "matches")


@click.group(invoke_without_command=True, short_help="List, show, compare and test prompt files.")
@options.as_json
@click.pass_context
def prompts(context: click.Context, as_json: bool) -> None:
    """List the prompt files (`*.prompt`) from here down; below are the other things that can be done with them.

    Needs the prompts extra.

    Exit codes: 0 listed, 2 one of them is wrong.
    """
    if context.invoked_subcommand is None:
        _list(Console(as_json=as_json), Path())


_folder = click.argument("folder", type=click.Path(path_type=Path, exists=True), default=Path())
_file = click.Path(path_type=Path, dir_okay=False)


@prompts.command("list", short_help="Name, version, model and inputs of each.")
@_folder
@options.as_json
def list_(folder: Path, as_json: bool) -> None:
    """List the prompt files at or below FOLDER (default: here).

    Exit codes: 0 listed, 2 one of them is wrong.
    """
    _list(Console(as_json=as_json), folder)


def _list(console: Console, folder: Path) -> None:
    found = [(path, _read(path)) for path in _paths(folder)]
    if console.as_json:
        console.json(
            [
                {
                    "path": str(path),
                    "name": prompt.name,
                    "version": prompt.version,
                    "model": prompt.model,
                    "inputs": sorted(prompt.inputs.get("properties", {})),
                }
                for path, prompt in found
            ]
        )
        return
    if not found:
        console.note(f"there are no prompt files (*.prompt) in {folder}")
    rows = [
        [
            prompt.version,
            prompt.model or "",
            ", ".join(sorted(prompt.inputs.get("properties", {}))),
            str(path),
        ]
        for path, prompt in found
    ]
    console.table(["version", "model", "inputs", "file"], rows)


@prompts.command(short_help="What is sent, with values put in.")
@click.argument("file", type=_file)
@click.option(
    "--set", "values", multiple=True, metavar="NAME=VALUE", help="A value; JSON where it is JSON, else text."
)
@options.as_json
def show(file: Path, values: tuple[str, ...], as_json: bool) -> None:
    """Show the prompt in FILE: filled with the values of --set, or without any as it stands in the file.

    Exit codes: 0 shown, 2 the file is wrong or the values do not fit.
    """
    console = Console(as_json=as_json)
    prompt = _read(file)
    if not values:
        if as_json:
            console.json({"version": prompt.version, "source": prompt.source})
        else:
            console.line(f"# {prompt.version}")
            console.line(printable(prompt.source.rstrip()))
        return
    filled = prompt.fill(dict(_value(text) for text in values))
    if as_json:
        console.json({"version": filled.version, "model": filled.model, "messages": _turns(filled)})
        return
    console.line(f"# {filled.version}")
    for turn in _turns(filled):
        console.line(f"[{turn['role']}]")
        console.line(printable(turn["text"]))


@prompts.command(short_help="How two prompt files differ.")
@click.argument("before", type=_file)
@click.argument("after", type=_file)
@options.as_json
def diff(before: Path, after: Path, as_json: bool) -> None:
    """Compare the prompts in BEFORE and AFTER: whether what is sent differs (their versions), and where.

    Exit codes: 0 compared, 2 one of them is wrong.
    """
    console = Console(as_json=as_json)
    old, new = _read(before), _read(after)
    lines = list(
        difflib.unified_diff(
            old.source.splitlines(), new.source.splitlines(), old.version, new.version, lineterm=""
        )
    )
    same = old.version.rpartition("@")[2] == new.version.rpartition("@")[2]
    if as_json:
        console.json({"before": old.version, "after": new.version, "same": same, "diff": lines})
        return
    console.line(f"{old.version} and {new.version} {'send the same' if same else 'differ'}")
    for line in lines:
        console.line(printable(line))


@prompts.command(short_help="Ask the cases of prompt files and judge the answers.")
@_folder
@click.option("-m", "--model", help="Ask this route or model, whatever the file says.")
@options.config_file
@options.as_json
def test(folder: Path, model: str | None, path: Path | None, as_json: bool) -> None:
    """Run the cases beside the prompt files at or below FOLDER: NAME.cases.yaml beside NAME.prompt is a list of cases, each with
    `input` and one or more of `equals`, `contains`, `matches` (a regular expression).

    Exit codes: 0 all hold, 1 some do not, 2 the settings or a file are wrong.
    """
    from headrace.sync import Client

    console = Console(as_json=as_json)
    todo = [(prompt, case) for file in _paths(folder) for prompt, case in _cases(file)]
    if not todo:
        raise ConfigError(
            f"there are no cases at {str(folder)!r}: write a list to NAME{CASES} beside NAME.prompt"
        )
    results: list[dict[str, Any]] = []
    with Client(config.load(path)) as llm:
        for prompt, case in todo:
            filled = prompt.fill(case.get("input") or {})
            asked = model or filled.model or "default"
            try:
                text = llm.chat(asked, filled).text
                why = _judge(text, case)
            except HeadraceError as error:
                text, why = "", error.message
            results.append({"prompt": filled.version, "ok": not why, "why": why, "text": text})
    if as_json:
        console.json(results)
    else:
        for result in results:
            note = f": {printable(result['why'])}" if result["why"] else ""
            console.line(f"{'ok  ' if result['ok'] else 'FAIL'} {result['prompt']}{note}")
        console.line(f"{sum(r['ok'] for r in results)} of {len(results)} hold")
    if not all(result["ok"] for result in results):
        raise click.exceptions.Exit(1)


def _paths(folder: Path) -> list[Path]:
    from headrace.prompts.file import SUFFIX

    return [folder] if folder.is_file() else sorted(folder.rglob(f"*{SUFFIX}"))


def _read(path: Path) -> FilePrompt:
    from headrace.prompts import prompt

    return prompt(path)


def _cases(path: Path) -> list[tuple[FilePrompt, dict[str, Any]]]:
    import yaml

    beside = path.with_name(path.name.removesuffix(".prompt") + CASES)
    if not beside.is_file():
        return []
    try:
        cases = yaml.safe_load(beside.read_text("utf-8"))
    except yaml.YAMLError as error:
        raise ConfigError(f"{beside} is not YAML: {error}") from None
    if not isinstance(cases, list):
        raise ConfigError(f"{beside} is a list of cases")
    for case in cases:
        if not isinstance(case, dict) or not case.keys() & set(_JUDGES) or case.keys() - {"input", *_JUDGES}:
            raise ConfigError(f"{beside}: a case has input and {', '.join(_JUDGES)}, not {case!r:.80}")
    prompt = _read(path)
    return [(prompt, case) for case in cases]


def _judge(text: str, case: dict[str, Any]) -> str:
    """What is wrong with the answer; empty for nothing."""
    got = f"got {text!r:.200}"
    if "equals" in case and text.strip() != str(case["equals"]).strip():
        return f"is not {case['equals']!r}, {got}"
    if "contains" in case and str(case["contains"]) not in text:
        return f"does not contain {case['contains']!r}, {got}"
    if "matches" in case and re.search(str(case["matches"]), text) is None:
        return f"does not match {case['matches']!r}, {got}"
    return ""


def _value(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise click.BadParameter(f"{text!r} is not NAME=VALUE")
    try:
        return name, msgspec.json.decode(value)
    except msgspec.DecodeError:
        return name, value


def _turns(filled: Filled) -> list[dict[str, str]]:
    return [
        {"role": message.role, "text": "".join(b.text for b in message.content if isinstance(b, Text))}
        for message in filled.messages
    ]
