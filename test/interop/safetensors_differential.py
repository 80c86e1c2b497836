"""The reference's safetensors as a service: one JSON request per line of standard input, one JSON answer per line of standard output.

    {"read": BASE64}   reads a file: its tensors as [name, dtype, shape, data as base64], or an error
    {"write": [[name, dtype, shape, bytes]], "metadata": {...} | null}   writes a file of zeros: its header as base64
"""

import base64
import ctypes
import json
import sys

from safetensors import SafetensorError, TensorSpec, deserialize, serialize

# The writer takes the names of torch.
DTYPES = {
    "BOOL": "bool",
    "U8": "uint8",
    "I8": "int8",
    "F8_E5M2": "float8_e5m2",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E8M0": "float8_e8m0fnu",
    "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2FNUZ": "float8_e5m2fnuz",
    "I16": "int16",
    "U16": "uint16",
    "F16": "float16",
    "BF16": "bfloat16",
    "I32": "int32",
    "U32": "uint32",
    "F32": "float32",
    "C64": "complex64",
    "F64": "float64",
    "I64": "int64",
    "U64": "uint64",
}


def encoded(data):
    return base64.b64encode(data).decode()


def read(file):
    tensors = deserialize(base64.b64decode(file))
    return {"tensors": [[name, t["dtype"], t["shape"], encoded(t["data"])] for name, t in tensors]}


def write(tensors, metadata):
    zeros = ctypes.create_string_buffer(max((size for *_, size in tensors), default=0) + 1)
    specs = {
        name: TensorSpec(dtype=DTYPES[dtype], shape=shape, data_ptr=ctypes.addressof(zeros), data_len=size)
        for name, dtype, shape, size in tensors
    }
    file = serialize(specs, metadata)
    return {"header": encoded(file[: 8 + int.from_bytes(file[:8], "little")])}


for line in sys.stdin:
    request = json.loads(line)
    try:
        answer = read(request["read"]) if "read" in request else write(request["write"], request["metadata"])
    except SafetensorError as error:
        answer = {"error": str(error)}
    print(json.dumps(answer))
