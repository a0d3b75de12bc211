"""How long a lookup of the semantic cache takes, embedding included, and what an entry costs, at several sizes.

    benchmarks/semcache_lookup.py STREAM [--sizes 1000 10000 100000] [--asked N] [--json]

A stream is a file of `class_id<TAB>text` lines with a header. Its questions are kept as entries of one scope; where there are too few, numbered
variants fill up; questions of one class have one
answer, some 300 characters made of the stream's own words. Others of the stream are asked: `miss` rows are lookups that end in one, `hit` rows those that are answered by likeness at
`max_wrong`. A lookup is what the layer does on the event loop: read the request's key, look by words, embed, search, guards, verifier.
Times are processor time of the thread, since a shared machine's wall clock tells of its other work. Recall compares the nearest entry with an exact search, where that one's cosine is at least `FLOOR`. One thread.
"""

from __future__ import annotations

import argparse
import gc
import gzip
import json
import os
import random
import statistics
import sys
import time
from pathlib import Path
from typing import Any

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "1")

import numpy as np  # noqa: E402  (after the threads are bounded)

from headrace.cache.entry import Entry, encode_reply  # noqa: E402
from headrace.cache.index import VectorSlab, unpack  # noqa: E402
from headrace.cache.key import read_key  # noqa: E402
from headrace.cache.layer import Cache  # noqa: E402
from headrace.cache.match import FLOOR, Matcher  # noqa: E402
from headrace.cache.shelf import Shelf  # noqa: E402
from headrace.cache.text import canonical  # noqa: E402
from headrace.call import Call  # noqa: E402
from headrace.clock import SystemClock  # noqa: E402
from headrace.dialects import by_name  # noqa: E402
from headrace.handler import Body, CachePolicy, Request, Route  # noqa: E402
from headrace.types import Reply, Target, Text, Usage  # noqa: E402

OPENAI = by_name("openai-chat")


def questions(path: Path) -> dict[str, str]:
    """Texts, each once, and their classes."""
    data = path.read_bytes()
    text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode()
    pairs = (line.split("\t", 1) for line in text.split("\n")[1:] if line)
    return {question: class_id for class_id, question in pairs}


def request(text: str, policy: CachePolicy) -> Request:
    body = {"model": "faq", "messages": [{"role": "user", "content": text}]}
    route = Route(name="faq", cascade=(Target("a", "one"),), cache=policy)
    return Request(
        stream=False,
        body=Body(wire=json.dumps(body).encode(), dialect=OPENAI),
        route=route,
        call=Call(id="req_0", started_at=0.0, started_wall=0.0, tenant="acme", dialect="openai-chat"),
    )


def answers(class_id: str, texts: list[str]) -> str:
    """What all questions of one class are answered."""
    chosen = random.Random(class_id)
    return " ".join(chosen.choice(texts) for _ in range(5))


