import { DTYPE_BITS, type Dtype, type FloatDtype, isFloat } from '../../../src/codec/base/dtypes.ts'
import type { Random } from '../random.ts'

/** Sign, exponent and mantissa of a float's upper 16 bits: bits of the mantissa that are there, and the exponent of 1. */
const UPPER: Readonly<Record<FloatDtype, { shift: number; one: number; top: number }>> = {
  BF16: { shift: 7, one: 127, top: 255 },
  F32: { shift: 7, one: 127, top: 255 },
  F16: { shift: 10, one: 15, top: 31 },
  F64: { shift: 4, one: 1023, top: 2047 },
}

/** Bytes of what changes as one: an element, or a byte of elements that are narrower. */
export function unitBytes(dtype: Dtype): number {
  return Math.max(1, DTYPE_BITS[dtype] >> 3)
}

export const FILLS = ['weights', 'noise', 'constant', 'ramp'] as const
export type Fill = (typeof FILLS)[number]

/** `length` bytes of a tensor: as trained, of any bits, one value throughout, or counting up over and over. */
export function filled(random: Random, dtype: Dtype, length: number, fill: Fill): Uint8Array {
  const width = unitBytes(dtype)
  if (fill === 'noise') return random.bytes(length)
  if (fill === 'weights')
    return isFloat(dtype) ? weights(random, dtype, length) : small(random, dtype, length)
  const bytes = new Uint8Array(length)
  const value = weights(random, isFloat(dtype) ? dtype : 'F64', 8)
  const period = 1 + random.below(200)
  for (let i = 0; i < length / width; i++) {
    if (fill === 'constant') bytes.set(value.subarray(8 - width), i * width)
    else bytes[i * width] = i % period
  }
  return bytes
}

/** Floats below 1, the smaller the rarer, as weights are. */
function weights(random: Random, dtype: FloatDtype, length: number): Uint8Array {
  const { shift, one } = UPPER[dtype]
  const bytes = random.bytes(length)
  const width = unitBytes(dtype)
  for (let at = width - 2; at < length; at += width) {
    const bits = random.next()
    const exponent = Math.max(1, one - 2 - Math.clz32(bits))
    const upper = ((bits & 1) << 15) | (exponent << shift) | ((bits >>> 1) & ((1 << shift) - 1))
    bytes[at] = upper & 255
    bytes[at + 1] = upper >> 8
  }
  return bytes
}

/** Integers of one byte, with its sign, in their width; of BOOL 0 and 1. */
function small(random: Random, dtype: Dtype, length: number): Uint8Array {
  const width = unitBytes(dtype)
  const bytes = random.bytes(length)
  if (dtype === 'BOOL') return bytes.map(byte => byte & 1)
  for (let at = 0; at < length; at += width) {
    bytes.fill(dtype.startsWith('I') && bytes[at]! > 127 ? 255 : 0, at + 1, at + width)
  }
  return bytes
}

export const SPECIALS = ['NaN payloads', 'negative zero', 'infinities', 'subnormals'] as const

/** Puts every kind of special float into some elements, as many as there are room for. */
export function sprinkle(random: Random, dtype: FloatDtype, bytes: Uint8Array): void {
  const width = unitBytes(dtype)
  const { shift, top } = UPPER[dtype]
  const count = bytes.length / width
  const each = Math.max(1, Math.min(20, count >> 6))
  for (const special of SPECIALS.flatMap(special => Array<typeof special>(each).fill(special))) {
    const element = bytes.subarray(random.below(count) * width).subarray(0, width)
    const exponent = special === 'NaN payloads' || special === 'infinities' ? top : 0
    const payload = special === 'NaN payloads' || special === 'subnormals'
    const sign = special === 'negative zero' || random.chance(50) ? 0x8000 : 0
    // A payload may be quiet or signalling, and have any lower bits: one is set at least.
    const mantissa = payload ? 1 + random.below((1 << shift) - 1) : 0
    element.fill(0)
    if (payload) element.set(random.bytes(width))
    const upper = sign | (exponent << shift) | mantissa
    element[width - 2] = upper & 255
    element[width - 1] = upper >> 8
  }
}

export const CHANGES = [
  'identical',
  'dense',
  'sparse',
  'one element',
  'sign flips',
  'run',
  'unrelated',
  'constant',
  'specials',
] as const
export type Change = (typeof CHANGES)[number]

