import { CodecError } from './errors.ts'

/**
 * The dtypes of safetensors with their width in bits, in the order of the reference's enum ("increasing
 * alignment"), which is also the sort key of its writer.
 * Source: huggingface/safetensors `safetensors/src/tensor.rs`.
 */
export const DTYPE_BITS = {
  BOOL: 8,
  F4: 4,
  F6_E2M3: 6,
  F6_E3M2: 6,
  U8: 8,
  I8: 8,
  F8_E5M2: 8,
  F8_E4M3: 8,
  F8_E8M0: 8,
  F8_E4M3FNUZ: 8,
  F8_E5M2FNUZ: 8,
  I16: 16,
  U16: 16,
  F16: 16,
  BF16: 16,
  I32: 32,
  U32: 32,
  F32: 32,
  C64: 64,
  F64: 64,
  I64: 64,
  U64: 64,
} as const

export type Dtype = keyof typeof DTYPE_BITS

/** The dtypes that a record delta adds to, and that `?dtype=` casts. Tensors of other dtypes are copied, never cast. */
export type FloatDtype = 'F16' | 'BF16' | 'F32' | 'F64'

/** What a model may be given out in: each tensor as it is stored, or all floating-point ones in one dtype. */
export const OUTPUT_DTYPES = ['stored', 'float32', 'float16', 'bfloat16'] as const

export type OutputDtype = (typeof OUTPUT_DTYPES)[number]

const CASTS: Readonly<Record<OutputDtype, FloatDtype | null>> = {
  stored: null,
  float32: 'F32',
  float16: 'F16',
  bfloat16: 'BF16',
}

/** The dtype that floating-point tensors are cast to; null where each stays as it is stored. */
export function castOf(output: OutputDtype): FloatDtype | null {
  return CASTS[output]
}

const ORDER = new Map(Object.keys(DTYPE_BITS).map((dtype, i) => [dtype, i]))

/** True for a name of {@link DTYPE_BITS}, exactly as written. */
export function isDtype(text: string): text is Dtype {
  return ORDER.has(text)
}

/** True for the dtypes that go through the reference's float32 arithmetic. */
export function isFloat(dtype: Dtype): dtype is FloatDtype {
  return dtype === 'F16' || dtype === 'BF16' || dtype === 'F32' || dtype === 'F64'
}

/** Rank of a dtype in the writer's order; a larger rank is written earlier. */
export function dtypeRank(dtype: Dtype): number {
  return ORDER.get(dtype)!
}

/** Bytes of one element. @throws CodecError `sub-byte-dtype` for F4 and F6, whose elements share bytes. */
export function itemBytes(dtype: Dtype): number {
  const bits = DTYPE_BITS[dtype]
  if (bits % 8 !== 0)
    throw new CodecError('model', 'sub-byte-dtype', `${dtype} elements are not whole bytes`)
  return bits / 8
}

/** Elements of a tensor: the product of its dimensions, 1 for a scalar. The caller has checked that it is at most 2^53 - 1. */
export function elementCount(shape: readonly number[]): number {
  return shape.reduce((product, dimension) => product * dimension, 1)
}
