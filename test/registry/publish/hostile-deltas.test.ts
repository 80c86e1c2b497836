import { createHash } from 'node:crypto'
import { join } from 'node:path'
import t from 'tap'
import { openSqliteCatalog } from '../../../src/catalog/sqlite/catalog.ts'
import { FRAME_BYTES } from '../../../src/codec/base/limits.ts'
import { ENCODINGS } from '../../../src/codec/frames/frame-encodings.ts'
import { identityBytes } from '../../../src/codec/safetensors/identity.ts'
import { NO_RECORD } from '../../../src/codec/wdelta/v2/format.ts'
import type { RegistryError } from '../../../src/errors.ts'
import { openRegistry } from '../../../src/registry/open-registry.ts'
import type { Model, Registry } from '../../../src/registry/registry.ts'
import { openFolderBlobStore } from '../../../src/storage/folder/blob-store.ts'
import { deltaFile, f32s, i64s, record, sha256, u64 } from '../../support/models/wdelta-files.ts'
import {
  type RawDelta,
  rawIndex,
  sealedV2,
  xxh64,
  zstd,
} from '../../support/models/wdelta-v2-files.ts'
import {
  bytesOf,
  openTestRegistry,
  part,
  publish,
  publishWdelta,
} from '../../support/servers/test-registry.ts'

const MIB = 1024 * 1024
const ZEROS = new Uint8Array(FRAME_BYTES)
const PARENT = new Uint8Array(MIB).fill(7)

function shardOf(header: object): { path: string; header: Buffer; sha256: Uint8Array } {
  const json = JSON.stringify(header)
  const padded = Buffer.from(json.padEnd(Math.ceil(json.length / 8) * 8))
  return { path: 'model.safetensors', header: padded, sha256: new Uint8Array(32) }
}

function tensorOf(frames: number, begin = 0) {
  const size = frames * FRAME_BYTES
  return { dtype: 'U8', shape: [frames, FRAME_BYTES], data_offsets: [begin, begin + size] }
}

async function publishBase(registry: Registry): Promise<Model> {
  const header = { w: { dtype: 'U8', shape: [MIB], data_offsets: [0, MIB] } }
  const { header: json } = shardOf(header)
  return publish(registry, [
    part('model.safetensors', Buffer.concat([u64(json.length), json, PARENT])),
  ])
}

/** What names {@link publishBase} as the parent. */
function against({ hashes }: Model): Pick<RawDelta, 'parentIdentity' | 'parentHash'> {
  const hash = createHash('sha256')
  const tensor = { name: 'w', dtype: 'U8', shape: [MIB], digest: sha256(PARENT) } as const
  for (const bytes of identityBytes([tensor])) hash.update(bytes)
  return { parentIdentity: hash.digest(), parentHash: Buffer.from(hashes.stored, 'hex') }
}

/** A delta that gives `frames` frames of zeros, by one record for all of them or by none. */
function zeros(
  base: Model,
  frames: number,
  how: 'zstd' | 'copy',
  sha = new Uint8Array(32),
): Uint8Array {
  const encoding = ENCODINGS.indexOf(how)
  const one = { encoding, record: how === 'copy' ? NO_RECORD : 0, checksum: xxh64(ZEROS) }
  return fileOf({
    ...against(base),
    shards: [{ ...shardOf({ v: tensorOf(frames) }), sha256: sha }],
    records: how === 'copy' ? [] : [zstd(ZEROS, 19)],
    sources: [null],
    frames: Array<typeof one>(frames).fill(one),
  })
}

/** A delta that gives the parent's tensor so many times, each a copy. */
function copies(base: Model, count: number): Uint8Array {
  const tensors = Array.from({ length: count }, (_, i) => [
    `w${i}`,
    { dtype: 'U8', shape: [MIB], data_offsets: [i * MIB, (i + 1) * MIB] },
  ])
  const source = { name: 'w', dtype: 'U8', shape: [MIB] }
  const one = { encoding: ENCODINGS.indexOf('copy'), record: NO_RECORD, checksum: xxh64(PARENT) }
  return fileOf({
    ...against(base),
    shards: [shardOf(Object.fromEntries(tensors))],
    records: [],
    sources: Array<typeof source>(count).fill(source),
    frames: Array<typeof one>(count).fill(one),
  })
}

