import { DTYPE_BITS, type Dtype, type FloatDtype, itemBytes } from './dtypes.ts'
import { CodecError } from './errors.ts'

/** Bit patterns of float32: the sign, and a quiet NaN. */
const SIGN = 0x80000000
const QUIET_NAN = 0x7fc00000

type Widening = (view: DataView, count: number, out: Float32Array) => void

/** Widening of one element type that DataView can read. */
const each =
  (item: number, read: (view: DataView, at: number) => number): Widening =>
  (view, count, out) => {
    for (let i = 0; i < count; i++) out[i] = read(view, i * item)
  }

/** Widening to float32 bit patterns, which keeps a NaN's payload; as a JavaScript number it may be lost. */
const byBits =
  (item: number, read: (view: DataView, at: number) => number): Widening =>
  (view, count, out) => {
    const bits = new Uint32Array(out.buffer, out.byteOffset, count)
    for (let i = 0; i < count; i++) bits[i] = read(view, i * item)
  }

/** Widening by a table of the bit patterns of all 256 values of a byte. */
const byTable = (table: Uint32Array): Widening => byBits(1, (view, at) => table[view.getUint8(at)]!)

/**
 * Widening of numbers, with NaN apart: whether assigning a NaN keeps its payload depends on whether the engine has compiled the code.
 * `nan` gives the bit pattern of the NaN at `at` of the view, made quiet, as processors make it.
 */
const withNaN =
  (
    item: number,
    read: (view: DataView, at: number) => number,
    nan: (view: DataView, at: number) => number,
  ): Widening =>
  (view, count, out) => {
    const bits = new Uint32Array(out.buffer, out.byteOffset, count)
    for (let i = 0; i < count; i++) {
      const value = read(view, i * item)
      if (Number.isNaN(value)) bits[i] = nan(view, i * item)
      else out[i] = value
    }
  }

const WIDENINGS: Partial<Record<Dtype, Widening>> = {
  BOOL: each(1, (view, at) => (view.getUint8(at) === 0 ? 0 : 1)),
  U8: each(1, (view, at) => view.getUint8(at)),
  I8: each(1, (view, at) => view.getInt8(at)),
  F8_E5M2: byTable(floats8(5, 15, 'ieee')),
  F8_E4M3: byTable(floats8(4, 7, 'fn')),
  F8_E8M0: byTable(bitsOf(Array.from({ length: 255 }, (_, byte) => 2 ** (byte - 127)))),
  F8_E4M3FNUZ: byTable(floats8(4, 8, 'fnuz')),
  F8_E5M2FNUZ: byTable(floats8(5, 16, 'fnuz')),
  I16: each(2, (view, at) => view.getInt16(at, true)),
  U16: each(2, (view, at) => view.getUint16(at, true)),
  F16: withNaN(2, (view, at) => view.getFloat16(at, true), fromF16NaN),
  BF16: byBits(2, (view, at) => view.getUint16(at, true) << 16),
  I32: each(4, (view, at) => view.getInt32(at, true)),
  U32: each(4, (view, at) => view.getUint32(at, true)),
  F32: byBits(4, (view, at) => view.getUint32(at, true)),
  C64: byBits(8, (view, at) => view.getUint32(at, true)),
  F64: withNaN(8, (view, at) => view.getFloat64(at, true), fromF64NaN),
  I64: each(8, (view, at) => fromInt64(view.getBigInt64(at, true))),
  U64: each(8, (view, at) => fromInt64(view.getBigUint64(at, true))),
}

/** True for the dtypes that {@link widen} takes: those whose elements are whole bytes. */
export function canWiden(dtype: Dtype): boolean {
  return DTYPE_BITS[dtype] % 8 === 0
}

/**
 * Widens `count` little-endian elements, which may be unaligned, to float32 as numpy's `astype(float32)` does: round to nearest
 * even where float32 is narrower, the real part of C64. A NaN of BF16, F32 or C64 keeps all its bits; of other dtypes it becomes
 * quiet and keeps its sign and, of F16 and F64, the upper bits of its payload.
 * @throws CodecError `sub-byte-dtype` for F4 and F6, `part-length` if there are too few bytes
 */
export function widen(dtype: Dtype, bytes: Uint8Array, count: number, out: Float32Array): void {
  const needed = count * itemBytes(dtype)
  if (bytes.length < needed) {
    throw new CodecError(
      'model',
      'part-length',
      `expected ${needed} bytes of ${dtype}, got ${bytes.length}`,
    )
  }
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  WIDENINGS[dtype]!(view, count, out)
}

