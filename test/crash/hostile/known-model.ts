import { DTYPE_BITS, type Dtype } from '../../../src/codec/base/dtypes.ts'
import { u64 } from '../../support/models/wdelta-files.ts'
import { Random } from '../../support/random.ts'

/** The file of a model that has one. */
export const WEIGHTS = 'model.safetensors'

/** A tensor of a model that the generator knows. */
export interface KnownTensor {
  readonly name: string
  readonly dtype: Dtype
  readonly shape: readonly number[]
  readonly bytes: Uint8Array
}

/** A model that is published: what a delta must name to be made against it. */
export interface KnownModel {
  readonly id: string
  readonly parentHash: string
  readonly tensors: readonly KnownTensor[]
}

/** The tensors of the model that all deltas are made against: small ones of several dtypes, an empty one, and one of two frames. */
export function knownTensors(): KnownTensor[] {
  const random = new Random(7)
  const tensor = (name: string, dtype: Dtype, shape: readonly number[]): KnownTensor => {
    const count = shape.reduce((product, dimension) => product * dimension, 1)
    const bytes = random.bytes((count * DTYPE_BITS[dtype]) / 8)
    // No infinities and no NaN: deltas that are sound should be accepted.
    if (dtype === 'BF16' || dtype === 'F16')
      for (let i = 1; i < bytes.length; i += 2) bytes[i]! &= 0x3b
    if (dtype === 'F32') for (let i = 3; i < bytes.length; i += 4) bytes[i]! &= 0x3b
    return { name, dtype, shape, bytes }
  }
  return [
    tensor('big', 'BF16', [1100, 1000]),
    tensor('bias', 'F32', [10]),
    tensor('empty', 'F32', [0, 3]),
    tensor('ids', 'I64', [4]),
    tensor('scales', 'U8', [100]),
    tensor('w', 'BF16', [64, 32]),
  ]
}

/** A safetensors file of these tensors, in this order. */
export function safetensors(tensors: readonly KnownTensor[]): Uint8Array {
  return Buffer.concat([withLength(headerOf(tensors)), ...tensors.map(({ bytes }) => bytes)])
}

/** The header of {@link safetensors}, without its length. */
export function headerOf(
  tensors: readonly Pick<KnownTensor, 'name' | 'dtype' | 'shape' | 'bytes'>[],
): string {
  let at = 0
  const members = tensors.map(({ name, dtype, shape, bytes }) => {
    const begin = at
    at += bytes.length
    return `${JSON.stringify(name)}:{"dtype":"${dtype}","shape":[${shape}],"data_offsets":[${begin},${at}]}`
  })
  return padded(`{${members}}`)
}

/** JSON with blanks up to a multiple of 8 characters. */
export function padded(json: string): string {
  return json.padEnd(Math.ceil(json.length / 8) * 8)
}

/** JSON behind a length of 8 bytes: its own, unless another is given. */
export function withLength(json: string | Uint8Array, length?: bigint): Uint8Array {
  const bytes = Buffer.from(json as string)
  return Buffer.concat([u64(length ?? bytes.length), bytes])
}
