"""The reference as a service: one JSON request per line of standard input, one JSON answer per line of standard output.

    {"do": "load", "deltas": [...], "base": DIR, "ours": FILE}   loads a delta, or verifies and loads a chain link by link,
        and compares every value, bit for bit, with the float32 file that we made of the same
    {"do": "save", "tuned": DIR, "base": DIR, "strategy": S, "options": {...}, "out": FILE, "ours": FILE}   saves the same
        fine-tune and compares header values and arrays with our file
"""

import contextlib
import json
import sys
import warnings

import numpy as np
from deltatensors import load_delta_chain, load_delta_from_paths, save_delta_from_paths
from deltatensors.format import read_wdelta
from safetensors import safe_open

warnings.simplefilter("ignore")


def load(deltas, base, ours):
    if len(deltas) == 1:
        expected = load_delta_from_paths(deltas[0], base, verify=True)
    else:
        expected = load_delta_chain(deltas, base, verify=True)
    different = []
    with safe_open(ours, "np") as file:
        names = set(file.keys())
        for name, theirs in expected.items():
            found = file.get_tensor(name)
            # What is not floating point we copy, never cast; the reference casts it.
            if found.dtype.kind != "f":
                found = found.astype(np.float32)
            same = found.dtype == theirs.dtype == np.float32 and found.shape == theirs.shape
            if not same or found.tobytes() != theirs.tobytes():
                different.append(name)
    return {"tensors": len(expected), "missing": sorted(set(expected) ^ names), "different": different}


def save(tuned, base, strategy, options, out, ours):
    save_delta_from_paths(out, tuned, base, strategy=strategy, **options)
    files = []
    for path in (out, ours):
        with open(path, "rb") as file:
            files.append(read_wdelta(file))
    (hash_theirs, strategy_theirs, theirs), (hash_ours, strategy_ours, found) = files
    different = []
    if (hash_theirs, strategy_theirs) != (hash_ours, strategy_ours):
        different.append("header")
    for name, payload in theirs.items():
        for key, value in payload.items():
            other = found[name][key]
            if isinstance(value, np.ndarray):
                if value.dtype != other.dtype or value.tobytes() != other.tobytes():
                    different.append(f"{name}.{key}")
            elif value != other:
                different.append(f"{name}.{key}: {value} and {other}")
    return {"tensors": len(theirs), "missing": sorted(set(theirs) ^ set(found)), "different": different}


for line in sys.stdin:
    request = json.loads(line)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            answer = {"load": load, "save": save}[request.pop("do")](**request)
    except Exception as error:  # every failure of the reference is an answer
        answer = {"error": repr(error)}
    print(json.dumps(answer), flush=True)
