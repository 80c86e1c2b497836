import { createHash } from 'node:crypto'
import { readFileSync } from 'node:fs'
import t from 'tap'
import { encodeFrame, restoreFrame } from '../../../src/codec/frames/frame-encodings.ts'
import { identityBytes } from '../../../src/codec/safetensors/identity.ts'
import { buildLayout } from '../../../src/codec/safetensors/write-header.ts'
import { WdeltaReader } from '../../../src/codec/wdelta/reader.ts'
import { FrameDeltaWriter } from '../../../src/codec/wdelta/v2/writer.ts'
import { threadKernels } from '../../../src/workers/kernels.ts'
import { sha256 } from '../../support/models/wdelta-files.ts'

const PAGE = new URL('../../../src/codec/FORMAT.md', import.meta.url)
const TENSOR = { name: 'w', dtype: 'BF16', shape: [512] } as const

function hasher() {
  const hash = createHash('sha256')
  return { update: (bytes: Uint8Array) => void hash.update(bytes), digest: () => hash.digest() }
}

/** The model of the page: 512 ones, of which the fine-tune changes two. */
function weights(changes: Readonly<Record<number, number>>): Uint8Array {
  const lanes = new Uint16Array(512).fill(0x3f80)
  for (const [element, bits] of Object.entries(changes)) lanes[Number(element)] = bits
  return new Uint8Array(lanes.buffer)
}

const parent = weights({})
const tuned = weights({ 200: 0x3f81, 400: 0xbf00 })

function writeExample(): Buffer {
  const tools = threadKernels()
  const layout = buildLayout([TENSOR], null)
  const identity = createHash('sha256')
  for (const bytes of identityBytes([{ ...TENSOR, digest: sha256(parent) }])) identity.update(bytes)
  const { stored } = encodeFrame(tools, 'BF16', tuned, parent)
  const writer = new FrameDeltaWriter(tools, hasher())
  return Buffer.concat([
    writer.begin(),
    ...writer.record(stored, tools.machine.checksum(stored)),
    ...writer.end({
      parentHash: createHash('sha256').update('w').update(parent).digest('hex'),
      parentIdentity: identity.digest('hex'),
      shards: [
        {
          path: 'model.safetensors',
          layout,
          sha256: createHash('sha256').update(layout.header).update(tuned).digest('hex'),
        },
      ],
      tensors: [{ ...TENSOR, count: 512, bytes: 1024, firstFrame: 0, source: TENSOR }],
      frames: {
        encodings: Uint8Array.of(5),
        records: Uint32Array.of(0),
        checksums: BigUint64Array.of(tools.machine.checksum(tuned)),
      },
    }),
  ])
}

/** The bytes at the beginning of each line of the page's example. */
function pageBytes(): Buffer {
  const [, section = ''] = readFileSync(PAGE, 'utf8').split('## Example')
  const [, example = ''] = section.split('```')
  const bytes = example.split('\n').map(line => /^([0-9a-f]{2} )+/.exec(line)?.[0] ?? '')
  return Buffer.from(bytes.join('').replaceAll(' ', ''), 'hex')
}

t.test('the example of FORMAT.md is what is written, and is read as it says', async t => {
  const file = writeExample()
  const page = pageBytes()
  t.equal(page.length, 40)
  // The length of the index is zstd's business, and may change with it.
  t.strictSame(page.subarray(0, 36), file.subarray(0, 36))
  t.equal(file.readUInt32LE(36), file.length - 40 - 64)
  const reader = new WdeltaReader(threadKernels(), hasher())
  reader.push(file)
  const index = reader.end()
  t.equal(index.records?.starts[0], 20)
  const frame = Uint8Array.from(parent)
  restoreFrame(threadKernels(), 'BF16', 'sparse', page.subarray(20, 32), frame)
  t.strictSame(frame, tuned)
})
