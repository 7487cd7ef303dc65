#!/usr/bin/env python3
"""Write a large GGUF model with random weights that llama.cpp can load and run.

The weights are noise, so the text that comes out is noise too; the file layout
(header, key/value pairs, tensor table, aligned tensor data, shard names and
split.* keys) is that of a real llama-architecture model. The tokenizer is
copied from an existing GGUF. The same arguments give the same bytes.

    make_gguf.py --size 2G --shards 5 --seed 1 --out /models/rand2g
      -> /models/rand2g-00001-of-00005.gguf ... (shards=1: /models/rand2g.gguf)

Needs: numpy, gguf (both from PyPI).
"""

import argparse
import importlib.util
import os
import pathlib
import re
import sys
import time

import gguf
import numpy as np

HEAD_DIM = 64
BLOCK = 32  # weights in one Q8_0 / Q4_0 block
TYPES = {
    # name: (ggml type, general.file_type, bytes of a row of `n` weights)
    "f16": (gguf.GGMLQuantizationType.F16, gguf.LlamaFileType.MOSTLY_F16, lambda n: 2 * n),
    "q8_0": (gguf.GGMLQuantizationType.Q8_0, gguf.LlamaFileType.MOSTLY_Q8_0, lambda n: n // BLOCK * (2 + BLOCK)),
    "q4_0": (gguf.GGMLQuantizationType.Q4_0, gguf.LlamaFileType.MOSTLY_Q4_0, lambda n: n // BLOCK * (2 + BLOCK // 2)),
}


def parse_size(text):
    m = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(i?B?)", text.strip(), re.I)
    if not m:
        raise argparse.ArgumentTypeError(f"not a size: {text!r} (try 2G, 512M)")
    return int(float(m[1]) * 1024 ** " KMGT".index(m[2].upper() or " "))


def locate(source):
    """The path that a tokenizer's source means."""
    if not source.startswith("package:"):
        return source
    spec = importlib.util.find_spec(source.removeprefix("package:"))  # finds without importing
    folders = spec.submodule_search_locations if spec else []
    found = [file for folder in folders for file in pathlib.Path(folder).rglob("*.gguf")]
    if len(found) != 1:
        sys.exit(f"make_gguf.py: {source} has {len(found)} GGUF files instead of one")
    return found[0]


def read_tokenizer(path):
    """The tokenizer.* pairs of a GGUF: [(key, value type, element type, value)]."""
    pairs = []
    for key, field in gguf.GGUFReader(path).fields.items():
        if key.startswith("tokenizer."):
            kind = field.types[0]
            sub = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
            pairs.append((key, kind, sub, field.contents()))
    if not pairs:
        sys.exit(f"{path}: no tokenizer.* keys")
    return pairs


def plan(size, vocab, row_bytes):
    """Pick width and depth so that the tensors take at least `size` bytes."""
    for width in (4096, 3072, 2048, 1024, 512, 256):
        ff = width * 11 // 4 // 256 * 256
        kv = max(width // 4, HEAD_DIM)
        embed = vocab * row_bytes(width)
        layer = (2 * width + 2 * kv + 2 * ff) * row_bytes(width) + width * row_bytes(ff)
        depth = -(-(size - embed) // layer)
        if depth >= 8 or width == 256:
            return width, ff, kv, max(depth, 1)


def tensor_list(width, ff, kv, depth, vocab):
    """(name, shape with the fastest axis last, is it a norm vector), in file order."""
    yield "token_embd.weight", (vocab, width), False
    for i in range(depth):
        b = f"blk.{i}."
        yield b + "attn_norm.weight", (width,), True
        yield b + "attn_q.weight", (width, width), False
        yield b + "attn_k.weight", (kv, width), False
        yield b + "attn_v.weight", (kv, width), False
        yield b + "attn_output.weight", (width, width), False
        yield b + "ffn_norm.weight", (width,), True
        yield b + "ffn_gate.weight", (ff, width), False
        yield b + "ffn_up.weight", (ff, width), False
        yield b + "ffn_down.weight", (width, ff), False
    yield "output_norm.weight", (width,), True


def noise(nbytes, seed, index):
    words = np.random.SFC64([seed, index]).random_raw(-(-nbytes // 8))
    return words.view(np.uint8)[:nbytes]


def weights(kind, shape, seed, index):
    """Random weights of about +-0.02 in the file's encoding (rows, row bytes)."""
    rows, cols = shape
    rowb = TYPES[kind][2](cols)
    raw = noise(rows * rowb, seed, index)
    if kind == "f16":  # keep sign, mantissa and one exponent bit; 2**-7 <= |w| < 2**-5
        bits = raw.view(np.uint16)
        bits &= 0x87FF
        bits |= 0x2000
        return bits.view(np.float16).reshape(rows, cols)
    blocks = raw.reshape(rows * cols // BLOCK, -1)
    scale = 0.02 / 73 if kind == "q8_0" else 0.02 / 4.6
    blocks[:, :2] = np.frombuffer(np.float16(scale).tobytes(), np.uint8)
    return raw.reshape(rows, rowb)


def main():
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ap.add_argument("--size", type=parse_size, default="2G", help="least size of all tensors together (default 2G)")
    ap.add_argument("--shards", type=int, default=1, help="number of files (default 1)")
    ap.add_argument("--seed", type=int, default=1)
    ap.add_argument("--out", required=True, help="path prefix, without .gguf")
    ap.add_argument("--type", choices=TYPES, default="f16", help="weight type (default f16)")
    ap.add_argument("--tokenizer", required=True,
                    help="GGUF to copy the tokenizer from, or package:NAME for the one that a Python package ships")
    args = ap.parse_args()
    if args.shards < 1:
        ap.error("--shards must be at least 1")

    started = time.time()
    tokenizer = read_tokenizer(locate(args.tokenizer))
    vocab = len(next(v for k, _, _, v in tokenizer if k == "tokenizer.ggml.tokens"))
    qtype, ftype, row_bytes = TYPES[args.type]
    width, ff, kv, depth = plan(args.size, vocab, row_bytes)

    tensors = []  # (index, name, shape, is norm, bytes)
    for i, (name, shape, norm) in enumerate(tensor_list(width, ff, kv, depth, vocab)):
        tensors.append((i, name, shape, norm, 4 * shape[0] if norm else shape[0] * row_bytes(shape[1])))
    total = sum(t[4] for t in tensors)

    # Cut the list into consecutive runs of about equal bytes, none empty.
    if len(tensors) < args.shards:
        ap.error(f"only {len(tensors)} tensors: too few for {args.shards} shards")
    shards, done = [[]], 0
    for left, t in zip(range(len(tensors), 0, -1), tensors):
        to_open = args.shards - len(shards)
        full = done * args.shards >= len(shards) * total
        if shards[-1] and to_open and (full or left <= to_open):
            shards.append([])
        shards[-1].append(t)
        done += t[4]

    made = []
    os.makedirs(os.path.dirname(os.path.abspath(args.out)), exist_ok=True)
    for no, part in enumerate(shards):
        path = args.out + (f"-{no + 1:05d}-of-{args.shards:05d}.gguf" if args.shards > 1 else ".gguf")
        w = gguf.GGUFWriter(path, "llama")
        if no == 0:
            w.add_name(f"random-{args.type}-{total >> 20}M-seed{args.seed}")
            w.add_file_type(ftype)
            w.add_quantization_version(gguf.GGML_QUANT_VERSION)
            w.add_vocab_size(vocab)
            w.add_context_length(4096)
            w.add_embedding_length(width)
            w.add_block_count(depth)
            w.add_feed_forward_length(ff)
            w.add_head_count(width // HEAD_DIM)
            w.add_head_count_kv(kv // HEAD_DIM)
            w.add_rope_dimension_count(HEAD_DIM)
            w.add_rope_freq_base(100000.0)
            w.add_layer_norm_rms_eps(1e-5)
            for key, kind, sub, value in tokenizer:
                w.add_key_value(key, value, kind, sub)
        else:
            del w.kv_data[0]["general.architecture"]  # as llama-gguf-split: only split.* keys
        if args.shards > 1:
            w.add_uint16("split.no", no)
            w.add_uint16("split.count", args.shards)
            w.add_int32("split.tensors.count", len(tensors))
        for _, name, shape, norm, nbytes in part:
            if norm:
                w.add_tensor_info(name, shape, np.dtype(np.float32), nbytes)
            elif args.type == "f16":
                w.add_tensor_info(name, shape, np.dtype(np.float16), nbytes)
            else:
                w.add_tensor_info(name, (shape[0], row_bytes(shape[1])), np.dtype(np.uint8), nbytes, raw_dtype=qtype)
        w.write_header_to_file()
        w.write_kv_data_to_file()
        w.write_ti_data_to_file()
        for index, _, shape, norm, _ in part:
            data = np.ones(shape, np.float32) if norm else weights(args.type, shape, args.seed, index)
            w.write_tensor_data(data)
        w.close()
        made.append(path)
        print(f"{path}  {os.path.getsize(path)} bytes  {len(part)} tensors")

    print(f"llama: width {width}, layers {depth}, feed-forward {ff}, {args.type}, {len(tensors)} tensors, "
          f"{total / 2**30:.2f} GiB in {len(made)} file(s), {time.time() - started:.1f} s")


if __name__ == "__main__":
    main()
