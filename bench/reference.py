"""The Python reference, timed: prints {"seconds", "peakBytes"} for one call. Imports are not counted.

    reference.py load D.wdelta BASE OUT.safetensors [--no-verify]
    reference.py save OUT.wdelta TUNED BASE STRATEGY
"""

import contextlib
import json
import resource
import sys
import time

import torch  # noqa: F401  loaded before the clock starts
from deltatensors import load_delta_from_paths, save_delta_from_paths
from safetensors.numpy import save_file


def main(action, *arguments):
    began = time.perf_counter()
    with contextlib.redirect_stdout(sys.stderr):
        if action == "load":
            delta, base, out, *flags = arguments
            save_file(load_delta_from_paths(delta, base, verify="--no-verify" not in flags), out)
        else:
            out, tuned, base, strategy = arguments
            save_delta_from_paths(out, tuned, base, strategy=strategy)
    seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"seconds": seconds, "peakBytes": peak}))


main(*sys.argv[1:])
