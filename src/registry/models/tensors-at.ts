import type { ByteRange } from '../../codec/base/ranges.ts'
import { arraysOf, type DeltaIndex, type FrameDelta } from '../../codec/wdelta/delta-index.ts'
import { frameCount } from '../../codec/wdelta/v2/format.ts'
import type { Manifest } from './manifest.ts'

/** Names of the tensors that have bytes in a range of a blob of the model; none for a header, an index, or a side file. */
export function tensorsAt({ shards, delta }: Manifest, key: string, run: ByteRange): string[] {
  if (delta?.blob === key) return inDelta(delta.index, run)
  const shard = shards.find(({ blob }) => blob === key)
  const tensors = shard?.layout.tensors ?? []
  return tensors
    .filter(({ begin, end }) => overlaps(run, { start: begin, end }))
    .map(({ name }) => name)
}

function inDelta(index: DeltaIndex, run: ByteRange): string[] {
  if (index.frames) return inFrameDelta(index, run)
  return index.tensors
    .filter(tensor => arraysOf(tensor).some(array => overlaps(run, array)))
    .map(({ name }) => name)
}

function inFrameDelta({ tensors, frames, records }: FrameDelta, run: ByteRange): string[] {
  const isBad = (record: number | undefined) => {
    const start = records.starts[record ?? -1]
    if (start === undefined) return false
    return overlaps(run, { start, end: start + records.lengths[record!]! })
  }
  return tensors
    .filter(({ bytes, firstFrame }) =>
      frames.records.subarray(firstFrame, firstFrame + frameCount(bytes)).some(isBad),
    )
    .map(({ name }) => name)
}

function overlaps(a: ByteRange, b: ByteRange): boolean {
  return a.start < b.end && b.start < a.end
}