/** The bytes of a tensor after a change of its values; always a copy. */
export function changed(
  random: Random,
  dtype: Dtype,
  bytes: Uint8Array,
  change: Change,
): Uint8Array {
  if (change === 'unrelated') return random.bytes(bytes.length)
  if (change === 'constant') return filled(random, dtype, bytes.length, 'constant')
  const result = bytes.slice()
  const width = unitBytes(dtype)
  const count = bytes.length / width
  if (count === 0 || change === 'identical') return result
  const magnitude = 1 + random.below(width === 1 ? 3 : width === 2 ? 5 : 17)
  const nudge = (i: number) => {
    const step = 1 + random.below(1 << magnitude)
    add(result.subarray(i * width, (i + 1) * width), random.chance(50) ? step : -step)
  }
  switch (change) {
    case 'dense':
      for (let i = 0; i < count; i++) nudge(i)
      break
    case 'sparse':
      for (let i = 0; i < count / 150; i++) nudge(random.below(count))
      break
    case 'one element':
      nudge(random.below(count))
      break
    case 'run': {
      const start = random.below(count)
      const end = Math.min(count, start + 1 + random.below(count))
      for (let i = start; i < end; i++) nudge(i)
      break
    }
    case 'sign flips': {
      const percent = random.pick([1, 50, 100])
      for (let i = 0; i < count; i++)
        if (random.chance(percent)) result[(i + 1) * width - 1]! ^= 128
      break
    }
    case 'specials':
      if (isFloat(dtype)) sprinkle(random, dtype, result)
      else nudge(random.below(count))
  }
  return result
}

/** Adds to a little-endian integer, modulo its width. */
function add(element: Uint8Array, step: number): void {
  let carry = step
  for (let i = 0; i < element.length && carry !== 0; i++) {
    carry += element[i]!
    element[i] = carry & 255
    carry >>= 8
  }
}

/** Dtypes that {@link cast} reads. */
export type NumberDtype = FloatDtype | 'I8' | 'U8' | 'I16' | 'U16' | 'I32' | 'U32' | 'I64' | 'U64'

const READ: Readonly<Record<NumberDtype, (view: DataView, at: number) => number>> = {
  I8: (view, at) => view.getInt8(at),
  U8: (view, at) => view.getUint8(at),
  I16: (view, at) => view.getInt16(at, true),
  U16: (view, at) => view.getUint16(at, true),
  I32: (view, at) => view.getInt32(at, true),
  U32: (view, at) => view.getUint32(at, true),
  I64: (view, at) => Number(view.getBigInt64(at, true)),
  U64: (view, at) => Number(view.getBigUint64(at, true)),
  F16: (view, at) => view.getFloat16(at, true),
  BF16: (view, at) => {
    const word = new DataView(new ArrayBuffer(4))
    word.setUint16(2, view.getUint16(at, true), true)
    return word.getFloat32(0, true)
  },
  F32: (view, at) => view.getFloat32(at, true),
  F64: (view, at) => view.getFloat64(at, true),
}

/** True for a dtype whose values {@link cast} takes. */
export function isNumber(dtype: Dtype): dtype is NumberDtype {
  return dtype in READ
}

/** The values as another dtype, rounded to nearest even. A NaN becomes one with random bits: engines differ in what they keep. */
export function cast(
  random: Random,
  from: NumberDtype,
  bytes: Uint8Array,
  to: FloatDtype,
): Uint8Array {
  const [before, after] = [unitBytes(from), unitBytes(to)]
  const source = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  const result = new Uint8Array((bytes.length / before) * after)
  const view = new DataView(result.buffer)
  for (let i = 0; i < bytes.length / before; i++) {
    const value = READ[from](source, i * before)
    const at = i * after
    if (Number.isNaN(value)) {
      const { shift, top } = UPPER[to]
      view.setUint16(at + after - 2, (top << shift) | (1 + random.below((1 << shift) - 1)), true)
    } else if (to === 'F64') view.setFloat64(at, value, true)
    else if (to === 'F32') view.setFloat32(at, value, true)
    else if (to === 'F16') view.setFloat16(at, value, true)
    else view.setUint16(at, bfloat16(value), true)
  }
  return result
}

function bfloat16(value: number): number {
  const word = new DataView(new ArrayBuffer(4))
  word.setFloat32(0, value)
  const bits = word.getUint32(0)
  return (bits + 0x7fff + ((bits >>> 16) & 1)) >>> 16
}
