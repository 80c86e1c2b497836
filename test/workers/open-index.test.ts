import { createHash } from 'node:crypto'
import t from 'tap'
import { CodecError } from '../../src/codec/base/errors.ts'
import { FrameDeltaReader, openIndex, type StoredIndex } from '../../src/codec/wdelta/v2/reader.ts'
import { threadKernels } from '../../src/workers/kernels.ts'
import { openStoredIndex } from '../../src/workers/open-index.ts'
import { type RawDelta, rawIndex, sealedV2, xxh64 } from '../support/models/wdelta-v2-files.ts'

const BYTE = Uint8Array.of(1)

/** A delta of so many tensors of one byte. */
function deltaOf(count: number): RawDelta {
  const members = Array.from(
    { length: count },
    (_, i) => `"t${i}":{"dtype":"U8","shape":[1],"data_offsets":[${i},${i + 1}]}`,
  )
  const frame = { encoding: 1, record: 0, checksum: xxh64(BYTE) }
  return {
    parentIdentity: new Uint8Array(32),
    parentHash: new Uint8Array(32),
    shards: [
      {
        path: 'model.safetensors',
        header: Buffer.from(`{${members}}`),
        sha256: new Uint8Array(32),
      },
    ],
    records: [BYTE],
    sources: Array<null>(count).fill(null),
    frames: Array<typeof frame>(count).fill(frame),
  }
}

function stored(file: Uint8Array): StoredIndex {
  const reader = new FrameDeltaReader(threadKernels(), createHash('sha256'))
  reader.push(file)
  return reader.finish()
}

function sealed(delta: RawDelta, change?: Parameters<typeof sealedV2>[2]): Uint8Array {
  return sealedV2(delta.records, rawIndex(delta).bytes, change)
}

t.test('an index is the same as where it is opened at once', async t => {
  for (const count of [1, 1000, 12_000]) {
    const index = stored(sealed(deltaOf(count)))
    t.strictSame(
      await openStoredIndex(index),
      openIndex(index, threadKernels()),
      `${count} tensors`,
    )
  }
})

t.test('the event loop has its turns while an index is opened', async t => {
  const index = stored(sealed(deltaOf(12_000)))
  let turns = 0
  let open = true
  const count = () => {
    turns++
    if (open) setImmediate(count)
  }
  setImmediate(count)
  await openStoredIndex(index)
  open = false
  t.ok(turns > 2, `${turns} turns`)
})

t.test(
  'large ones are opened one by one, and one that nobody waits for any more not at all',
  async t => {
    const size = 5 * 1024 * 1024
    const { bytes } = rawIndex(deltaOf(1))
    const large = new Uint8Array(size)
    large.set(bytes)
    // What inflates to so much more than it says would be refused: noise takes the room.
    const noise = createHash('shake256', { outputLength: 100_000 }).update('noise').digest()
    large.set(noise, bytes.length)
    const index = stored(sealedV2([BYTE], large))
    const order: string[] = []
    const gone = new AbortController()
    const first = openStoredIndex(index).catch(error => order.push(`first ${error.rule}`))
    const second = openStoredIndex(index, { signal: gone.signal }).catch(error =>
      order.push(`second ${error.name}`),
    )
    gone.abort()
    await Promise.all([first, second])
    t.strictSame(order, ['second AbortError', 'first index'])
    // The next one has its turn.
    await t.rejects(openStoredIndex(index), { name: 'CodecError', rule: 'index' })
  },
)

t.test('an index that is no zstd frame of the size that the tail says is refused', async t => {
  const delta = deltaOf(100)
  const { bytes } = rawIndex(delta)
  const ruleOf = async (file: Uint8Array) => {
    try {
      await openStoredIndex(stored(file))
      return 'sound'
    } catch (error) {
      if (error instanceof CodecError) return error.rule
      throw error
    }
  }
  t.equal(await ruleOf(sealed(delta)), 'sound')
  for (const inflated of [bytes.length - 1, bytes.length + 1, 0, 1]) {
    t.equal(await ruleOf(sealed(delta, { inflated })), 'zstd', `${inflated} bytes`)
  }
  t.equal(await ruleOf(sealed(delta, { stored: Uint8Array.from(bytes) })), 'zstd')
  t.equal(await ruleOf(sealed(delta, { stored: new Uint8Array(0) })), 'zstd')
})
