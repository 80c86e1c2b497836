import { FRAME_BYTES } from '../../../src/codec/base/limits.ts'
import { headerBytes, parseLayout } from '../../../src/codec/safetensors/header.ts'
import type { Layout } from '../../../src/codec/safetensors/layout.ts'
import { Random } from '../random.ts'
import type { Folder } from './generated-models.ts'

export interface ByteRange {
  readonly start: number
  readonly end: number
}

/** Ranges at random places of each file. */
const RANDOM = 20
/** Most edges of tensors that are looked at in one file. */
const MAX_EDGES = 30

/** The layout of a safetensors file. */
export function layoutOf(file: Uint8Array): Layout {
  return parseLayout(file.subarray(0, headerBytes(file.subarray(0, 8), file.length)), file.length)
}

/** The safetensors files of a folder. */
export function weightsOf(folder: Folder): [path: string, file: Uint8Array][] {
  return [...folder].filter(([path]) => path.endsWith('.safetensors'))
}

/** The bytes of each tensor of a folder. */
export function tensorsOf(folder: Folder) {
  return weightsOf(folder).flatMap(([, file]) =>
    layoutOf(file).tensors.map(({ name, dtype, shape, begin, end }) => ({
      name,
      dtype,
      shape,
      bytes: file.subarray(begin, end),
    })),
  )
}

/** Ranges of a file, none empty: around each edge of its tensors and their frames, and 20 by chance. */
export function rangesOf(path: string, file: Uint8Array, seed: number): ByteRange[] {
  const random = new Random(seed)
  const edges = path.endsWith('.safetensors') ? edgesOf(file) : []
  const some = random.shuffled(edges).slice(0, MAX_EDGES)
  const ranges = [0, file.length, ...some].map(at => ({
    start: Math.max(0, at - random.below(4)),
    end: Math.min(file.length, at + 1 + random.below(5)),
  }))
  for (let i = 0; i < RANDOM && file.length > 0; i++) {
    const start = random.below(file.length)
    // Most are small, as of a reader of a few rows; some go far.
    const most = i % 4 === 0 ? file.length - start : Math.min(file.length - start, 3000)
    ranges.push({ start, end: start + 1 + random.below(most) })
  }
  return ranges.filter(({ start, end }) => start < end)
}

function edgesOf(file: Uint8Array): number[] {
  const { header, tensors } = layoutOf(file)
  const edges = tensors.flatMap(({ begin, end }) => {
    const frames = Math.ceil((end - begin) / FRAME_BYTES)
    return [...Array.from({ length: frames }, (_, i) => begin + i * FRAME_BYTES), end]
  })
  return [8, header.length, ...edges]
}
