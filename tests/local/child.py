"""Stands in for `headrace.local.server` in the tests: ``child.py MODE LOG`` behaves as MODE says.

It writes one JSON line to LOG when it starts: its process id and session, the key it was given, its arguments and its environment.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path


def main() -> None:
    mode, log, *arguments = sys.argv[1:]
    if mode == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    key = sys.stdin.readline().strip()
    environment = dict(os.environ)  # noqa: TID251  (what the child was given is what is tested)
    record = {
        "pid": os.getpid(),
        "session": os.getsid(0),
        "key": key,
        "arguments": arguments,
        "environment": environment,
    }
    with Path(log).open("a") as file:
        file.write(json.dumps(record) + "\n")
    match mode:
        case "serve" | "stubborn":
            print(json.dumps({"port": os.getpid()}), flush=True)
            sys.stdin.read()
        case "silent":
            sys.stdin.read()
        case "die":
            sys.exit(3)
        case "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        case "error":
            print(json.dumps({"error": "the file is not a model"}), flush=True)
            sys.exit(1)
        case "garbage":
            print("Segmentation fault", flush=True)
            time.sleep(60)
        case "flood":
            while True:
                print("x" * 10_000, end="", flush=True)


main()
