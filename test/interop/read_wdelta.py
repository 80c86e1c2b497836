"""What the reference reads from .wdelta files: one JSON line per path given on standard input.

A line holds an error, or per tensor in name order its metadata, the SHA-256 of each array's bytes, and the SHA-256 of
the float32 delta that they decode to.
"""

import hashlib
import json
import sys
import warnings

import numpy as np
from deltatensors.compress import decompress
from deltatensors.format import read_wdelta

warnings.simplefilter("ignore")


def digest(array):
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


def read(path):
    with open(path, "rb") as file:
        parent_hash, strategy, tensors = read_wdelta(file)
    result = {}
    for name, payload in tensors.items():
        fields = {key: digest(value) for key, value in payload.items() if isinstance(value, np.ndarray)}
        delta = decompress(payload)
        if delta.dtype != np.float32 or list(delta.shape) != payload["shape"]:
            raise ValueError(f"{name}: decodes to {delta.dtype} {delta.shape}")
        meta = {key: payload[key] for key in payload if key not in fields}
        zero = bool(np.all(delta == 0))
        result[name] = {"meta": meta, "arrays": fields, "zero": zero, "delta": digest(delta)}
    return {"parentHash": parent_hash, "strategy": strategy, "tensors": result}


for line in sys.stdin:
    try:
        print(json.dumps(read(line.rstrip("\n"))))
    except Exception as error:  # every failure of the reference is an answer
        print(json.dumps({"error": repr(error)}))
