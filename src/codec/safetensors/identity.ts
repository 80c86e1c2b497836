import type { Dtype } from '../base/dtypes.ts'
import { DIGEST_BYTES } from '../base/hasher.ts'
import { sortSteps } from '../base/sort.ts'
import { STEP_ITEMS, type Steps } from '../base/steps.ts'
import { compareUtf8, utf8 } from '../base/utf8.ts'

/** What the identity of a model holds of a tensor. */
export interface IdentifiedTensor {
  readonly name: string
  readonly dtype: Dtype
  readonly shape: readonly number[]
  /** SHA-256 of its bytes. */
  readonly digest: Uint8Array
}

/**
 * The bytes whose SHA-256 is the identity of a model: names, dtypes, shapes and digests of its tensors in name order. It does not depend
 * on how the model is cut into shards. Source: `FORMAT.md`, "Index".
 */
export function* identityBytes(tensors: Iterable<IdentifiedTensor>): Generator<Uint8Array> {
  const sorted = [...tensors].sort((a, b) => compareUtf8(a.name, b.name))
  for (const tensor of sorted) yield* tensorBytes(tensor, tensor.digest)
}

/** {@link identityBytes} in steps; the bytes go to `update`. `digests` are the SHA-256 of the tensors, one after the other. */
export function* identitySteps(
  tensors: readonly Omit<IdentifiedTensor, 'digest'>[],
  digests: Uint8Array,
  update: (bytes: Uint8Array) => void,
): Steps<void> {
  const sorted = yield* sortSteps(tensors.keys(), (a, b) =>
    compareUtf8(tensors[a]!.name, tensors[b]!.name),
  )
  for (const [done, i] of sorted.entries()) {
    if (done % STEP_ITEMS === 0) yield
    const digest = digests.subarray(i * DIGEST_BYTES, (i + 1) * DIGEST_BYTES)
    for (const bytes of tensorBytes(tensors[i]!, digest)) update(bytes)
  }
}

function* tensorBytes(
  { name, dtype, shape }: Omit<IdentifiedTensor, 'digest'>,
  digest: Uint8Array,
): Generator<Uint8Array> {
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