def resident() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def measure(
    size: int,
    classes: dict[str, str],
    texts: list[str],
    asked: list[str],
    matcher: Matcher,
    policy: CachePolicy,
) -> dict[str, Any]:
    clock = SystemClock()
    usage = Usage(input_tokens=20, output_tokens=60)
    kept = [
        texts[at % len(texts)] + (f" (part {at // len(texts)})" if at >= len(texts) else "")
        for at in range(size)
    ]
    cache = Cache(clock, Shelf(1 << 40, new_slab=VectorSlab), random=random.random, likeness=matcher)
    gc.collect()
    before = resident()
    took: list[float] = []
    for number, text in enumerate(kept):
        key = read_key(request(text, policy), policy)
        answer = answers(classes.get(text, text), texts)
        started = time.thread_time()
        entry = Entry(
            id=f"{number:016x}",
            scope=key.scope,
            exact=key.exact,
            text=text,
            canonical=canonical(text),
            tenant=key.tenant,
            route="faq",
            target="a/one",
            created=clock.wall(),
            expires=clock.wall() + 86_400,
            body=encode_reply(Reply(id="", model="one", content=(Text(text=answer),), usage=usage)),
            cost=1_000_000,
        )
        if matcher.may(key):
            matcher.prepare(entry)
            matcher.learn(entry, cache.shelf)
        cache.shelf.put(entry)
        took.append(time.thread_time() - started)
    gc.collect()
    grown = resident() - before
    times: dict[str, list[float]] = {"miss": [], "hit": []}
    for text in asked[:50]:
        asked = request(text, policy)
        cache.find(read_key(asked, policy), policy, asked.route)
    for text in asked:
        made = request(text, policy)
        started = time.thread_time()
        key = read_key(made, policy)
        found, cached = cache.find(key, policy, request(text, policy).route)
        spent = time.thread_time() - started
        if cached.why != "":
            continue
        if found is None:
            times["miss"].append(spent)
        elif cached.tier == "semantic":
            times["hit"].append(spent)
    matrix = np.array([unpack(entry.vector) for entry in cache.shelf if entry.vector])
    slab = cache.shelf.slab(key.scope)
    assert isinstance(slab, VectorSlab)
    right = tried = 0
    for text in asked:
        vector = matcher.encoder.encode(text)
        best = float((matrix @ vector).max())
        if best >= FLOOR:
            tried += 1
            # Rows are kept in 8 bits: what is as near but for that is as good.
            right += slab.nearest(vector, 1)[0][1] >= best - 0.004
    row: dict[str, Any] = {
        "entries": size,
        "bytes_an_entry": grown // size,
        "put_us_p50": statistics.median(took) * 1e6,
        "recall_1": right / tried,
        "recall_of": tried,
    }
    for kind, spent_all in times.items():
        ordered = sorted(spent_all)
        row[kind] = {
            "lookups": len(ordered),
            **{
                f"p{share * 100:g}_ms": ordered[min(len(ordered) - 1, int(share * len(ordered)))] * 1e3
                for share in (0.5, 0.99, 0.999)
                if ordered
            },
        }
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("stream", type=Path)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    parser.add_argument("--asked", type=int, default=3_000)
    parser.add_argument("--max-wrong", type=float, default=0.05)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    classes = questions(arguments.stream)
    texts = list(classes)
    random.Random(0).shuffle(texts)
    asked, texts = texts[: arguments.asked], texts[arguments.asked :]
    policy = CachePolicy(semantic=True, max_wrong=arguments.max_wrong, lookup_s=60.0)
    matcher = Matcher.load()
    rows = []
    for size in arguments.sizes:
        print(f"\r\033[K{size:,} entries", end="", file=sys.stderr, flush=True)
        rows.append(measure(size, classes, texts, asked, matcher, policy))
    print("\r\033[K", end="", file=sys.stderr)
    if arguments.json:
        print(
            json.dumps(
                {"stream": arguments.stream.name, "max_wrong": arguments.max_wrong, "rows": rows}, indent=1
            )
        )
        return
    head = (
        "entries",
        "miss p50",
        "p99",
        "p99.9 ms",
        "hit p50",
        "p99 ms",
        "hits",
        "put p50 us",
        "bytes/entry",
        "recall@1",
    )
    print("  ".join(f"{name:>11}" for name in head))
    for row in rows:
        miss, hit = row["miss"], row["hit"]
        cells = (
            f"{row['entries']:,}",
            *(f"{miss.get(name, float('nan')):.3f}" for name in ("p50_ms", "p99_ms", "p99.9_ms")),
            *(f"{hit.get(name, float('nan')):.3f}" for name in ("p50_ms", "p99_ms")),
            str(hit["lookups"]),
            f"{row['put_us_p50']:.0f}",
            f"{row['bytes_an_entry']:,}",
            f"{row['recall_1']:.3f}",
        )
        print("  ".join(f"{cell:>11}" for cell in cells))


if __name__ == "__main__":
    main()
