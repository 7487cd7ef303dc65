#!/usr/bin/env python3
"""Load a GGUF model with llama.cpp and print how it goes on with "The capital of France is".

    run_llama.py MODEL.gguf [TOKENS]      (of a split model: its first shard; 16 tokens if not said)

This is a plain llama.cpp program: it knows nothing of ossc, of OSS, or of files that are still
being filled. llama.cpp comes prebuilt in xllamacpp (PyPI).
"""

import sys
import time

import xllamacpp

PROMPT = "The capital of France is"


def main():
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    tokens = int(sys.argv[2]) if len(sys.argv) == 3 else 16
    started = time.monotonic()
    params = xllamacpp.CommonParams()
    params.model.path = sys.argv[1]
    params.n_ctx = 512  # room for the prompt and the answer; a larger cache only costs memory
    params.n_parallel = 1
    params.verbosity = 0
    params.port = 0  # the server inside listens on a free port of 127.0.0.1
    server = xllamacpp.Server(params)
    print(f"llama.cpp: model loaded in {time.monotonic() - started:.2f} s", flush=True)
    # Temperature 0: always the likeliest word, so every run prints the same text.
    reply = server.handle_completions({"prompt": PROMPT, "max_tokens": tokens, "temperature": 0.0, "stop": ["\n"]})
    text = reply["choices"][0]["text"].strip()
    print(f"llama.cpp: {PROMPT} {text}", flush=True)


if __name__ == "__main__":
    main()
