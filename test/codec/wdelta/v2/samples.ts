import { createHash } from 'node:crypto'
import type { Dtype } from '../../../../src/codec/base/dtypes.ts'
import { CodecError } from '../../../../src/codec/base/errors.ts'
import { ENCODINGS, encodeFrame } from '../../../../src/codec/frames/frame-encodings.ts'
import { buildLayout } from '../../../../src/codec/safetensors/write-header.ts'
import type { FrameDelta, FrameTensor } from '../../../../src/codec/wdelta/delta-index.ts'
import { frameCount, NO_RECORD, sized } from '../../../../src/codec/wdelta/v2/format.ts'
import { FrameDeltaReader, readIndex } from '../../../../src/codec/wdelta/v2/reader.ts'
import { FrameDeltaWriter } from '../../../../src/codec/wdelta/v2/writer.ts'
import { threadKernels } from '../../../../src/workers/kernels.ts'
import { Random } from '../../../support/random.ts'

const { machine } = threadKernels()
export const hasher = () => {
  const hash = createHash('sha256')
  return { update: (bytes: Uint8Array) => void hash.update(bytes), digest: () => hash.digest() }
}

export type Source = NonNullable<FrameTensor['source']>
interface Sample {
  readonly name: string
  readonly dtype: Dtype
  readonly shape: readonly number[]
  readonly source?: Source
}

export const SAMPLES: Sample[] = [
  {
    name: 'a',
    dtype: 'BF16',
    shape: [40, 20],
    source: { name: 'a', dtype: 'BF16', shape: [30, 20] },
  },
  { name: 'b.same', dtype: 'F32', shape: [16], source: { name: 'b', dtype: 'BF16', shape: [16] } },
  { name: 'c', dtype: 'U8', shape: [7] },
  { name: 'empty', dtype: 'I64', shape: [0, 3] },
  { name: 'tied', dtype: 'U8', shape: [7] },
]

export type Content = Parameters<FrameDeltaWriter['end']>[0]

/** A small delta; `spoil` changes what its index says. */
export function build(spoil: (content: Content) => Content = content => content): Uint8Array {
  const random = new Random(3)
  const layout = buildLayout([...SAMPLES], new Map([['format', 'pt']]))
  const writer = new FrameDeltaWriter(threadKernels(), hasher())
  const parts = [writer.begin()]
  const frames = { encodings: [] as number[], records: [] as number[], checksums: [] as bigint[] }
  const known = new Map<string, number>()
  let firstFrame = 0
  const tensors = layout.tensors.map(placed => {
    const tensor = sized(placed)
    const bytes = Uint8Array.from({ length: tensor.bytes }, (_, i) => (i * 7) % 256)
    const prediction =
      tensor.dtype === 'BF16' ? bytes.map((byte, i) => byte ^ (i % 2 ? 0 : random.below(3))) : null
    if (tensor.bytes > 0) {
      const { encoding, stored } = encodeFrame(threadKernels(), tensor.dtype, bytes, prediction)
      const content = Buffer.from(stored).toString('hex')
      const record = encoding === 'copy' ? NO_RECORD : (known.get(content) ?? writer.records)
      if (record === writer.records) {
        parts.push(...writer.record(stored, machine.checksum(stored)))
        known.set(content, record)
      }
      frames.encodings.push(ENCODINGS.indexOf(encoding))
      frames.records.push(record)
      frames.checksums.push(machine.checksum(bytes))
    }
    const source = SAMPLES.find(({ name }) => name === tensor.name)!.source ?? null
    firstFrame += frameCount(tensor.bytes)
    return { ...tensor, source, firstFrame: firstFrame - frameCount(tensor.bytes) }
  })
  parts.push(
    ...writer.end(
      spoil({
        parentHash: '1'.repeat(64),
        parentIdentity: '2'.repeat(64),
        shards: [{ path: 'model.safetensors', layout, sha256: '3'.repeat(64) }],
        tensors,
        frames: {
          encodings: Uint8Array.from(frames.encodings),
          records: Uint32Array.from(frames.records),
          checksums: BigUint64Array.from(frames.checksums),
        },
      }),
    ),
  )
  return Buffer.concat(parts)
}

export function read(file: Uint8Array, step = file.length): FrameDelta {
  const reader = new FrameDeltaReader(threadKernels(), hasher())
  for (let at = 0; at < file.length; at += step) reader.push(file.subarray(at, at + step))
  return reader.end()
}

export const readEnd = (file: Uint8Array) =>
  readIndex(async (start, end) => file.subarray(start, end), file.length, threadKernels())

/** The rule that refuses, `sound` for none; anything but a CodecError is thrown on. */
export function ruleOf(work: () => unknown): string {
  try {
    work()
    return 'sound'
  } catch (error) {
    if (error instanceof CodecError) return error.rule
    throw error
  }
}

export async function endRuleOf(file: Uint8Array): Promise<string> {
  try {
    await readEnd(file)
    return 'sound'
  } catch (error) {
    if (error instanceof CodecError) return error.rule
    throw error
  }
}
