"""`docs/recordings.md`: how many recordings pass, and which lose what in the other dialect.

Written by `python -m tests.contract.register`, which replays every recording in `../shared`; prints the figures too.
"""

from __future__ import annotations

import re
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

from tests.contract.recording import Recording, committed, of_exchanges
from tests.contract.replay import SHARED, load_shared, replaying_with
from tests.contract.trial import Trial, bench

__all__ = ["DOCUMENT", "document", "figures", "listed", "try_shared"]

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "recordings.md"

DIRECTIONS = {
    "openai-chat": "OpenAI's answers for an Anthropic caller",
    "anthropic": "Anthropic's answers for an OpenAI caller",
}

WHY = {
    "arguments that are not JSON": "An Anthropic call's `input` is an object: the text is its member `_invalid_json`.",
    "audio": "Messages has no audio.",
    "citations": "Each dialect's citations point into sources that only it has.",
    "images in the answer": "Messages has no images from the model.",
    "logprobs": "Messages has no log probabilities.",
    "more than one choice": "A message is one answer; the first choice is given.",
    "thinking signature": "Encrypted reasoning of OpenAI, Gemini and Grok; Messages has Claude's only, which does arrive.",
    "tools that the provider ran": "Neither dialect has a place for a call that the other's provider has run already.",
    "which stop sequence ended it": "`finish_reason` is `stop`; which sequence it was has no member.",
}

INTRODUCTION = """# Recorded exchanges

Written by `python -m tests.contract.register`; do not edit.

{total} exchanges with {providers} providers, recorded by {sources} open-source projects, are replayed through the gateway with
the official SDKs as callers. {committed} of them are in the repository (`tests/recordings/`, with their notices) and run with
every `./check`; the others run where the data folder is beside the repository.

- **Same dialect**: the SDK's parse of the gateway's answer, event for event, equals its parse of the provider's own; the
  provider got the recorded bytes with nothing exchanged but `model` and the member that asks for usage; no header that names an
  account, no cookie and no key crossed in either direction. An error has the provider's own status if asking again cannot help
  (its body goes through), its own 4xx or else 503 once the route is spent. An error inside an answer of status 200, with nothing
  before it, becomes an error with a status.
- **Other dialect**: the same request put through the other endpoint, translated there and back. Text, thinking, tool calls,
  tokens and the reason for stopping are those of the recorded answer. What else was in it and did not arrive is listed below.

{table}
## What the other dialect lacks
"""


def try_shared(folder: Path) -> list[Trial]:
    """Every recording in `SHARED`, replayed by the server that came with them."""
    module, exchanges = load_shared()
    pairs = of_exchanges(exchanges)
    recordings = [recording for recording, _ in pairs]
    with (
        replaying_with(module, {recording.name: exchange for recording, exchange in pairs}) as provider,
        bench(provider, recordings, folder) as trying,
    ):
        return [trying.try_out(recording) for recording in recordings]


def figures(trials: Iterable[Trial]) -> str:
    """A table of n of n by API and provider."""
    rows: dict[tuple[str, str], list[Trial]] = {}
    for trial in trials:
        rows.setdefault((trial.recording.kind, trial.recording.provider), []).append(trial)
    lines = [
        "| API | provider | exchanges | streamed | errors | same dialect | other dialect | of these with a loss |",
        "|---|---|--:|--:|--:|--:|--:|--:|",
    ]
    for kind, provider in sorted(rows):
        lines.append(_row(kind, provider, rows[kind, provider]))
    every = [trial for group in rows.values() for trial in group]
    lines.append(_row("all", "", every))
    return "\n".join(lines) + "\n"


def _row(kind: str, provider: str, group: list[Trial]) -> str:
    n = len(group)
    crossed = [trial for trial in group if trial.cross is not None]
    streamed = sum(trial.recording.answered_stream for trial in group)
    errors = sum(trial.recording.status >= 400 for trial in group)
    same = f"{sum(not trial.same for trial in group)} of {n}"
    cross = f"{sum(not trial.cross for trial in crossed)} of {len(crossed)}" if crossed else "-"
    lossy = sum(bool(trial.lost) for trial in crossed)
    return f"| {kind} | {provider} | {n} | {streamed} | {errors} | {same} | {cross} | {lossy} |"


def document(trials: list[Trial]) -> str:
    """The text of `DOCUMENT`."""
    recordings = [trial.recording for trial in trials]
    here = {recording.name for recording in committed()}
    parts = [
        INTRODUCTION.format(
            total=f"{len(trials):,}",
            providers=len({recording.provider for recording in recordings}),
            sources=len({_source(recording) for recording in recordings}),
            committed=len(here),
            table=figures(trials),
        )
    ]
    losses: dict[tuple[str, str], list[str]] = {}
    for trial in trials:
        for feature in trial.lost:
            losses.setdefault((trial.recording.kind, feature), []).append(trial.recording.name)
    for kind, feature in sorted(losses):
        names = sorted(losses[kind, feature])
        parts.append(f"\n### {DIRECTIONS[kind]}: {feature}\n\n{WHY[feature]} {len(names)} recordings:\n\n")
        parts += [f"- `{name}`\n" for name in names]
    return "".join(parts)


def _source(recording: Recording) -> str:
    return recording.name.partition("/")[0]


def listed(text: str) -> set[tuple[str, str]]:
    """The losses that a document lists: feature and recording."""
    found: set[tuple[str, str]] = set()
    feature = ""
    for line in text.split("\n"):
        if match := re.fullmatch(r"### [^:]*: (.*)", line):
            feature = match[1]
        elif match := re.fullmatch(r"- `(.*)`", line):
            found.add((feature, match[1]))
    return found


def main() -> int:
    if not SHARED.is_dir():
        sys.stderr.write(f"{SHARED} is not there: without every recording the document cannot be written\n")
        return 2
    with tempfile.TemporaryDirectory() as folder:
        trials = try_shared(Path(folder))
    DOCUMENT.write_text(document(trials), encoding="utf-8")
    sys.stdout.write(figures(trials))
    wrong = [trial for trial in trials if trial.same or trial.cross]
    for trial in wrong:
        sys.stdout.write(f"{trial.recording.name}\n  same: {trial.same}\n  other: {trial.cross}\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
