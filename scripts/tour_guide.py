"""The tour itself; started by `./tour` inside the project's environment."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anthropic
import openai
from rich.console import Console
from rich.markup import escape
from rich.table import Table

import headrace
from headrace.testing import CutStream, ErrorEvent, FakeProvider, Overloaded, RateLimited, Refuse, Status

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / ".cache" / "headrace"
console = Console(highlight=False, width=max(120, Console().width))

QUESTION = "In one short sentence: why is the sky blue?"
CONFIG = """
# Written by the tour. The first provider is down, the second flaky, the third is a model on this machine.
[providers.down]
dialect = "openai-chat"
base_url = "http://127.0.0.1:{down}/v1"
[providers.flaky]
dialect = "anthropic"
base_url = "{flaky}"
api_key = "no-key-needed"

[routes.smart]
deadline = "120s"
cascade = [
  {{ target = "down/gpt-5", attempts = 2 }},
  {{ target = "flaky/claude-sonnet-4-5", attempts = 2 }},
  {{ target = "local/default", attempts = 1 }},
]

[prices."flaky/claude-sonnet-4-5"]
input_usd_per_mtok = "3"
output_usd_per_mtok = "15"

[local]
cache_dir = "{cache}"

[keys.tour]
value = "{key}"
[store]
path = "{store}"
"""


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--once", action="store_true")
    parser.add_argument("--port", type=int, default=4000)
    arguments = parser.parse_args()
    port = arguments.port if arguments.port and is_free(arguments.port) else free_port()
    if port != arguments.port and arguments.port:
        console.print(f"[yellow]port {arguments.port} is taken; using {port}[/]")
    pull_model()
    key = f"hr-tour-{secrets.token_hex(8)}"
    with tempfile.TemporaryDirectory(prefix="headrace-tour-") as folder, flaky_provider() as flaky:
        config = Path(folder) / "headrace.toml"
        config.write_text(
            CONFIG.format(
                down=free_port(),
                flaky=flaky.anthropic_url,
                cache=CACHE,
                key=key,
                store=Path(folder) / "headrace.db",
            )
        )
        config.chmod(0o600)
        with gateway(config, port) as base:
            tour(base, key, config)
            paste_blocks(base, key)
            if arguments.once:
                return 0
            console.print(f"\nThe gateway runs at [bold]{base}[/] (API at {base}/docs). Ctrl-C ends it.")
            with contextlib.suppress(KeyboardInterrupt):
                while True:
                    time.sleep(3600)
    return 0


# --- the parts --------------------------------------------------------------------------------------------------------


def pull_model() -> None:
    """The weights of the embedded model, once."""
    environment = {**os.environ, "XDG_CACHE_HOME": str(CACHE.parent)}
    subprocess.run([sys.executable, "-m", "headrace", "models", "pull"], check=True, env=environment)


@contextlib.contextmanager
def flaky_provider() -> Iterator[FakeProvider]:
    """A provider of ours that fails in another way each time."""
    failures = itertools.cycle(
        [
            RateLimited(retry_after=0.3),
            CutStream(after=0),
            Overloaded(),
            Status(503),
            ErrorEvent(after=0),
            Refuse(),
        ]
    )
    with FakeProvider() as provider:
        provider.default = lambda request: next(failures)
        yield provider


@contextlib.contextmanager
def gateway(config: Path, port: int) -> Iterator[str]:
    """`headrace serve` as a process of its own, until the block ends."""
    command = [sys.executable, "-m", "headrace", "serve", "--config", str(config), "--port", str(port)]
    console.print(f"[dim]$ headrace serve --config {config} --port {port}[/]")
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    base = f"http://127.0.0.1:{port}"
    started = time.monotonic()
    try:
        while not is_ready(base):
            if process.poll() is not None or time.monotonic() - started > 30:
                process.kill()
                sys.exit(f"the gateway did not start:\n{process.communicate()[0]}")
            time.sleep(0.02)
        console.print(f"[dim]up after {time.monotonic() - started:.2f} s[/]")
        yield base
    finally:
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()


def tour(base: str, key: str, config: Path) -> None:
    """Five ways to ask the same route."""
    console.print(
        "\nRoute [bold]smart[/]: down/gpt-5 (2 attempts), flaky/claude-sonnet-4-5 (2), local/default (a real model here)."
    )
    openai_client = openai.OpenAI(base_url=f"{base}/v1", api_key=key, max_retries=0, timeout=120)
    anthropic_client = anthropic.Anthropic(base_url=base, api_key=key, max_retries=0, timeout=120)

    def openai_buffered() -> str:
        answer = openai_client.chat.completions.with_raw_response.create(
            model="smart", max_tokens=60, messages=[{"role": "user", "content": QUESTION}]
        )
        show(answer.parse().choices[0].message.content or "")
        return answer.headers["x-request-id"]

    def openai_streamed() -> str:
        with openai_client.chat.completions.with_streaming_response.create(
            model="smart", max_tokens=60, messages=[{"role": "user", "content": QUESTION}], stream=True
        ) as answer:
            for chunk in answer.parse():
                if chunk.choices:
                    show(chunk.choices[0].delta.content or "")
            return answer.headers["x-request-id"]

    def anthropic_buffered() -> str:
        answer = anthropic_client.messages.with_raw_response.create(
            model="smart", max_tokens=60, messages=[{"role": "user", "content": QUESTION}]
        )
        show("".join(block.text for block in answer.parse().content if block.type == "text"))
        return answer.headers["x-request-id"]

    def anthropic_streamed() -> str:
        with anthropic_client.messages.stream(
            model="smart", max_tokens=60, messages=[{"role": "user", "content": QUESTION}]
        ) as answer:
            for text in answer.text_stream:
                show(text)
            return answer.response.headers["x-request-id"]

    asks: list[tuple[str, Callable[[], str]]] = [
        ("OpenAI SDK, buffered", openai_buffered),
        ("OpenAI SDK, streamed", openai_streamed),
        ("Anthropic SDK, buffered", anthropic_buffered),
        ("Anthropic SDK, streamed", anthropic_streamed),
    ]
    for title, ask in asks:
        console.print(f"\n[bold cyan]{title}[/]  {QUESTION}")
        started = time.monotonic()
        request_id = ask()
        console.print(f"  [dim]({time.monotonic() - started:.1f} s)[/]")
        attempts_table(report(base, key, request_id))
    console.print(f"\n[bold cyan]The library, streamed[/]  {QUESTION}")
    asyncio.run(library(config))


async def library(config: Path) -> None:
    """The same cascade without the gateway."""
    async with (
        headrace.AsyncClient(headrace.load(config)) as llm,
        llm.stream("smart", QUESTION, max_tokens=60) as answer,
    ):
        async for text in answer:
            show(text)
        console.print()
        console.print(f"  [dim]{escape(str(answer.final.route))}[/]")
        console.print(f"  [dim]tokens: {answer.final.usage}; cost: {answer.final.cost_usd} USD[/]")


def show(text: str) -> None:
    """A piece of an answer, as it comes."""
    console.print(text, end="", style="green", markup=False)


def report(base: str, key: str, request_id: str) -> dict[str, Any]:
    """What the ledger has of a request."""
    request = urllib.request.Request(
        f"{base}/v1/requests/{request_id}", headers={"authorization": f"Bearer {key}"}
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        found: dict[str, Any] = json.load(answer)
    return found


def attempts_table(found: dict[str, Any]) -> None:
    """Every attempt of a request."""
    table = Table(box=None, padding=(0, 2), header_style="dim")
    for column in ("target", "outcome", "wait", "took", "tokens in/out", "cost USD"):
        table.add_column(column, no_wrap=True)
    for row in found["attempts"]:
        tokens = row["tokens"]
        counted = "-" if tokens["input"] is None else f"{tokens['input']}/{tokens['output']}"
        said = f"{row['http'] or ''} {row['reason'] or row['outcome']}".strip()
        outcome = "[green]ok[/]" if row["outcome"] == "ok" else f"[red]{said}[/]"
        table.add_row(
            row["target"],
            outcome,
            f"{row['waited_s']:.2f} s",
            f"{row['duration_s']:.2f} s",
            counted,
            row["cost_usd"],
        )
    console.print(table)


def paste_blocks(base: str, key: str) -> None:
    """How to go on by hand."""
    blocks = {
        "curl": f"""curl {base}/v1/chat/completions -H 'authorization: Bearer {key}' -H 'content-type: application/json' \\
  -d '{{"model": "smart", "stream": true, "messages": [{{"role": "user", "content": "Hello"}}]}}'""",
        "OpenAI SDK": f"""from openai import OpenAI
client = OpenAI(base_url="{base}/v1", api_key="{key}")
print(client.chat.completions.create(model="smart", messages=[{{"role": "user", "content": "Hello"}}]).choices[0].message.content)""",
        "Anthropic SDK": f"""from anthropic import Anthropic
client = Anthropic(base_url="{base}", api_key="{key}")
print(client.messages.create(model="smart", max_tokens=100, messages=[{{"role": "user", "content": "Hello"}}]).content[0].text)""",
    }
    for title, text in blocks.items():
        console.print(f"\n[bold]{title}[/]")
        console.print(text, markup=False, soft_wrap=True)


# --- the network ------------------------------------------------------------------------------------------------------


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
    return port


def is_free(port: int) -> bool:
    """Whether the port can be listened on."""
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def is_ready(base: str) -> bool:
    """Whether the gateway serves."""
    try:
        with urllib.request.urlopen(f"{base}/health/readiness", timeout=1) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


if __name__ == "__main__":
    sys.exit(main())