/**
 * Casts float32 values to `dtype` into `out`, little-endian: round to nearest even, infinity beyond the range. A NaN stays a NaN:
 * with all its bits in F32, else quiet with its sign and the payload bits that fit.
 */
export function narrow(dtype: FloatDtype, values: Float32Array, out: Uint8Array): void {
  const view = new DataView(out.buffer, out.byteOffset, out.byteLength)
  const bits = new Uint32Array(values.buffer, values.byteOffset, values.length)
  const item = itemBytes(dtype)
  for (let i = 0; i < values.length; i++) {
    const at = i * item
    if (dtype === 'F32') view.setUint32(at, bits[i]!, true)
    else if (dtype === 'BF16') view.setUint16(at, toBf16(bits[i]!), true)
    else if (dtype === 'F16' && isNaNBits(bits[i]!)) view.setUint16(at, toF16NaN(bits[i]!), true)
    else if (dtype === 'F16') view.setFloat16(at, values[i]!, true)
    else if (isNaNBits(bits[i]!)) setF64NaN(view, at, bits[i]!)
    else view.setFloat64(at, values[i]!, true)
  }
}

function toBf16(bits: number): number {
  if (isNaNBits(bits)) return (bits >>> 16) | 0x40
  return (bits + 0x7fff + ((bits >>> 16) & 1)) >>> 16
}

function toF16NaN(bits: number): number {
  return ((bits >>> 16) & 0x8000) | 0x7e00 | ((bits >>> 13) & 0x3ff)
}

function fromF16NaN(view: DataView, at: number): number {
  const half = view.getUint16(at, true)
  return ((half & 0x8000) << 16) | QUIET_NAN | ((half & 0x3ff) << 13)
}

function fromF64NaN(view: DataView, at: number): number {
  const high = view.getUint32(at + 4, true)
  return (high & SIGN) | QUIET_NAN | ((high & 0x7ffff) << 3) | (view.getUint32(at, true) >>> 29)
}

function setF64NaN(view: DataView, at: number, bits: number): void {
  view.setUint32(at, bits << 29, true)
  view.setUint32(at + 4, (bits & SIGN) | 0x7ff80000 | ((bits >>> 3) & 0x7ffff), true)
}

function isNaNBits(bits: number): boolean {
  return (bits & 0x7fffffff) > 0x7f800000
}

/**
 * A 64-bit integer as a double that rounds to the same float32. Beyond 53 bits, the low ones are folded into one sticky bit:
 * rounding to double first and then to float32 would round twice.
 */
function fromInt64(value: bigint): number {
  if (value >= -(2n ** 53n) && value <= 2n ** 53n) return Number(value)
  const high = value >> 12n
  const sticky = value & 0xfffn ? 1n : 0n
  return Number(high | sticky) * 4096
}

/**
 * All values of an 8-bit float with `exponentBits` and `bias`. `ieee`: infinities and NaNs; `fn`: no infinity, NaN with all bits set;
 * `fnuz`: no infinity, no -0, its pattern is the one NaN.
 * Source: the FP8 formats of ml_dtypes and safetensors.
 */
function floats8(exponentBits: number, bias: number, kind: 'ieee' | 'fn' | 'fnuz'): Uint32Array {
  const mantissaBits = 7 - exponentBits
  const top = 2 ** exponentBits - 1
  const positive = Array.from({ length: 128 }, (_, byte) => {
    const exponent = byte >> mantissaBits
    const mantissa = byte & (2 ** mantissaBits - 1)
    if (kind === 'fn' && byte === 0x7f) return NaN
    if (kind === 'ieee' && exponent === top) return mantissa === 0 ? Infinity : NaN
    const fraction = mantissa / 2 ** mantissaBits
    return exponent === 0 ? fraction * 2 ** (1 - bias) : (1 + fraction) * 2 ** (exponent - bias)
  })
  const bits = bitsOf(positive)
  for (let byte = 0; byte < 128; byte++) bits[byte + 128] = bits[byte]! | SIGN
  if (kind === 'fnuz') bits[0x80] = SIGN | QUIET_NAN
  return bits
}

/** The float32 bit patterns of the values of a byte; quiet NaN for those without a value. */
function bitsOf(values: readonly number[]): Uint32Array {
  const bits = new Uint32Array(256).fill(QUIET_NAN)
  const floats = new Float32Array(bits.buffer)
  values.forEach((value, i) => {
    if (!Number.isNaN(value)) floats[i] = value
  })
  return bits
}
