"""The child process of the local model: ``python -m headrace.local.server --model PATH``.

It runs llama.cpp's own HTTP server (of the `xllamacpp` wheel) on 127.0.0.1 and is made to be run by `LocalModel`:

- The first line of its standard input is the API key that it will ask for; neither `ps` nor the environment shows it.
- It prints one JSON line, ``{"port": N}`` once it serves or ``{"error": "why"}`` before it exits with status 1. All else
  that llama.cpp would print is silenced.
- It exits when its standard input closes, so it never outlives its parent, not even one that was killed with SIGKILL.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

__all__ = ["main"]

NICENESS = 5
"""Below the gateway that feeds it: forwarding a byte is urgent, the next token is not."""

QUIET = 0
"""llama.cpp's verbosity at which not even errors are logged; its default is 3."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until standard input closes; the exit status is 0, or 1 when the model could not be loaded."""
    parser = argparse.ArgumentParser(prog="headrace.local.server", description="Serve one GGUF model.")
    parser.add_argument("--model", type=Path, required=True, help="the GGUF file")
    parser.add_argument("--alias", help="what the answers call the model; default: the file's name")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--context", type=int, default=2048, help="tokens that one request may fill")
    parser.add_argument("--parallel", type=int, default=2, help="requests answered at a time; more wait")
    options = parser.parse_args(arguments)

    os.nice(NICENESS)
    report = _silence()
    key = sys.stdin.buffer.readline().strip().decode()
    if not key:
        return _say(report, {"error": "no API key on standard input"}, 1)
    try:
        import xllamacpp  # late: the key is read and all is silent first
    except ImportError as error:
        return _say(report, {"error": f"llama.cpp cannot be loaded: {error}"}, 1)

    params = xllamacpp.CommonParams()
    params.model.path = str(options.model)
    params.model_alias = {options.alias or options.model.stem}
    params.hostnames = ["127.0.0.1"]
    params.port = options.port
    params.api_keys = [key]
    params.n_parallel = options.parallel
    params.n_ctx = options.context * options.parallel  # llama.cpp divides it among the slots
    params.cpuparams.n_threads = options.threads
    params.cpuparams_batch.n_threads = options.threads
    params.cache_ram_mib = (
        0  # evicted prompts would be kept in up to 8 GiB; the slots' own prefix cache stays
    )
    params.cors_origins = ""
    params.ui = False
    params.endpoint_slots = False
    params.verbosity = QUIET

    # Before the load: a parent that dies meanwhile must not leave us behind.
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    try:
        server = xllamacpp.Server(params)
    except RuntimeError:
        why = f"llama.cpp could not load {options.model}: is it a whole GGUF chat model, and is there memory for it?"
        return _say(report, {"error": why}, 1)
    # llama.cpp took the signals to stop its own loop only, which would leave a process that serves nothing.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to judge
    _say(report, {"port": urlsplit(server.listening_address).port}, 0)
    threading.Event().wait()
    return 0


def _silence() -> int:
    """Point standard output and error at nothing; the descriptor where standard output was."""
    report = os.dup(1)
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 1)
    os.dup2(nothing, 2)
    os.close(nothing)
    return report


def _say(report: int, line: dict[str, object], status: int) -> int:
    os.write(report, json.dumps(line).encode() + b"\n")
    return status


def _exit_with_parent() -> None:
    while sys.stdin.buffer.read(65_536):
        pass
    os._exit(0)  # no teardown: threads of llama.cpp may be in the middle of a token


if __name__ == "__main__":
    sys.exit(main())
