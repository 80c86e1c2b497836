import type { Dtype } from '../../../src/codec/base/dtypes.ts'
import { CELL } from '../../../src/codec/base/limits.ts'
import { ENCODINGS, type Encoding } from '../../../src/codec/frames/frame-encodings.ts'
import { baseRecipes, type Link, type StoredRecipes } from '../../../src/codec/plan/recipes.ts'
import type { Layout } from '../../../src/codec/safetensors/layout.ts'
import { buildLayout, type DescribedTensor } from '../../../src/codec/safetensors/write-header.ts'
import type {
  FrameDelta,
  RecordDelta,
  TensorSource,
} from '../../../src/codec/wdelta/delta-index.ts'
import { frameCount, NO_RECORD, sized } from '../../../src/codec/wdelta/v2/format.ts'

/** A base of these tensors in one file, whose blob is `base` and is never read. */
export function baseOf(...tensors: readonly DescribedTensor[]): {
  layout: Layout
  recipes: StoredRecipes
} {
  const layout = buildLayout(tensors, null)
  return { layout, recipes: baseRecipes([{ path: 'model.safetensors', layout, blob: 'base' }]) }
}

/** A tensor of a made-up lossless delta: `encodings` by frame, the last one for all that follow. */
export interface MadeUpTensor {
  readonly name: string
  readonly dtype: Dtype
  readonly shape: readonly number[]
  readonly source: TensorSource | null
  readonly encodings: readonly Encoding[]
}

/** A lossless delta whose blob nobody reads: what plans are made from is its index. */
export function losslessLink(blob: string, tensors: readonly MadeUpTensor[]): Link {
  const layout = buildLayout(tensors, null)
  const encodings: number[] = []
  const records: number[] = []
  const placed = layout.tensors.map(at => {
    const { source, encodings: own } = tensors.find(({ name }) => name === at.name)!
    const tensor = { ...sized(at), source, firstFrame: encodings.length }
    for (let frame = 0; frame < frameCount(tensor.bytes); frame++) {
      const encoding = own[Math.min(frame, own.length - 1)]!
      encodings.push(ENCODINGS.indexOf(encoding))
      records.push(encoding === 'copy' ? NO_RECORD : records.filter(r => r !== NO_RECORD).length)
    }
    return tensor
  })
  const stored = records.filter(record => record !== NO_RECORD).length
  const index: FrameDelta = {
    format: 2,
    strategy: 'lossless',
    parentHash: '1'.repeat(64),
    parentIdentity: '2'.repeat(64),
    size: 1_000_000,
    shards: [{ path: 'model.safetensors', layout, sha256: '3'.repeat(64) }],
    tensors: placed,
    records: {
      starts: Float64Array.from({ length: stored }, (_, i) => 20 + i * 1004),
      lengths: new Uint32Array(stored).fill(1000),
      checksums: new BigUint64Array(stored),
    },
    frames: {
      encodings: Uint8Array.from(encodings),
      records: Uint32Array.from(records),
      checksums: new BigUint64Array(encodings.length),
    },
  }
  return { blob, index, domain: 'stored' }
}

/** A link, and how often its tensors' frames are looked for: each step of a plan into its delta does so at least once, and at most twice. */
export function counted(link: Link): { link: Link; lookups: () => number } {
  let lookups = 0
  const index = link.index as FrameDelta
  const tensors = index.tensors.map(tensor => ({
    ...tensor,
    get firstFrame() {
      lookups++
      return tensor.firstFrame
    },
  }))
  return { link: { ...link, index: { ...index, tensors } }, lookups: () => lookups }
}

/** A sparse delta of version 1 that adds nothing, and yet goes through float32. */
export function addition(
  of: { readonly name: string; readonly shape: readonly number[] },
  tunedDtype: Dtype,
): RecordDelta {
  const { name, shape } = of
  const count = shape.reduce((a, b) => a * b, 1)
  const ranks = new Array(Math.ceil(count / CELL) + 1).fill(0)
  const nothing = { start: 0, end: 0 }
  const common = { name, shape, count, tunedDtype, zero: false, nonFinite: 0 }
  const lists = { sparsity: 0, kept: 0, indices: nothing, values: nothing, ranks }
  const added = { ...common, ...lists, strategy: 'sparse' } as const
  return { format: 1, parentHash: '', strategy: 'sparse', size: 0, tensors: [added] }
}