function fileOf(delta: RawDelta): Uint8Array {
  return sealedV2(delta.records, rawIndex(delta).bytes)
}

/** The code and the rule by which a delta is refused. */
async function refusal(registry: Registry, file: Uint8Array, parent?: string): Promise<string> {
  try {
    await publishWdelta(registry, file, parent === undefined ? {} : { parent })
    return 'accepted'
  } catch (error) {
    const { code, details } = error as RegistryError
    return `${code} ${details['rule'] ?? ''}`.trim()
  }
}

t.test(
  'a few hundred bytes that name a huge model are refused before anything is decoded',
  async t => {
    const { registry, pool } = await openTestRegistry(t)
    const base = await publishBase(registry)
    const runs = t.capture(pool, 'run', pool.run.bind(pool))
    const hashes = t.capture(pool, 'openHash', pool.openHash.bind(pool))
    for (const parent of [base.id, undefined]) {
      for (const [what, file] of Object.entries({
        'one record for 8 GiB': zeros(base, 4096, 'zstd'),
        'no record for 8 GiB': zeros(base, 4096, 'copy'),
        'more than the floor by a frame': zeros(base, 33, 'zstd'),
        'the parent, a hundred times': copies(base, 100),
      })) {
        t.ok(file.length < 10_000, `${what}: ${file.length} bytes`)
        t.equal(await refusal(registry, file, parent), 'malformed-delta model-size', what)
      }
    }
    t.strictSame([runs().length, hashes().length], [0, 0], 'no worker was asked for anything')
    t.strictSame((await registry.models.list({ limit: 10 })).models.length, 1)
  },
)

t.test('a model of zeros comes out of a few hundred bytes', async t => {
  const { registry } = await openTestRegistry(t)
  const base = await publishBase(registry)
  const { header } = shardOf({ v: tensorOf(12) })
  const hash = createHash('sha256').update(u64(header.length)).update(header)
  for (let i = 0; i < 12; i++) hash.update(ZEROS)
  const model = await publishWdelta(registry, zeros(base, 12, 'zstd', hash.digest()))
  t.equal(model.size, 8 + header.length + 12 * FRAME_BYTES)
  const content = await registry.models.openReconstruct(model.id)
  const bytes = await bytesOf(content)
  t.equal(createHash('sha256').update(bytes).digest('hex'), model.sha256)
})

t.test('no delta gives more than could be uploaded', async t => {
  const both = t.testdir({ own: {}, other: {} })
  const folder = join(both, 'own')
  const catalog = await openSqliteCatalog(join(folder, 'registry.sqlite'))
  const blobs = await openFolderBlobStore(join(folder, 'store'))
  t.teardown(async () => {
    await catalog.close()
    await blobs.close()
  })
  const { pool } = await openTestRegistry(t, join(both, 'other'))
  const maxModelBytes = 10 * MIB
  const registry = await openRegistry({ catalog, blobs, pool, scratch: folder, maxModelBytes })
  const base = await publishBase(registry)
  t.equal(await refusal(registry, zeros(base, 5, 'copy')), 'malformed-delta model-size')
  t.equal(await refusal(registry, zeros(base, 4, 'copy')), 'malformed-delta shard-hash')
  const entry = {
    dtype: 'float32',
    sparsity: 0,
    indices: { _ref: 'indices' },
    values: { _ref: 'values' },
  }
  const tensors = { w: { ...entry, strategy: 'sparse', shape: [11 * MIB] } }
  const header = { parent_hash: base.hashes.stored, strategy: 'sparse', tensors }
  const records = [
    record('w', 'indices', 'int64', 8, i64s()),
    record('w', 'values', 'float32', 4, f32s()),
  ]
  t.equal(await refusal(registry, deltaFile(header, records)), 'malformed-delta too-many-elements')
})
