import type { Dtype } from './dtypes.ts'
import { compareUtf8, utf8 } from './utf8.ts'

/** A tensor as an identity sees it. */
export interface IdentifiedTensor {
  readonly name: string
  readonly dtype: Dtype
  readonly shape: readonly number[]
  /** SHA-256 of its bytes. */
  readonly digest: Uint8Array
}

/**
 * What the identity of a model is the SHA-256 of: names, dtypes, shapes and contents of its tensors in name order, however the
 * model is cut into shards. Source: `FORMAT.md`, "Index".
 */
export function* identityBytes(tensors: Iterable<IdentifiedTensor>): Generator<Uint8Array> {
  const sorted = [...tensors].sort((a, b) => compareUtf8(a.name, b.name))
  for (const { name, dtype, shape, digest } of sorted) {
    const [nameBytes, dtypeBytes] = [utf8(name), utf8(dtype)]
    const fixed = new DataView(new ArrayBuffer(2))
    fixed.setUint16(0, nameBytes.length, true)
    const dimensions = new DataView(new ArrayBuffer(1 + shape.length * 8))
    dimensions.setUint8(0, shape.length)
    for (const [i, dimension] of shape.entries()) {
      dimensions.setBigUint64(1 + i * 8, BigInt(dimension), true)
    }
    yield new Uint8Array(fixed.buffer)
    yield nameBytes
    yield Uint8Array.of(dtypeBytes.length)
    yield dtypeBytes
    yield new Uint8Array(dimensions.buffer)
    yield digest
  }
}
