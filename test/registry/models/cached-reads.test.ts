import { globSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { CHUNK_BYTES, openCachedBlobStore } from '../../../src/storage/cache/blob-store.ts'
import { openS3BlobStore } from '../../../src/storage/s3/blob-store.ts'
import { weights } from '../../support/models/weights.ts'
import { FakeS3 } from '../../support/servers/fake-s3.ts'
import { openStoreAfar } from '../../support/servers/store-afar.ts'
import { bytesOf, openRegistryOver, part, publish } from '../../support/servers/test-registry.ts'

const SIGNAL = new AbortController().signal
const MODEL = 'model.safetensors'
const BASE = weights(1)
const TUNED = weights(2, BASE)

/** A registry whose blobs are far away, with a base and a fine-tune in it that were read once. */
async function scene(t: Test) {
  const folder = mkdtempSync(join(tmpdir(), 'wdelta-cached-'))
  t.teardown(() => rmSync(folder, { recursive: true }))
  const afar = await openStoreAfar(join(folder, 'store'))
  const cache = await openCachedBlobStore(afar, join(folder, 'cache'), 2 ** 30)
  const first = await openRegistryOver(t, folder, cache)
  const base = await publish(first.registry, [part(MODEL, BASE)], { name: 'acme/base' })
  const tuned = await publish(first.registry, [part(MODEL, TUNED)], { parent: base.id })
  for (const { id } of [base, tuned]) await bytesOf(await first.registry.models.openReconstruct(id))
  // What is in memory for a moment would hide what is on the disk.
  await first.close()
  const reopened = await openCachedBlobStore(afar, join(folder, 'cache'), 2 ** 30)
  const { registry, catalog } = await openRegistryOver(t, folder, reopened)
  const { files } = (await catalog.model(base.id))!
  const key = files[0]!.blob!
  const [chunk] = globSync(join(folder, 'cache', key, '0.*')) as [string]
  const read = async (id: string) => bytesOf(await registry.models.openReconstruct(id))
  return { folder, afar, cache: reopened, registry, base, tuned, key, chunk, read }
}

function flip(path: string, at: number): void {
  const bytes = readFileSync(path)
  bytes[at]! ^= 4
  writeFileSync(path, bytes)
}

t.test('a model that was read once is not read from afar again', async t => {
  const { afar, registry, base, tuned, read } = await scene(t)
  const before = afar.reads.length
  t.ok((await read(tuned.id)).equals(TUNED))
  t.ok((await read(base.id)).equals(BASE))
  t.equal(afar.reads.length, before)
  t.equal(registry.figures().badBlocks, 0)
})

t.test('a bad chunk of the cache is dropped, and the bytes come from afar', async t => {
  const { cache, registry, base, tuned, chunk, read } = await scene(t)
  flip(chunk, 100_000)
  t.ok((await read(tuned.id)).equals(TUNED))
  t.ok((await read(base.id)).equals(BASE))
  t.equal(cache.cache!.corrupt, 1)
  t.equal(registry.figures().badBlocks, 0)
  t.equal((await registry.models.find(base.id)).damaged, null)
})

t.test('a manifest that is bad in the cache alone opens', async t => {
  const { folder, cache, registry, tuned, read } = await scene(t)
  const chunks = globSync(join(folder, 'cache/manifests/**/0.*')).filter(path =>
    statSync(path).isFile(),
  )
  t.ok(chunks.length > 0)
  for (const path of chunks) flip(path, 300)
  t.ok((await read(tuned.id)).equals(TUNED))
  t.ok(cache.cache!.corrupt > 0)
  t.equal((await registry.models.find(tuned.id)).damaged, null)
})

t.test('a bad block afar is told of as damage, once it is asked for', async t => {
  const { folder, registry, base, tuned, key, chunk, read } = await scene(t)
  flip(join(folder, 'store', key), 100_000)
  t.ok((await read(tuned.id)).equals(TUNED), 'the cache still has the right bytes')
  flip(chunk, 100_000)
  await t.rejects(read(tuned.id), { code: 'damaged' })
  for (const { id } of [base, tuned])
    t.match(await registry.models.find(id), { damaged: { file: MODEL } })
  t.ok(registry.figures().badBlocks > 0)
})

t.test('scrub reads what is afar, whatever the cache has', async t => {
  const { folder, registry, base, key, afar } = await scene(t)
  flip(join(folder, 'store', key), 100_000)
  const reads = afar.reads.length
  const { damaged } = await registry.care.scrub({ signal: SIGNAL })
  t.match(damaged, [{ model: base.id, file: MODEL, blob: key }])
  t.ok(afar.reads.length > reads)
})

t.test('a bad chunk of the cache under a parent: the publication reads it from afar', async t => {
  for (const strategy of ['lossless', 'int4', 'sparse'] as const) {
    const { cache, registry, base, chunk } = await scene(t)
    flip(chunk, 100_000)
    const options = { parent: base.id, strategy, name: `acme/${strategy}` }
    const { id } = await publish(registry, [part(MODEL, weights(5, BASE))], options)
    t.equal(cache.cache!.corrupt, 1)
    t.equal((await registry.models.find(base.id)).damaged, null)
    t.equal(registry.figures().badBlocks, 0)
    const bytes = await bytesOf(await registry.models.openReconstruct(id))
    if (strategy === 'lossless') t.ok(bytes.equals(weights(5, BASE)))
  }
})

t.test('a cache that holds next to nothing makes no damage of what it drops', async t => {
  const fake = await FakeS3.start()
  t.teardown(() => fake[Symbol.asyncDispose]())
  const folder = mkdtempSync(join(tmpdir(), 'wdelta-tiny-cache-'))
  t.teardown(() => rmSync(folder, { recursive: true }))
  const remote = await openS3BlobStore(fake.options())
  const cache = await openCachedBlobStore(remote, join(folder, 'cache'), 2 * CHUNK_BYTES)
  const { registry } = await openRegistryOver(t, folder, cache)
  const count = process.env['FULL'] ? 12 : 4
  const bases = await Promise.all(
    Array.from({ length: count }, (_, i) =>
      publish(registry, [part(MODEL, weights(i + 1), 'file', 65_536)], { name: `acme/base-${i}` }),
    ),
  )
  const strategies = ['lossless', 'int4', 'quantized', 'sparse'] as const
  const tuned = bases.map(async ({ id }, i) => {
    const strategy = strategies[i % strategies.length]!
    const bytes = weights(100 + i, weights(i + 1))
    const options = { parent: id, strategy, name: `acme/tuned-${i}` }
    const model = await publish(registry, [part(MODEL, bytes, 'file', 65_536)], options)
    const read = await bytesOf(await registry.models.openReconstruct(model.id))
    if (strategy === 'lossless') t.ok(read.equals(bytes))
    return model.id
  })
  const reads = bases.map(async ({ id }, i) => {
    t.ok((await bytesOf(await registry.models.openReconstruct(id))).equals(weights(i + 1)))
    return id
  })
  for (const id of await Promise.all([...tuned, ...reads])) {
    t.equal((await registry.models.find(id)).damaged, null)
  }
  t.equal(registry.figures().badBlocks, 0)
  t.strictSame((await registry.care.scrub({ signal: SIGNAL })).damaged, [])
})
