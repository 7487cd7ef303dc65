"""The core of the official connector as a contender of `cargo xtask bench --contenders`.

    connector.py CORE ENDPOINT CREDENTIALS CONFIG BUCKET KEY...

Loads the native module alone, since the package around it wants torch, and reads the objects in order through its
"type 1", which OssCheckpoint and safetensors use: the bytes go into this process's own memory. Prints as reader.c does.
"""

import importlib.util
import json
import resource
import sys
import time
import uuid

PIECE = 4 << 20

core, endpoint, credentials, config, bucket, *keys = sys.argv[1:]
spec = importlib.util.spec_from_file_location("oss_connector", core)
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
data_set = module.new_oss_dataset(endpoint, credentials, None, config, str(uuid.uuid4()), 0, 1, "cn-local")
began, total, piece = time.time(), 0, bytearray(PIECE)
for key in keys:
    data = data_set.open_ro(bucket, key, data_set.stat(bucket, key).size, 1, "")
    while (got := data.readinto(piece)) > 0:
        if 0 in piece[:got:4096]:
            sys.exit(f"{key}: a hole")
        total += got
    if data.err():
        sys.exit(f"{key}: {data.error_msg()}")
    data.close()
ended = time.time()
used = resource.getrusage(resource.RUSAGE_SELF)
figures = {"seconds": ended - began, "in_reads": 0, "ended": ended, "bytes": total}
print(json.dumps(figures | {"cpu_seconds": used.ru_utime + used.ru_stime}))
