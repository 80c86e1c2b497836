import { type Dtype, itemBytes } from '../base/dtypes.ts'
import { CodecError } from '../base/errors.ts'
import { FRAME_ELEMENTS } from '../base/limits.ts'
import type { Int4Run, QuantizedRun } from './machine.ts'

/** Checks the arguments of a load. @throws CodecError `frame-size` for more elements than a frame has, `part-length` for too few bytes */
export function checkElements(dtype: Dtype, bytes: Uint8Array, count: number): void {
  if (!Number.isInteger(count) || count < 0 || count > FRAME_ELEMENTS) {
    const message = `a frame has at most ${FRAME_ELEMENTS} elements, got ${count}`
    throw new CodecError('model', 'frame-size', message)
  }
  checkLength(`${count} elements of ${dtype}`, bytes, count * itemBytes(dtype))
}

/**
 * How many elements `indices` lists, at most `count`.
 * @throws CodecError `part-length` if there are more, or if there are fewer values or codes than they take.
 */
export function checkInt4(run: Int4Run, count: number): number {
  const listed = checkListed(run.indices, run.values, 2, count)
  checkLength('int4 codes', run.packed, (run.nibble + count - listed + 1) >> 1)
  return listed
}

/** As {@link checkInt4}, with values of `width` bytes and no codes. */
export function checkListed(
  indices: Uint8Array,
  values: Uint8Array,
  width: number,
  count: number,
): number {
  const listed = indices.length / 8
  if (!Number.isInteger(listed) || listed > count) {
    const message = `indices: expected at most ${count} times 8 bytes, got ${indices.length}`
    throw new CodecError('delta', 'part-length', message)
  }
  checkLength('listed values', values, listed * width)
  return listed
}

/** How many rows the run touches. @throws CodecError `part-length` if there are fewer scales or signs. */
export function checkQuantized(run: QuantizedRun, count: number): number {
  const rows = Math.ceil((run.column + count) / run.columns)
  checkLength('signs', run.signs, Math.ceil((run.bit + count) / 8))
  checkLength('scales', run.scales, rows * 2)
  return rows
}

/**
 * The offsets, within a frame of `count` elements that starts at element `first` of its tensor, of int64 indices.
 * @throws CodecError `index-order` if they do not strictly increase within the frame.
 */
export function readOffsets(indices: Uint8Array, first: number, count: number): Uint32Array {
  const view = new DataView(indices.buffer, indices.byteOffset, indices.length)
  const offsets = new Uint32Array(indices.length / 8)
  let last = -1
  for (let i = 0; i < offsets.length; i++) {
    const index = view.getUint32(i * 8, true) + view.getInt32(i * 8 + 4, true) * 2 ** 32
    const offset = index - first
    if (offset <= last || offset >= count) {
      const message = `got index ${index}, expected more than ${first + last}, less than ${first + count}`
      throw new CodecError('delta', 'index-order', message)
    }
    offsets[i] = offset
    last = offset
  }
  return offsets
}

/** The 16 float32 values that int4 codes stand for; the arithmetic is `q / 15 * (scale * 15) + zero point` in float32. */
export function int4Table(scale: number, zeroPoint: number): Float32Array {
  const f = Math.fround
  const range = f(scale * 15)
  return Float32Array.from({ length: 16 }, (_, q) => f(f(f(q / 15) * range) + f(zeroPoint)))
}

function checkLength(what: string, bytes: Uint8Array, expected: number): void {
  if (bytes.length >= expected) return
  const message = `${what}: expected ${expected} bytes, got ${bytes.length}`
  throw new CodecError('delta', 'part-length', message)
}
