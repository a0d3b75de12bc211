#!/usr/bin/env python3
"""Choose the recordings that the repository carries, and write them with their notices to `tests/recordings/`.

Takes the smallest exchange for everything that makes exchanges differ: provider, dialect, streamed or not, status, and what is in
the request and in the answer. Only from sources whose licence is MIT or Apache-2.0; nothing that looks like a key, an address of a
person or an organisation's id; the values of headers that name an account or a request are taken out.

    python scripts/select_recordings.py ../shared/data/providers
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.contract.recording import COMMITTED, Recording, of_exchanges  # noqa: E402
from tests.contract.replay import load_shared  # noqa: E402

LARGEST = 24_000
"""Bytes of request and answer; features that come only in larger exchanges are left to the whole collection."""

KEPT = ("content-type", "retry-after", "retry-after-ms", "x-should-retry")
TAKEN_OUT = (
    "anthropic-organization-id",
    "cf-ray",
    "openai-organization",
    "openai-project",
    "request-id",
    "set-cookie",
    "x-request-id",
)
"""Kept by name, so that the tests see that they do not cross the gateway; their values are of no use to anyone."""

PRIVATE = re.compile(
    rb"org[-_][A-Za-z0-9]{8,}|proj_\w{8,}|\bsk-|\bgsk_|\beyJ[\w-]{20}|user[-_][A-Za-z0-9]{16,}|[\w.]+@[\w-]+\.\w+|api[ _]key",
    re.IGNORECASE,
)

MARKS: dict[str, bytes] = {
    "tools": rb'"tools":\s*\[\s*{',
    "tool choice": rb'"tool_choice"',
    "tool results": rb'"role":\s*"tool"|"type":\s*"tool_result"',
    "image": rb'"type":\s*"image(_url)?"',
    "document": rb'"type":\s*"(document|file)"',
    "audio": rb'"input_audio"|"modalities"',
    "schema": rb'"json_schema"|"output_format"|"json_object"',
    "cache": rb'"cache_control"',
    "stop": rb'"stop(_sequences)?":',
    "seed": rb'"seed"',
    "usage asked": rb'"include_usage"',
    "reasoning": rb'"reasoning_effort"|"reasoning"|"thinking"',
    "limits": rb'"max_completion_tokens"',
    "system list": rb'"system":\s*\[',
    "n": rb'"n":\s*[2-9]',
    "logprobs": rb'"logprobs":\s*true',
    "calls": rb'"tool_calls":\s*\[\s*{|"tool_use"',
    "thinking": rb'"reasoning_content":\s*"\w|"reasoning":\s*"\w|thinking_delta|"type":\s*"thinking"',
    "signature": rb'"signature":\s*"[^"]{4}|signature_delta',
    "redacted": rb'"redacted_thinking"',
    "refusal": rb'"refusal":\s*"\w|"stop_reason":\s*"refusal"',
    "citations": rb'"annotations":\s*\[\s*{|citations_delta|"citations":\s*\[\s*[{"]',
    "server tools": rb'"server_tool_use",',
    "cached": rb'"cached_tokens":\s*[1-9]|"cache_read_input_tokens":\s*[1-9]',
    "length": rb'"finish_reason":\s*"length"|"stop_reason":\s*"max_tokens"',
    "stopped": rb'"stop_reason":\s*"stop_sequence"',
    "paused": rb'"pause_turn"',
    "filter": rb"content_filter",
    "error inside": rb'\A\s*{\s*"error"|\ndata: {"error"|event: error',
    "not ascii": rb"[\x80-\xff]",
    "crlf": rb"\r\n\r\n",
}


NOTICE = """# Whose recordings these are

`exchanges.jsonl` holds exchanges with LLM providers that the projects below recorded and published with their tests. Changed by us:
stored in one file; of the answers' headers only a few are kept, and the values of those that name an account, a request or a
session are replaced by `taken-out`. Bodies are as they were. `name` says which file of which project an exchange comes from.
Written by `scripts/select_recordings.py`.

Apache-2.0 is the text in `LICENSE` at the root of this repository.
"""


def main() -> None:
    folder = Path(sys.argv[1])
    licences = {
        source.name: _licence(source) for source in folder.iterdir() if (source / "SOURCE.txt").is_file()
    }
    _, exchanges = load_shared()
    found = [recording for recording, _ in of_exchanges(exchanges)]
    fit = [r for r in found if licences[_source(r)] is not None and _size(r) <= LARGEST and not _private(r)]
    chosen: list[Recording] = []
    seen: set[tuple[Any, ...]] = set()
    for recording in sorted(fit, key=_size):
        new = _marks(recording) - seen
        if new:
            chosen.append(recording)
            seen |= new
    chosen.sort(key=lambda recording: recording.name)
    COMMITTED.write_text("".join(_scrubbed(r).line() + "\n" for r in chosen), encoding="utf-8")
    (COMMITTED.parent / "NOTICE.md").write_text(_notice(folder, chosen), encoding="utf-8")
    print(f"{len(chosen)} of {len(found)} recordings, {COMMITTED.stat().st_size:,} bytes")


def _source(recording: Recording) -> str:
    return recording.name.partition("/")[0]


def _size(recording: Recording) -> int:
    return len(recording.request) + len(recording.body)


def _private(recording: Recording) -> bool:
    return PRIVATE.search(recording.request + recording.body) is not None


def _marks(recording: Recording) -> set[tuple[Any, ...]]:
    """What a recording shows; a choice has all marks that the collection has."""
    where = (recording.kind, recording.stream)
    marks: set[tuple[Any, ...]] = {
        (*where, "provider", recording.provider, recording.status >= 400),
        (*where, "status", recording.status),
    }
    whole = recording.request + recording.body
    marks |= {(*where, name) for name, pattern in MARKS.items() if re.search(pattern, whole)}
    return marks


def _scrubbed(recording: Recording) -> Recording:
    headers: list[tuple[str, str]] = []
    for name, value in recording.headers:
        lower = name.lower()
        if lower in KEPT:
            headers.append((name, value))
        elif lower in TAKEN_OUT:
            headers.append((name, "taken-out"))
    return Recording(**{**_members(recording), "headers": tuple(headers)})


def _members(recording: Recording) -> dict[str, Any]:
    return {name: getattr(recording, name) for name in recording.__slots__}


def _licence(source: Path) -> str | None:
    match = re.search(r"^Licence: (MIT|Apache-2\.0)\b", (source / "SOURCE.txt").read_text(), re.MULTILINE)
    return match[1] if match else None


def _notice(folder: Path, chosen: list[Recording]) -> str:
    out = [NOTICE]
    for source in sorted({_source(recording) for recording in chosen}):
        about = (folder / source / "SOURCE.txt").read_text()
        origin = re.search(r"^Source: (.*)$", about, re.MULTILINE)
        licence = re.search(r"^Licence: (.*?) \(text", about, re.MULTILINE)
        assert origin is not None and licence is not None, source
        count = sum(_source(recording) == source for recording in chosen)
        out.append(
            f"\n## {source.replace('+', '/', 1)}\n\n{origin[1]}\n\nLicence: {licence[1]}. Exchanges: {count}.\n"
        )
        for path in sorted((folder / source).glob("UPSTREAM-*")):
            text = path.read_text().strip()
            if len(text) > 5_000:  # the whole Apache License, which may end in a line of its own
                own = re.findall(r"^ *(Copyright (?:\(c\) )?\d{4}.*)$", text, re.MULTILINE)
                text = "\n".join(own)
            if text:
                out.append(f"\n```text\n{text}\n```\n")
    return "".join(out)


if __name__ == "__main__":
    main()
