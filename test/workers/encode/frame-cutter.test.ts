import t from 'tap'
import { FRAME_BYTES } from '../../../src/codec/base/limits.ts'
import { buildLayout, type DescribedTensor } from '../../../src/codec/safetensors/write-header.ts'
import { FrameCutter } from '../../../src/workers/encode/frame-cutter.ts'
import { Random } from '../../support/random.ts'

/** Bytes behind the last whole frame of the largest tensor. */
const REST = 1000

const TENSORS: readonly DescribedTensor[] = [
  { name: 'none, first', dtype: 'F32', shape: [0, 3] },
  { name: 'two frames and a rest', dtype: 'U8', shape: [2 * FRAME_BYTES + REST] },
  { name: 'one frame', dtype: 'U8', shape: [FRAME_BYTES] },
  { name: 'one value', dtype: 'F64', shape: [] },
  { name: 'none, last', dtype: 'F32', shape: [0] },
]

/** A file of these tensors and its layout, whose tensors are in the order of their bytes. */
function fileOf(tensors: readonly DescribedTensor[]) {
  const layout = buildLayout(tensors, null)
  const file = new Random(1).bytes(layout.size)
  file.set(layout.header)
  return { layout, file }
}

/** A frame, or a tensor without bytes. */
interface Cut {
  readonly name: string
  readonly frame: number
  readonly bytes: Uint8Array | null
}

/** What a cutter gives for a file in pieces that end at `ends`, those up to `held` of them held. */
function cutAt({ layout, file }: ReturnType<typeof fileOf>, ends: readonly number[], held = 0) {
  const cutter = new FrameCutter()
  const cuts: Cut[] = []
  let at = 0
  for (const [i, end] of [...ends, file.length].entries()) {
    // Its owner uses the memory of a piece again.
    const piece = file.slice(at, end)
    at = end
    if (i < held) cutter.hold(piece)
    if (i === held) cutter.begin(layout.header.length, layout.tensors)
    if (i >= held) {
      for (const { tensor, frame, bytes } of cutter.push(piece)) {
        cuts.push({ name: tensor.name, frame, bytes })
      }
    }
    piece.fill(0)
  }
  return cuts
}

/** The frames of a file as its layout says. */
function expectedOf({ layout, file }: ReturnType<typeof fileOf>): Cut[] {
  return layout.tensors.flatMap(({ name, begin, end }): Cut[] => {
    if (begin === end) return [{ name, frame: 0, bytes: null }]
    return Array.from({ length: Math.ceil((end - begin) / FRAME_BYTES) }, (_, frame) => {
      const start = begin + frame * FRAME_BYTES
      return { name, frame, bytes: file.subarray(start, Math.min(end, start + FRAME_BYTES)) }
    })
  })
}

/** Equal frames, compared by their bytes: a list of millions of numbers would be printed. */
function isSame(found: readonly Cut[], expected: readonly Cut[]): boolean {
  return (
    found.length === expected.length &&
    found.every(({ name, frame, bytes }, i) => {
      const other = expected[i]!
      if (name !== other.name || frame !== other.frame) return false
      return bytes === null || other.bytes === null
        ? bytes === other.bytes
        : Buffer.compare(bytes, other.bytes) === 0
    })
  )
}

t.test('a file is cut into the frames of its tensors, in pieces of any size', async t => {
  const made = fileOf(TENSORS)
  const { layout, file } = made
  const data = layout.header.length
  const expected = expectedOf(made)
  t.equal(expected.length, 7, 'two tensors without bytes, and five frames')
  const every = (step: number) =>
    Array.from({ length: Math.floor((file.length - 1) / step) }, (_, i) => (i + 1) * step)
  const ends: Record<string, readonly number[]> = {
    'at once': [],
    'the header apart': [data],
    'within the header, and right behind it': [3, data, data + 1],
    'pieces of 65,537 bytes': every(65_537),
    'pieces of a frame': every(FRAME_BYTES),
    'at the ends of tensors': layout.tensors.map(({ end }) => end),
  }
  for (const [what, at] of Object.entries(ends)) {
    for (const held of [0, 1, 3].filter(held => held <= at.length)) {
      t.ok(isSame(cutAt(made, at, held), expected), `${what}, ${held} held`)
    }
  }
})

t.test('a piece gives the frames that it completes, and no others', async t => {
  const { layout, file } = fileOf([{ name: 'w', dtype: 'U8', shape: [2 * FRAME_BYTES] }])
  const data = layout.header.length
  const cutter = new FrameCutter()
  cutter.begin(data, layout.tensors)
  const completed = [data + FRAME_BYTES - 1, data + FRAME_BYTES, file.length].map((end, i, all) =>
    [...cutter.push(file.subarray(all[i - 1] ?? 0, end))].map(({ frame }) => frame),
  )
  t.strictSame(completed, [[], [0], [1]])
})

t.test('every frame has memory of its own', async t => {
  const { layout, file } = fileOf([{ name: 'w', dtype: 'U8', shape: [FRAME_BYTES + 2] }])
  const cutter = new FrameCutter()
  cutter.begin(layout.header.length, layout.tensors)
  const buffers = [...cutter.push(file)].map(({ bytes }) => bytes!.buffer)
  t.equal(new Set([file.buffer, ...buffers]).size, 3)
  t.strictSame(
    buffers.map(({ byteLength }) => byteLength),
    [FRAME_BYTES, 2],
    'and no more of it than it needs',
  )
})

t.test('a model without tensors, or with none that has bytes, ends with its header', async t => {
  t.strictSame(cutAt(fileOf([]), []), [])
  const empty = fileOf([
    { name: 'a', dtype: 'BF16', shape: [0] },
    { name: 'b', dtype: 'U8', shape: [0] },
  ])
  t.ok(isSame(cutAt(empty, [9]), expectedOf(empty)))
})
