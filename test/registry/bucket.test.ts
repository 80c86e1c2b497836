import { globSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { openSqliteCatalog } from '../../src/catalog/sqlite/catalog.ts'
import type { RegistryError } from '../../src/errors.ts'
import { rebuildCatalog } from '../../src/registry/care/adopt.ts'
import type { Model, Registry } from '../../src/registry/registry.ts'
import { openCachedBlobStore } from '../../src/storage/cache/blob-store.ts'
import { openS3BlobStore } from '../../src/storage/s3/blob-store.ts'
import { weights } from '../support/models/weights.ts'
import { type Answer, type Operation, refusal } from '../support/servers/fake-bucket.ts'
import { FakeS3, type Fault } from '../support/servers/fake-s3.ts'
import { openRegistryOver, part, publish } from '../support/servers/test-registry.ts'

const SIGNAL = new AbortController().signal
const MODEL = 'model.safetensors'
const BASE = weights(1)
const TUNED = weights(2, BASE)
/** Large enough to come in parts. */
const TOKENIZER = Buffer.alloc(1_200_000, 'tokens ')
const EVERY_STEP: readonly Operation[] = [
  'PutObject',
  'HeadObject',
  'CreateMultipartUpload',
  'UploadPart',
  'CompleteMultipartUpload',
]

/** A bucket, and registries on it, one after the other: each with an empty cache, or with that of the one before. */
async function start(t: Test) {
  const fake = await FakeS3.start()
  t.teardown(() => fake[Symbol.asyncDispose]())
  const folder = mkdtempSync(join(tmpdir(), 'wdelta-bucket-'))
  t.teardown(() => rmSync(folder, { recursive: true }))
  const cache = join(folder, 'cache')
  const openBlobs = async () => {
    return openCachedBlobStore(await openS3BlobStore(fake.options()), cache, 2 ** 30)
  }
  const openWarm = async () => openRegistryOver(t, folder, await openBlobs())
  const open = async () => {
    rmSync(cache, { recursive: true, force: true })
    return openWarm()
  }
  return { fake, folder, cache, openBlobs, openWarm, open }
}

function publishBase(registry: Registry): Promise<Model> {
  return publish(registry, [part(MODEL, BASE), part('tokenizer.json', TOKENIZER)])
}

/** A base and a fine-tune in a bucket. */
async function scene(t: Test) {
  const started = await start(t)
  const { registry, close } = await started.open()
  const base = await publishBase(registry)
  const tuned = await publish(registry, [part(MODEL, TUNED)], { parent: base.id })
  await close()
  return { ...started, base, tuned }
}

/** Reads a file of a model: what comes is compared with what it should be, and the error with which it ended is given. */
async function read(
  t: Test,
  registry: Registry,
  id: string,
  [path, expected]: readonly [string, Buffer],
): Promise<RegistryError | null> {
  const chunks: Uint8Array[] = []
  let error: RegistryError | null = null
  try {
    const content = await registry.models.openFile(id, path)
    const range = { start: 0, end: content.size }
    for await (const chunk of content.open(range, SIGNAL)) chunks.push(chunk.slice())
  } catch (caught) {
    error = caught as RegistryError
  }
  const bytes = Buffer.concat(chunks)
  if (!expected.subarray(0, bytes.length).equals(bytes)) t.fail(`${path}: wrong bytes`)
  if (!error) t.equal(bytes.length, expected.length)
  return error
}

function flip(bytes: Buffer): Buffer {
  const flipped = Buffer.from(bytes)
  flipped[flipped.length >> 1]! ^= 1
  return flipped
}

const FLIPPED: Fault = {
  kind: 'answer',
  change: answer => ({ ...answer, body: flip(answer.body) }),
}
const refuse = (answer: Answer): Fault => ({ kind: 'refuse', answer })

t.test('a bit that flips once on its way is asked for again', async t => {
  const { fake, open, base, tuned } = await scene(t)
  for (let after = 0; ; after++) {
    const { registry, close } = await open()
    const before = fake.struck
    fake.script({ on: 'GetObject', fault: FLIPPED, after, times: 1 })
    for (const [id, ...files] of [
      [tuned.id, [MODEL, TUNED]],
      [base.id, [MODEL, BASE], ['tokenizer.json', TOKENIZER]],
    ] as const) {
      for (const file of files) t.equal(await read(t, registry, id, file), null)
      t.equal((await registry.models.find(id)).damaged, null)
    }
    t.equal(registry.figures().badBlocks, 0)
    fake.heal()
    await close()
    // Until there was no such read any more: every one was spoiled.
    if (fake.struck === before) {
      t.ok(after >= 4, `${after} reads`)
      break
    }
  }
})

t.test('a bit that is always another one is damage, until it is not', async t => {
  const { fake, open, base, tuned } = await scene(t)
  const { registry } = await open()
  fake.script({ on: 'GetObject', fault: FLIPPED })
  t.match(await read(t, registry, tuned.id, [MODEL, TUNED]), { code: 'damaged' })
  t.match(await read(t, registry, base.id, [MODEL, BASE]), { code: 'damaged' })
  const { damaged } = await registry.care.scrub({ signal: SIGNAL })
  t.strictSame([...new Set(damaged.map(({ model }) => model))].sort(), [base.id, tuned.id].sort())
  fake.heal()
  t.equal(await read(t, registry, tuned.id, [MODEL, TUNED]), null)
  t.equal(await read(t, registry, base.id, [MODEL, BASE]), null)
  const { cleared } = await registry.care.scrub({ signal: SIGNAL })
  t.strictSame([...cleared].sort(), [base.id, tuned.id].sort())
})

t.test('a bit that flips on its way into the bucket is never served', async t => {
  // The weights, which are read before a model is published; the manifest and a side file, which are not.
  const uploads: [Operation, after: number, expected: (string | undefined)[]][] = [
    ['PutObject', 0, ['damaged']],
    ['PutObject', 1, [undefined, 'damaged', 'damaged']],
    ['UploadPart', 0, [undefined, undefined, 'damaged']],
  ]
  for (const [on, after, expected] of uploads) {
    const { fake, open } = await start(t)
    const { registry } = await open()
    fake.script({ on, fault: { kind: 'take', change: flip }, after, times: 1 })
    const outcomes = await publishBase(registry).then(
      async ({ id }) => [
        undefined,
        (await read(t, registry, id, [MODEL, BASE]))?.code,
        (await read(t, registry, id, ['tokenizer.json', TOKENIZER]))?.code,
      ],
      (error: RegistryError) => [error.code],
    )
    t.equal(fake.struck, 1)
    t.strictSame(outcomes, expected, `${on} after ${after}`)
    const { damaged } = await registry.care.scrub({ signal: SIGNAL })
    t.equal(damaged.length, expected.length > 1 ? 1 : 0)
  }
})

t.test('answers that are lost at any step: the model is published', async t => {
  for (const on of EVERY_STEP) {
    const { fake, open } = await start(t)
    const { registry } = await open()
    fake.script({ on, fault: { kind: 'reset', at: 'answer' }, times: 1 })
    const { id } = await publishBase(registry)
    t.equal(fake.struck, 1)
    t.equal(await read(t, registry, id, [MODEL, BASE]), null)
    t.equal(await read(t, registry, id, ['tokenizer.json', TOKENIZER]), null)
  }
})

t.test('a step that always fails: nothing is published, and nothing left', async t => {
  for (const on of EVERY_STEP) {
    const { fake, open } = await start(t)
    const { registry } = await open()
    const before = [...fake.bucket.objects.keys()]
    fake.script({ on, fault: refuse(refusal(500, 'InternalError')) })
    await t.rejects(publishBase(registry), { code: 'storage-unavailable' }, on)
    t.strictSame((await registry.models.list({ limit: 10 })).models, [])
    t.strictSame([...fake.bucket.objects.keys()], before)
    t.equal(fake.bucket.uploads.size, 0)
    fake.heal()
    const { id } = await publishBase(registry)
    t.equal(await read(t, registry, id, [MODEL, BASE]), null)
  }
})

t.test('a list that is behind brings nothing back, and takes nothing away', async t => {
  const { fake, open, base, tuned } = await scene(t)
  const first = await open()
  const next = (seed: number) =>
    publish(first.registry, [part(MODEL, weights(seed, BASE))], { parent: base.id })
  // Its tombstone goes with the next model of its revision.
  await first.registry.models.remove((await next(3)).id)
  const gone = await next(4)
  fake.script({ on: 'ListObjectsV2', fault: { kind: 'stale' } })
  await first.registry.care.sweep({ dryRun: false })
  await first.registry.models.remove(gone.id)
  await first.registry.models.remove(tuned.id)
  const kept = await next(5)
  await first.close()
  const { registry } = await open()
  t.strictSame(
    (await registry.models.list({ limit: 10 })).models.map(({ id }) => id),
    [kept.id, base.id],
  )
  await registry.care.sweep({ dryRun: false })
  t.equal(await read(t, registry, kept.id, [MODEL, weights(5, BASE)]), null)
  t.equal(await read(t, registry, base.id, [MODEL, BASE]), null)
})

t.test('a lost catalog is made again from the bucket, whatever the cache has', async t => {
  const { folder, cache, openBlobs, openWarm, base, tuned } = await scene(t)
  const first = await openWarm()
  const newer = await publish(first.registry, [part(MODEL, weights(3, BASE))])
  await first.registry.models.remove(newer.id)
  await first.registry.care.sweep({ dryRun: false })
  t.equal(await read(t, first.registry, tuned.id, [MODEL, TUNED]), null)
  await first.close()
  const chunks = globSync(join(cache, '**/*')).filter(path => statSync(path).isFile())
  t.ok(chunks.length > 0)
  for (const path of chunks) writeFileSync(path, flip(readFileSync(path)))
  for (const path of globSync(join(folder, 'registry.sqlite*'))) rmSync(path)

  const catalog = await openSqliteCatalog(join(folder, 'registry.sqlite'))
  const blobs = await openBlobs()
  const { models, unadopted } = await rebuildCatalog({ catalog, blobs })
  await catalog.close()
  await blobs.close()
  t.strictSame(
    models.map(({ id }) => id),
    [base.id, tuned.id],
  )
  t.strictSame(unadopted, [])
  const { registry } = await openWarm()
  await t.rejects(registry.models.find('acme/model@main'), { code: 'model-not-found' })
  t.equal(await read(t, registry, tuned.id, [MODEL, TUNED]), null)
  t.strictSame((await registry.care.scrub({ signal: SIGNAL })).damaged, [])
})
