import type { Dtype } from '../base/dtypes.ts'
import { CodecError } from '../base/errors.ts'
import type { Compression } from '../base/zstd.ts'
import type { LaneKind, LaneStream } from '../kernels/lane-machine.ts'
import type { FrameKernels } from './frame-kernels.ts'
import { chooseTables, readTables, tableStarts, writeTables } from './lane-tables.ts'

/** Bytes before the tables: see `FORMAT.md`, `coded`. */
const PREFIX_BYTES = 18
/** Bytes of the 16 states. */
const STATES_BYTES = 64
/** The flags: see `FORMAT.md`. */
const HAS_BITMAP = 1
const LOWS_COMPRESSED = 2
/** Lanes of a block: what a bitmap has one bit for. */
const BLOCK_LANES = 16
/** Least share of equal blocks for which a bitmap pays. */
const SKIPPED_PART = 0.03
/** zstd level for bitmaps and lower halves. */
const LEVEL = 1

/** How elements of a dtype are taken as lanes; null for a dtype that cannot be. */
export function laneKind(dtype: Dtype): LaneKind | null {
  switch (dtype) {
    case 'BF16':
      return { shift: 7, halves: false }
    case 'F16':
      return { shift: 10, halves: false }
    case 'F32':
      return { shift: 7, halves: true }
    default:
      return null
  }
}

/**
 * The `coded` record of the frame that the machine compared last, valid until the next record is made. `changedPart` (0..1) is the share of
 * its blocks of 32 bytes that differ. Null as soon as it is clear that the record would not be shorter than `limit` bytes, which is at most
 * FRAME_BYTES.
 */
export function encodeCodedFrame(
  { machine, compression }: FrameKernels,
  kind: LaneKind,
  changedPart: number,
  limit: number,
): Uint8Array | null {
  const { lanes } = machine
  const skip = 1 - changedPart >= SKIPPED_PART
  const model = lanes.model(kind, skip)
  const tables = chooseTables(model)
  const tableBytes = writeTables(tables)
  const bitmap = skip ? compression.compress(lanes.bitmap(), LEVEL) : new Uint8Array(0)
  const fixed = PREFIX_BYTES + tableBytes.length + bitmap.length + STATES_BYTES + model.rawBytes
  if (fixed + tables.bits / 8 >= limit) return null
  const lows = kind.halves ? encodeLows(compression, lanes.lows()) : null
  const { states, words, raw } = lanes.code(tables)
  const size = fixed + words.length + (lows?.bytes.length ?? 0)
  if (size >= limit) return null

  const record = lanes.record.subarray(0, size)
  const view = new DataView(record.buffer, record.byteOffset, size)
  view.setUint8(0, model.top)
  view.setUint8(1, (skip ? HAS_BITMAP : 0) | (lows?.compressed ? LOWS_COMPRESSED : 0))
  view.setUint16(2, tableStarts(tables), true)
  view.setUint32(4, words.length / 2, true)
  view.setUint32(8, raw.length, true)
  view.setUint16(12, tableBytes.length, true)
  view.setUint32(14, bitmap.length, true)
  let at = PREFIX_BYTES
  for (const part of [tableBytes, bitmap, states, words, raw, lows?.bytes]) {
    if (!part) continue
    record.set(part, at)
    at += part.length
  }
  return record
}

function encodeLows(compression: Compression, planes: Uint8Array) {
  const bytes = compression.compress(planes, LEVEL)
  return bytes.length < planes.length
    ? { bytes, compressed: true }
    : { bytes: planes, compressed: false }
}

/**
 * Turns the prediction in `frame` into the frame that a `coded` record holds.
 * @throws CodecError `coded` for a malformed record, `zstd`
 */
export function restoreCodedFrame(
  tools: FrameKernels,
  kind: LaneKind,
  record: Uint8Array,
  frame: Uint8Array,
): void {
  tools.machine.lanes.decode(readCoded(tools.compression, kind, record, frame.length), frame)
}

function readCoded(
  compression: Compression,
  kind: LaneKind,
  record: Uint8Array,
  frameBytes: number,
): LaneStream {
  if (record.length < PREFIX_BYTES) refuse(`expected at least ${PREFIX_BYTES} bytes`)
  const view = new DataView(record.buffer, record.byteOffset, record.byteLength)
  const flags = view.getUint8(1)
  if (flags & ~(HAS_BITMAP | LOWS_COMPRESSED)) refuse(`expected flags below 4, got ${flags}`)
  if (flags & LOWS_COMPRESSED && !kind.halves) refuse('there are no lower halves')
  let at = PREFIX_BYTES
  const take = (bytes: number): Uint8Array => {
    if (bytes > record.length - at) refuse(`expected ${bytes} bytes at ${at} of ${record.length}`)
    at += bytes
    return record.subarray(at - bytes, at)
  }
  const tables = readTables(view.getUint16(2, true), take(view.getUint16(12, true)))
  const bitmapBytes = take(view.getUint32(14, true))
  const count = frameBytes / (kind.halves ? 4 : 2)
  const states = take(STATES_BYTES)
  const words = take(view.getUint32(4, true) * 2)
  const raw = take(view.getUint32(8, true))
  const rest = take(record.length - at)
  if (!kind.halves && rest.length > 0) refuse(`${rest.length} bytes are left over`)
  const hasBitmap = (flags & HAS_BITMAP) !== 0
  if (!hasBitmap && bitmapBytes.length > 0) refuse('a bitmap without its flag')
  return {
    kind,
    top: view.getUint8(0),
    tables,
    states,
    words,
    raw,
    bitmap: hasBitmap ? readBitmap(compression, bitmapBytes, count) : null,
    lows: kind.halves ? readLows(compression, rest, count, (flags & LOWS_COMPRESSED) !== 0) : null,
  }
}

function readBitmap(compression: Compression, bytes: Uint8Array, lanes: number): Uint8Array {
  const blocks = Math.ceil(lanes / BLOCK_LANES)
  const bitmap = compression.decompress(bytes, Math.ceil(blocks / 8))
  const unused = blocks % 8
  if (unused !== 0 && bitmap.at(-1)! >> unused !== 0)
    refuse('the bitmap names blocks that are not there')
  return bitmap
}

function readLows(
  compression: Compression,
  bytes: Uint8Array,
  count: number,
  compressed: boolean,
): Uint8Array {
  if (compressed) return compression.decompress(bytes, count * 2)
  if (bytes.length !== count * 2) refuse(`expected ${count * 2} lower bytes, got ${bytes.length}`)
  return bytes
}

function refuse(message: string): never {
  throw new CodecError('delta', 'coded', `a coded frame: ${message}`)
}
