import { fromHex } from '../../base/hex.ts'
import { complete, STEP_ITEMS, type Steps } from '../../base/steps.ts'
import { withoutLengthWord } from '../../safetensors/header.ts'
import type { FrameDelta } from '../delta-index.ts'
import { ByteWriter } from './bytes.ts'
import { writeSource } from './tensor-source.ts'

/** What an index is written from: all that it says, but the size of the file and the starts of records, which follow from the rest. */
export type IndexContent = Pick<
  FrameDelta,
  'parentHash' | 'parentIdentity' | 'shards' | 'tensors' | 'frames'
> & { readonly records: Pick<FrameDelta['records'], 'lengths' | 'checksums'> }

/** The bytes of an index, not yet compressed: see `FORMAT.md`, "Index". */
export function writeIndex(content: IndexContent): Uint8Array {
  return complete(writeIndexSteps(content))
}

/** {@link writeIndex} in steps. */
export function* writeIndexSteps(content: IndexContent): Steps<Uint8Array> {
  const { shards, tensors, records, frames } = content
  const out = new ByteWriter()
  out.bytes(fromHex(content.parentIdentity))
  out.bytes(fromHex(content.parentHash))
  out.u32(shards.length)
  for (const { path, layout, sha256 } of shards) {
    out.text16(path)
    const json = withoutLengthWord(layout.header)
    out.u32(json.length)
    out.bytes(json)
    out.bytes(fromHex(sha256))
  }
  out.u32(records.lengths.length)
  out.column(records.lengths)
  out.wideColumn(records.checksums)
  out.u32(tensors.length)
  for (const [i, { name, source }] of tensors.entries()) {
    if (i % STEP_ITEMS === 0) yield
    writeSource(out, name, source)
  }
  yield
  out.u32(frames.encodings.length)
  out.bytes(frames.encodings)
  out.column(frames.records)
  out.wideColumn(frames.checksums)
  return out.end()
}
