"""An independent reader of .wdelta version 2, written from src/codec/FORMAT.md alone.

    wdelta_v2.py DELTA PARENT_DIR OUT_DIR   reconstructs the shards, byte for byte, from the *.safetensors files of the parent
    wdelta_v2.py --describe DELTA           prints what the file holds as JSON; checks all that can be checked without the parent

Whatever the page forbids ends it with status 1 and one line on standard error that names what is wrong.
"""

import hashlib
import json
import math
import mmap
import os
import struct
import sys
from pathlib import Path, PurePosixPath

import numpy as np
import zstandard
from xxhash import xxh64_intdigest

FRAME = 2_097_152
COPY_RECORD = 0xFFFFFFFF
WINDOW = 8 << 20
HEADER_BYTES = 100_000_000
ENCODINGS = ("copy", "raw", "zstd", "planes", "xor", "sparse", "coded")
BITS = {
    "BOOL": 8, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8, "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32,
    "C64": 64, "F64": 64, "I64": 64, "U64": 64,
}  # fmt: skip
CASTABLE = ("F16", "BF16", "F32", "F64")
# Of a float: unsigned numpy type, bits of the mantissa.
FLOATS = {"F16": (np.uint16, 10), "BF16": (np.uint16, 7), "F32": (np.uint32, 23), "F64": (np.uint64, 52)}


class Wrong(Exception):
    """The file, or what stands beside it, is not what the page asks for."""


def need(condition, what):
    if not condition:
        raise Wrong(what)


def utf8(data, what):
    try:
        return bytes(data).decode("utf-8")
    except UnicodeDecodeError as error:
        raise Wrong(f"{what}: not UTF-8") from error


class Cursor:
    """Reads a buffer from front to back."""

    def __init__(self, data, what):
        self.data, self.what, self.at = memoryview(data), what, 0

    def take(self, size):
        need(size <= len(self.data) - self.at, f"{self.what}: ends before its {self.at + size} bytes")
        self.at += size
        return self.data[self.at - size : self.at]

    def numbers(self, layout):
        return struct.unpack("<" + layout, self.take(struct.calcsize("<" + layout)))

    def number(self, layout):
        return self.numbers(layout)[0]

    def column(self, dtype, count):
        return np.frombuffer(self.take(count * np.dtype(dtype).itemsize), np.dtype(dtype).newbyteorder("<"))

    def rest(self):
        return self.take(len(self.data) - self.at)

    def end(self):
        need(self.at == len(self.data), f"{self.what}: {len(self.data) - self.at} bytes too many")


def unzstd(data, size, what):
    """The content of one zstd frame that must hold `size` bytes and be all of `data`."""
    data = bytes(data)
    need(data[:4] == b"\x28\xb5\x2f\xfd", f"{what}: not a zstd frame")
    try:
        frame = zstandard.get_frame_parameters(data)
        need(frame.content_size == size, f"{what}: its zstd frame does not state {size} bytes")
        need(frame.window_size <= WINDOW, f"{what}: the window of its zstd frame is too large")
        need(frame.dict_id == 0, f"{what}: its zstd frame wants a dictionary")
        inflate = zstandard.ZstdDecompressor(max_window_size=WINDOW).decompressobj()
        content = inflate.decompress(data)
    except zstandard.ZstdError as error:
        raise Wrong(f"{what}: bad zstd frame: {error}") from error
    need(inflate.eof and len(content) == size, f"{what}: its zstd frame is cut")
    need(not inflate.unused_data, f"{what}: bytes after its zstd frame")
    return content


def elements(shape):
    return math.prod(shape)


