import type { Test } from 'tap'
import type { FloatDtype } from '../../../src/codec/base/dtypes.ts'
import { Random } from '../../support/random.ts'

/** The bytes of an array, without a copy. */
export function bytes(array: ArrayBufferView): Uint8Array {
  return new Uint8Array(array.buffer, array.byteOffset, array.byteLength)
}

/** The same bytes, `offset` bytes into a buffer of their own. */
export function unaligned(source: Uint8Array, offset: number): Uint8Array {
  const moved = new Uint8Array(source.length + offset).subarray(offset)
  moved.set(source)
  return moved
}

/** Bytes as one comparable text. */
export function bits(view: Uint8Array): string {
  return Buffer.from(view.buffer, view.byteOffset, view.length).toString('latin1')
}

/** Zeros, subnormals, halves, extremes, infinities and NaN of several payloads, each with both signs. */
export function specialFloats(): Float32Array<ArrayBuffer> {
  const magnitudes = [
    0, 1, 0x007fffff, 0x00800000, 0x33000000, 0x33000001, 0x387fe000, 0x38800000, 0x3f7fffff,
    0x3f800000, 0x3f808000, 0x477fefff, 0x477ff000, 0x7f7f7fff, 0x7f7f8000, 0x7f7fffff, 0x7f800000,
    0x7fc00000, 0x7fc12345, 0x7fffffff,
  ]
  const both = magnitudes.flatMap(magnitude => [magnitude, (magnitude | 0x80000000) >>> 0])
  return new Float32Array(Uint32Array.from(both).buffer)
}

/** Passes if both hold the same bits. */
export function sameFloats(
  t: Test,
  actual: Float32Array,
  expected: Float32Array,
  name: string,
): void {
  t.equal(actual.length, expected.length, `${name}: length`)
  const a = new Uint32Array(actual.buffer, actual.byteOffset, actual.length)
  const b = new Uint32Array(expected.buffer, expected.byteOffset, expected.length)
  const wrong = a.findIndex((bits, i) => bits !== b[i])
  const detail =
    wrong < 0 ? '' : ` [${wrong}]: ${a[wrong]?.toString(16)}, not ${b[wrong]?.toString(16)}`
  t.equal(wrong, -1, name + detail)
}

/** Samples from a seed: weights of several magnitudes with special values strewn in. */
export function maker(seed: number) {
  const random = new Random(seed)
  const special = specialFloats()
  const value = (): number => (random.float() - 0.5) * 2 ** (random.below(40) - 30)
  const floats = (count: number, rate: number): Float32Array<ArrayBuffer> =>
    Float32Array.from({ length: count }, () =>
      random.float() < rate ? special[random.below(special.length)]! : value(),
    )
  const cast = (dtype: FloatDtype, values: Float32Array): Uint8Array => {
    if (dtype === 'F32') return bytes(values)
    if (dtype === 'F64') return bytes(Float64Array.from(values, v => v * (1 + 2 ** -26)))
    if (dtype === 'F16') return bytes(Float16Array.from(values))
    return bytes(Uint16Array.from(new Uint32Array(values.buffer), b => b >>> 16))
  }
  return {
    random,
    floats,
    half: () => Math.f16round(value()),
    bytes: (length: number) => random.bytes(length),
    cast: (dtype: FloatDtype, count: number) => cast(dtype, floats(count, 0.02)),
    finite: (dtype: FloatDtype, count: number) => cast(dtype, floats(count, 0)),
    indices(first: number, count: number, share: number) {
      const kept: bigint[] = []
      for (let e = 0; e < count; e++) if (random.float() < share) kept.push(BigInt(first + e))
      return { indices: bytes(BigInt64Array.from(kept)), listed: kept.length }
    },
  }
}