def width(dtype):
    """The `w` of the page."""
    return 4 if dtype == "C64" else max(1, BITS[dtype] // 8)


class Tensor:
    """A tensor of a shard; `begin` and `end` count from the end of the header."""

    def __init__(self, name, dtype, shape, begin, end):
        self.name, self.dtype, self.shape, self.begin, self.end = name, dtype, tuple(shape), begin, end
        self.size = end - begin
        self.data = b""
        self.source = None


def unique(pairs):
    need(len(dict(pairs)) == len(pairs), "safetensors header: a key comes twice")
    return dict(pairs)


def is_count(value):
    return type(value) is int and 0 <= value < 2**64


def parse_header(data, what):
    """The tensors of a safetensors header, by their offset in the file (and, where that is equal, by their end)."""
    try:
        entries = json.loads(utf8(data, what), object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise Wrong(f"{what}: not JSON") from error
    need(isinstance(entries, dict) and data[:1] == b"{", f"{what}: not a JSON object")
    entries.pop("__metadata__", None)
    tensors = []
    for name, entry in entries.items():
        need(isinstance(entry, dict) and entry.keys() == {"dtype", "shape", "data_offsets"}, f"{what}: {name!r}")
        dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
        need(isinstance(dtype, str) and dtype in BITS, f"{what}: dtype of {name!r}")
        need(isinstance(shape, list) and len(shape) <= 16 and all(map(is_count, shape)), f"{what}: shape of {name!r}")
        need(isinstance(offsets, list) and len(offsets) == 2 and all(map(is_count, offsets)), f"{what}: {name!r}")
        need(elements(shape) * BITS[dtype] == 8 * (offsets[1] - offsets[0]), f"{what}: size of {name!r}")
        try:
            name.encode()
        except UnicodeEncodeError as error:
            raise Wrong(f"{what}: name {name!r}") from error
        tensors.append(Tensor(name, dtype, shape, *offsets))
    tensors.sort(key=lambda tensor: (tensor.begin, tensor.end))
    end = 0
    for tensor in tensors:
        need(tensor.begin == end, f"{what}: a hole or an overlap before {tensor.name!r}")
        end = tensor.end
    return tensors


class Shard:
    def __init__(self, path, header, sha256):
        self.path, self.header, self.sha256 = path, bytes(header), bytes(sha256)
        self.tensors = parse_header(self.header, f"header of {path}")
        self.size = 8 + len(self.header) + sum(tensor.size for tensor in self.tensors)


class Frame:
    def __init__(self, tensor, i, encoding, record, checksum):
        self.tensor, self.i, self.encoding, self.record, self.checksum = tensor, i, encoding, record, checksum
        self.size = min(FRAME, tensor.size - i * FRAME)


class Delta:
    """A whole file, checked as far as it can be without its parent and without decoding its frames."""

    def __init__(self, data):
        self.size = len(data)
        need(self.size >= 16, "file: shorter than its prefix")
        magic, version, zeros = struct.unpack("<7sI5s", data[:16])
        need(magic == b"wdelta\0", "file: not a .wdelta")
        need(version == 2, f"file: version {version}")
        need(zeros == bytes(5), "prefix: bytes that are not zero")
        need(self.size >= 16 + 8 + 64, "file: cut")
        need(hashlib.sha256(data[:-32]).digest() == data[-32:], "file: its SHA-256 is another")
        at, stored, inflated, checksum, zeros = struct.unpack("<QIIQ8s", data[-64:-32])
        need(zeros == bytes(8), "tail: bytes that are not zero")
        need(at + stored == self.size - 64, "tail: the index does not end where the tail starts")
        need(at >= 16 + 8, "tail: the index starts too early")
        self.index_bytes = stored
        self.records = self._walk(data, at, stored)
        index = data[at : at + stored]
        need(xxh64_intdigest(index) == checksum, "index: its xxh64 is another")
        need(inflated <= min(134_217_728, 65_536 + 256 * stored), "index: too long once inflated")
        self._read_index(Cursor(unzstd(index, inflated, "index"), "index"))
        self._check_records()

    @staticmethod
    def _walk(data, end, stored):
        records, at = [], 16
        while True:
            need(at + 4 <= end - 4, "records: run into the index")
            length = int.from_bytes(data[at : at + 4], "little")
            at += 4
            if length == 0:
                break
            need(length <= FRAME, f"record {len(records)}: of {length} bytes")
            need(at + length <= end - 8, f"record {len(records)}: runs into the index")
            records.append(data[at : at + length])
            at += length
        need(at + 4 == end, "records: do not end where the index starts")
        need(int.from_bytes(data[at:end], "little") == stored, "records: another length of the index than in the tail")
        return records

    def _read_index(self, cursor):
        self.parent_identity, self.parent_hash = bytes(cursor.take(32)), bytes(cursor.take(32))
        count = cursor.number("I")
        need(1 <= count <= 10_000, f"index: {count} shards")
        self.shards = [self._read_shard(cursor) for _ in range(count)]
        paths = [shard.path for shard in self.shards]
        need(len(set(paths)) == count, "index: two shards of one path")
        count = cursor.number("I")
        need(count == len(self.records), f"index: {count} records, the file has {len(self.records)}")
        lengths, checksums = cursor.column(np.uint32, count), cursor.column(np.uint64, count)
        for i, record in enumerate(self.records):
            need(lengths[i] == len(record), f"record {i}: of another length than in the index")
            need(checksums[i] == xxh64_intdigest(record), f"record {i}: its xxh64 is another")
        self.tensors = [tensor for shard in self.shards for tensor in shard.tensors]
        need(len({tensor.name for tensor in self.tensors}) == len(self.tensors), "index: two tensors of one name")
        count = cursor.number("I")
        need(count == len(self.tensors), f"index: {count} tensors, the headers have {len(self.tensors)}")
        for tensor in self.tensors:
            tensor.source = self._read_source(cursor, tensor)
        self._read_frames(cursor)
        cursor.end()

    @staticmethod
    def _read_shard(cursor):
        path = utf8(cursor.take(cursor.number("H")), "path of a shard")
        parts = path.split("/")
        safe = all(part not in ("", ".", "..") for part in parts) and not set(path) & {"\0", "\\"}
        need(safe, f"index: path {path!r}")
        length = cursor.number("I")
        need(length <= HEADER_BYTES, f"index: header of {path}: too long")
        return Shard(path, cursor.take(length), cursor.take(32))

    @staticmethod
    def _read_source(cursor, tensor):
        what = f"source of {tensor.name!r}"
        kind = cursor.number("B")
        need(kind <= 2, f"{what}: kind {kind}")
        if kind == 0:
            return None
        dtype = bytes(cursor.take(cursor.number("B"))).decode("latin-1")
        need(dtype in BITS, f"{what}: dtype {dtype!r}")
        rank = cursor.number("B")
        need(rank <= 16, f"{what}: rank {rank}")
        shape = cursor.numbers(f"{rank}Q")
        name = tensor.name
        if kind == 2:
            name = utf8(cursor.take(cursor.number("H")), what)
            need(name != tensor.name, f"{what}: another name that is the same")
        need(rank == len(tensor.shape) and shape[1:] == tensor.shape[1:], f"{what}: shape {shape}")
        need(dtype == tensor.dtype or {dtype, tensor.dtype} <= set(CASTABLE), f"{what}: dtype {dtype}")
        return Tensor(name, dtype, shape, 0, elements(shape) * BITS[dtype] // 8)

    def _read_frames(self, cursor):
        count = cursor.number("I")
        expected = sum(-(-tensor.size // FRAME) for tensor in self.tensors)
        need(count == expected, f"index: {count} frames, the tensors have {expected}")
        columns = [cursor.column(dtype, count).tolist() for dtype in (np.uint8, np.uint32, np.uint64)]
        rows = zip(*columns)
        self.frames = [
            Frame(tensor, i, *next(rows)) for tensor in self.tensors for i in range(-(-tensor.size // FRAME))
        ]

    def _check_records(self):
        known = 0
        for frame in self.frames:
            what = frame_name(frame)
            need(frame.encoding < len(ENCODINGS), f"{what}: encoding {frame.encoding}")
            if ENCODINGS[frame.encoding] == "copy":
                need(frame.record == COPY_RECORD, f"{what}: a copy with a record")
                continue
            need(frame.record <= known and frame.record < len(self.records), f"{what}: record {frame.record}")
            known = max(known, frame.record + 1)
            need(len(self.records[frame.record]) <= frame.size, f"{what}: its record is longer than it")
        need(known == len(self.records), f"record {known}: no frame names it")


def frame_name(frame):
    return f"frame {frame.i} of {frame.tensor.name!r}"


class Parent:
    """The safetensors files of a folder, at any depth: a model."""

    def __init__(self, folder):
        self.tensors = {}
        paths = sorted(Path(folder).rglob("*.safetensors"))
        need(paths, f"parent: no *.safetensors in {folder}")
        for path in paths:
            self._add(path)

    def _add(self, path):
        data = map_file(path)
        need(len(data) >= 8, f"parent: {path.name} is cut")
        length = int.from_bytes(data[:8], "little")
        need(length <= min(HEADER_BYTES, len(data) - 8), f"parent: {path.name}: header of {length} bytes")
        tensors = parse_header(bytes(data[8 : 8 + length]), f"parent: {path.name}")
        body = data[8 + length :]
        need(len(body) == sum(tensor.size for tensor in tensors), f"parent: {path.name} is not as long as its tensors")
        for tensor in tensors:
            need(tensor.name not in self.tensors, f"parent: two tensors {tensor.name!r}")
            tensor.data = body[tensor.begin : tensor.end]
            self.tensors[tensor.name] = tensor

    def hashes(self):
        """Identity and `parent_hash`."""
        identity, reference = hashlib.sha256(), hashlib.sha256()
        for tensor in sorted(self.tensors.values(), key=lambda tensor: tensor.name.encode()):
            name, dtype, rank = tensor.name.encode(), tensor.dtype.encode(), len(tensor.shape)
            identity.update(struct.pack("<H", len(name)) + name + bytes([len(dtype)]) + dtype)
            identity.update(struct.pack(f"<B{rank}Q", rank, *tensor.shape))
            identity.update(hashlib.sha256(tensor.data).digest())
            reference.update(name)
            reference.update(tensor.data)
        return identity.digest(), reference.digest()


def map_file(path):
    with open(path, "rb") as file:
        if os.fstat(file.fileno()).st_size == 0:
            return memoryview(b"")
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def quieted(bits, mantissa):
    return bits | bits.dtype.type(1 << (mantissa - 1))


def is_nan(bits, mantissa):
    magnitude = bits & bits.dtype.type((1 << (bits.dtype.itemsize * 8 - 1)) - 1)
    top = (1 << (bits.dtype.itemsize * 8 - 1)) - (1 << mantissa)
    return magnitude > bits.dtype.type(top)


def moved_nans(bits, mantissa, to, to_mantissa):
    """NaNs of one format in another: sign, quiet bit, and the upper bits of the payload."""
    wide = bits.astype(np.uint64)
    sign = wide >> np.uint64(bits.dtype.itemsize * 8 - 1)
    payload = (wide & np.uint64((1 << mantissa) - 1)) << np.uint64(52 - mantissa) >> np.uint64(52 - to_mantissa)
    size = np.dtype(to).itemsize * 8
    exponent = np.uint64((1 << (size - 1)) - (1 << to_mantissa))
    return quieted((sign << np.uint64(size - 1) | exponent | payload).astype(to), to_mantissa)


def to_float32(data, dtype):
    """Bits of float32."""
    unsigned, mantissa = FLOATS[dtype]
    bits = np.frombuffer(data, np.dtype(unsigned).newbyteorder("<")).astype(unsigned)
    if dtype == "F32":
        return bits
    if dtype == "BF16":
        return bits.astype(np.uint32) << np.uint32(16)
    wide = bits.view(np.float16 if dtype == "F16" else np.float64).astype(np.float32).view(np.uint32)
    return np.where(is_nan(bits, mantissa), moved_nans(bits, mantissa, np.uint32, 23), wide)


def from_float32(bits, dtype):
    """The bytes of float32 bits, cast."""
    unsigned, mantissa = FLOATS[dtype]
    if dtype == "F32":
        return bits
    if dtype == "BF16":
        wide = bits.astype(np.uint64)
        cast = ((wide + np.uint64(0x7FFF) + (wide >> np.uint64(16) & np.uint64(1))) >> np.uint64(16)).astype(np.uint16)
    else:
        cast = bits.view(np.float32).astype(np.float16 if dtype == "F16" else np.float64).view(unsigned)
    return np.where(is_nan(bits, 23), moved_nans(bits, 23, unsigned, mantissa), cast)


def predict(frame, parent):
    """The prediction of a frame, as an array of bytes."""
    prediction = np.zeros(frame.size, np.uint8)
    source = frame.tensor.source
    if source is None:
        return prediction
    data = parent.tensors[source.name].data
    begin = frame.i * FRAME
    if source.dtype == frame.tensor.dtype:
        found = np.frombuffer(data[begin : begin + frame.size], np.uint8)
    else:
        own, other = width(frame.tensor.dtype), width(source.dtype)
        part = data[begin // own * other : (begin + frame.size) // own * other]
        with np.errstate(all="ignore"):
            cast = from_float32(to_float32(part, source.dtype), frame.tensor.dtype)
        found = np.frombuffer(cast.astype(cast.dtype.newbyteorder("<")).tobytes(), np.uint8)
    prediction[: len(found)] = found
    return prediction


def joined(planes, w):
    """Elements of `w` bytes from their byte planes."""
    return np.ascontiguousarray(np.frombuffer(planes, np.uint8).reshape(w, -1).T).reshape(-1)


def leb128(cursor):
    value = shift = 0
    while True:
        byte = cursor.number("B")
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value
        need(shift < 35, f"{cursor.what}: a gap of more than 5 bytes")


def decode_sparse(record, prediction, w, what):
    cursor = Cursor(record, what)
    count = cursor.number("I")
    result = prediction.copy().reshape(-1, w)
    need(count <= len(result), f"{what}: {count} changed elements")
    positions = np.zeros(count, np.int64)
    at = -1
    for i in range(count):
        at += 1 + leb128(cursor)
        need(at < len(result), f"{what}: a position after the end")
        positions[i] = at
    result[positions] = np.frombuffer(cursor.take(count * w), np.uint8).reshape(-1, w)
    cursor.end()
    return result.reshape(-1)


class BitReader:
    """Bits of a few bytes, least significant first."""

    def __init__(self, data, what):
        self.bits, self.left, self.what = int.from_bytes(data, "little"), 8 * len(data), what

    def take(self, count):
        need(count <= self.left, f"{self.what}: cut")
        value = self.bits & ((1 << count) - 1)
        self.bits >>= count
        self.left -= count
        return value

    def gamma(self):
        zeros = 0
        while self.take(1) == 0:
            zeros += 1
            need(zeros <= 15, f"{self.what}: gamma of more than 15 bits")
        return (1 << zeros) + self.take(zeros)

    def rice(self, k):
        quotient = self.gamma() - 1
        return quotient << k | self.take(k)

    def end(self):
        need(self.left < 8 and self.bits == 0, f"{self.what}: more than the tables need")


def read_table(bits):
    """The frequencies of the 256 symbols."""
    table = []
    for _half in range(2):
        count = bits.gamma() - 1
        need(count <= 128, f"{bits.what}: {count} frequencies")
        half = []
        for i in range(count):
            guess = half[i - 2] if i >= 2 else 0
            z = bits.rice(max(0, (guess + 1).bit_length() - 2))
            frequency = guess + (-((z + 1) >> 1) if z & 1 else z >> 1)
            need(0 <= frequency <= 1024, f"{bits.what}: a frequency of {frequency}")
            need(frequency == 0 or i >> 1 < 56, f"{bits.what}: token {i >> 1}")
            half.append(frequency)
        table += half + [0] * (128 - count)
    need(sum(table) == 1024, f"{bits.what}: frequencies do not sum to 1024")
    return table


def read_symbols(tables, lane_tables, states, words, what):
    """The symbols of the lanes, 16 at a time."""
    frequencies = np.array(tables, np.int64)
    below = np.cumsum(frequencies, axis=1) - frequencies
    of_slot = np.concatenate([np.repeat(np.arange(256), row) for row in frequencies])
    table_of_slot = np.repeat(np.arange(len(tables)), 1024)
    factor = frequencies[table_of_slot, of_slot]
    term = np.tile(np.arange(1024), len(tables)) - below[table_of_slot, of_slot]
    slots = (lane_tables.astype(np.int64) * 1024).reshape(-1, 16)
    state, words, at = states.astype(np.int64), words.astype(np.int64), 0
    for row in slots:
        row += state & 1023
        state = factor[row] * (state >> 10) + term[row]
        low = state < 32768
        count = np.count_nonzero(low)
        if count:
            need(at + count <= len(words), f"{what}: too few words")
            state[low] = state[low] << 16 | words[at : at + count]
            at += count
    need(at == len(words), f"{what}: words left over")
    need((state == 32768).all(), f"{what}: a state does not end at 32768")
    return of_slot[slots.reshape(-1)]


def read_magnitudes(tokens, raw, what):
    k = np.maximum((tokens >> 2) - 1, 0)
    ends = np.cumsum(k)
    total = int(ends[-1]) if len(ends) else 0
    need(len(raw) == -(-total // 8), f"{what}: {len(raw)} bytes of raw bits for {total} bits")
    need(total % 8 == 0 or raw[-1] >> total % 8 == 0, f"{what}: bits after the last raw bit")
    padded = np.concatenate([raw, np.zeros(3, np.uint8)]).astype(np.int64)
    begins = ends - k
    at = begins >> 3
    bits = (padded[at] | padded[at + 1] << 8 | padded[at + 2] << 16) >> (begins & 7) & ((1 << k) - 1)
    return np.where(tokens < 4, tokens, (4 | tokens & 3) << k | bits)


def moved_lanes(cursor, x, shift):
    """The lanes of a frame from those of its prediction, as far as they are rANS; and the flags."""
    what = cursor.what
    top, flags, starts, n_words, n_raw, n_tables, n_bitmap = cursor.numbers("BBHIIHI")
    need(flags < 4, f"{what}: flags {flags}")
    need(starts & 1, f"{what}: context 0 begins no table")
    bits = BitReader(cursor.take(n_tables), f"{what}: tables")
    tables = [read_table(bits) for _ in range(bin(starts).count("1"))]
    bits.end()

    blocks = np.concatenate([x, np.zeros(-len(x) % 16, np.uint16)]).reshape(-1, 16)
    chosen = np.ones(len(blocks), bool)
    need(flags & 1 or n_bitmap == 0, f"{what}: a bitmap without its flag")
    if flags & 1:
        bitmap = unzstd(cursor.take(n_bitmap), -(-len(blocks) // 8), f"{what}: bitmap")
        bitmap = np.unpackbits(np.frombuffer(bitmap, np.uint8), bitorder="little").astype(bool)
        need(not bitmap[len(blocks) :].any(), f"{what}: bits after the last block")
        chosen = bitmap[: len(blocks)]
    states = cursor.column(np.uint32, 16)
    need(((states >= 32768) & (states < 2**31)).all(), f"{what}: a state out of range")
    words = cursor.column(np.uint16, n_words)
    raw = cursor.column(np.uint8, n_raw)

    lanes = blocks[chosen].reshape(-1).astype(np.int64)
    contexts = np.clip(top - ((lanes & 0x7FFF) >> shift), 0, 15)
    table_of = np.cumsum([0] + [starts >> c & 1 for c in range(1, 16)])
    symbols = read_symbols(tables, table_of[contexts], states, words, what)
    m = read_magnitudes(symbols >> 1 & 63, raw, what)
    d = np.where(symbols & 1, ~m, m)
    y = ((lanes & 0x7FFF) + d & 0xFFFF) ^ (lanes & 0x8000) ^ (symbols >> 7 << 15)
    result = blocks.copy()
    result[chosen] = y.reshape(-1, 16).astype(np.uint16)
    result = result.reshape(-1)
    need(not result[len(x) :].any(), f"{what}: a lane after the last that is not zero")
    return result[: len(x)], flags


def decode_coded(record, prediction, dtype, what):
    need(dtype in ("BF16", "F16", "F32"), f"{what}: coded, of {dtype}")
    cursor = Cursor(record, what)
    halves = np.frombuffer(prediction.tobytes(), "<u2").astype(np.uint16)
    if dtype == "F32":
        upper, flags = moved_lanes(cursor, halves[1::2], 7)
        size = 2 * len(upper)
        rest = cursor.rest()
        planes = unzstd(rest, size, f"{what}: lower halves") if flags & 2 else rest
        need(len(planes) == size, f"{what}: {len(planes)} bytes of lower halves")
        lower = joined(planes, 2).view("<u2") ^ halves[0::2]
        result = np.stack([lower, upper], axis=1)
    else:
        result, flags = moved_lanes(cursor, halves, 10 if dtype == "F16" else 7)
        need(not flags & 2, f"{what}: lower halves of {dtype}")
        cursor.end()
    return np.frombuffer(result.astype("<u2").tobytes(), np.uint8)


def decode(frame, delta, parent):
    """The bytes of a frame, checked."""
    what = frame_name(frame)
    prediction = predict(frame, parent)
    encoding = ENCODINGS[frame.encoding]
    record = None if encoding == "copy" else delta.records[frame.record]
    w = width(frame.tensor.dtype)
    if encoding == "copy":
        result = prediction
    elif encoding == "raw":
        result = np.frombuffer(record, np.uint8)
    elif encoding == "zstd":
        result = np.frombuffer(unzstd(record, frame.size, what), np.uint8)
    elif encoding == "planes":
        result = joined(unzstd(record, frame.size, what), w)
    elif encoding == "xor":
        result = joined(unzstd(record, frame.size, what), w) ^ prediction
    elif encoding == "sparse":
        result = decode_sparse(record, prediction, w, what)
    else:
        result = decode_coded(record, prediction, frame.tensor.dtype, what)
    need(len(result) == frame.size, f"{what}: {len(result)} bytes instead of {frame.size}")
    result = result.tobytes()
    need(xxh64_intdigest(result) == frame.checksum, f"{what}: its xxh64 is another")
    return result


def check_parent(delta, parent):
    identity, reference = parent.hashes()
    need(identity == delta.parent_identity, "parent: another model than that of the delta")
    need(reference == delta.parent_hash, "parent: its parent_hash is another")
    for tensor in delta.tensors:
        if tensor.source is None:
            continue
        found = parent.tensors.get(tensor.source.name)
        need(found is not None, f"source of {tensor.name!r}: the parent has no {tensor.source.name!r}")
        same = (found.dtype, found.shape) == (tensor.source.dtype, tensor.source.shape)
        need(same, f"source of {tensor.name!r}: {tensor.source.name!r} of the parent is another")


def reconstruct(delta, parent, out):
    frames = iter(delta.frames)
    for shard in delta.shards:
        path = Path(out, PurePosixPath(shard.path))
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(path.name + ".part")
        digest = hashlib.sha256()
        try:
            with open(part, "wb") as file:
                for chunk in shard_chunks(shard, frames, delta, parent):
                    digest.update(chunk)
                    file.write(chunk)
            need(digest.digest() == shard.sha256, f"{shard.path}: its SHA-256 is another")
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)


def shard_chunks(shard, frames, delta, parent):
    yield struct.pack("<Q", len(shard.header))
    yield shard.header
    for tensor in shard.tensors:
        for _ in range(-(-tensor.size // FRAME)):
            yield decode(next(frames), delta, parent)


def describe(delta):
    frames = {name: {"frames": 0, "bytes": 0, "stored": 0} for name in ENCODINGS}
    seen = set()
    for frame in delta.frames:
        row = frames[ENCODINGS[frame.encoding]]
        row["frames"] += 1
        row["bytes"] += frame.size
        if frame.record != COPY_RECORD and frame.record not in seen:
            seen.add(frame.record)
            row["stored"] += len(delta.records[frame.record])
    source = lambda of: of and {"name": of.name, "dtype": of.dtype, "shape": of.shape}  # noqa: E731
    return {
        "bytes": delta.size,
        "index_bytes": delta.index_bytes,
        "records": len(delta.records),
        "parent": delta.parent_identity.hex(),
        "parent_hash": delta.parent_hash.hex(),
        "shards": [
            {"path": shard.path, "bytes": shard.size, "sha256": shard.sha256.hex(), "tensors": len(shard.tensors)}
            for shard in delta.shards
        ],
        "tensors": [
            {"name": one.name, "dtype": one.dtype, "shape": one.shape, "bytes": one.size, "source": source(one.source)}
            for one in delta.tensors
        ],
        "frames": frames,
    }


def main(arguments):
    if len(arguments) == 2 and arguments[0] == "--describe":
        print(json.dumps(describe(Delta(map_file(arguments[1])))))
    elif len(arguments) == 3:
        delta = Delta(map_file(arguments[0]))
        parent = Parent(arguments[1])
        check_parent(delta, parent)
        reconstruct(delta, parent, arguments[2])
    else:
        raise Wrong("usage: wdelta_v2.py DELTA PARENT_DIR OUT_DIR | wdelta_v2.py --describe DELTA")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (Wrong, OSError) as error:
        sys.exit(" ".join(str(error).split()))
