/**
 * What a registry of many models takes: its start, on a folder and on a bucket in the memory of this process, `/readyz`, lists, and one bad
 * byte of a side file that all models share. The models are small and differ in their manifests alone, which this writes to the folder and the
 * catalog as a publication does.
 *
 *     node bench/many-models.ts [models ...]
 */
import { createHash, randomBytes } from 'node:crypto'
import { globSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { openSqliteCatalog } from '../src/catalog/sqlite/catalog.ts'
import { toRecord } from '../src/registry/models/manifest.ts'
import { openManifest, writeManifest } from '../src/registry/models/manifest-bytes.ts'
import { openRegistry } from '../src/registry/open-registry.ts'
import type { UploadPart } from '../src/registry/registry.ts'
import { blobKey } from '../src/storage/blob-key.ts'
import { openFolderBlobStore } from '../src/storage/folder/blob-store.ts'
import { openPool } from '../src/workers/pool.ts'
import { weights } from '../test/support/models/weights.ts'
import { FakeS3 } from '../test/support/servers/fake-s3.ts'
import { type ServerProcess, startServer } from '../test/support/servers/server-process.ts'
import { median } from './measure.ts'

const MODEL = 'model.safetensors'
const SIDE = 'tokenizer.json'
const SIGNAL = new AbortController().signal
/** Requests whose times are taken of each kind. */
const REQUESTS = 50

const counts = process.argv.slice(2).map(Number)
for (const count of counts.length > 0 ? counts : [30_000, 60_000]) await bench(count)

async function bench(count: number): Promise<void> {
  const folder = mkdtempSync(join(tmpdir(), 'wdelta-many-'))
  try {
    const side = await fill(folder, count)
    const began = performance.now()
    const server = await startServer(folder)
    say(count, 'start', performance.now() - began)
    try {
      await measure(server, count, join(folder, side))
    } finally {
      await server.stop()
    }
    say(count, 'start on a bucket', await startOnBucket(folder))
  } finally {
    rmSync(folder, { recursive: true })
  }
}

/** How long a start takes in milliseconds where what is in the folder is in a bucket. */
async function startOnBucket(folder: string): Promise<number> {
  await using fake = await FakeS3.start()
  for (const path of globSync('{blobs,manifests,catalogs}/*/*', { cwd: folder })) {
    fake.bucket.put(path, readFileSync(join(folder, path)))
  }
  const { endpoint, bucket, region, accessKeyId, secretAccessKey } = fake.options()
  const began = performance.now()
  const server = await startServer(folder, {
    STORAGE: 's3',
    S3_ENDPOINT: endpoint!,
    S3_BUCKET: bucket,
    S3_REGION: region,
    S3_ACCESS_KEY_ID: accessKeyId!,
    S3_SECRET_ACCESS_KEY: secretAccessKey!,
  })
  const ms = performance.now() - began
  await server.stop()
  return ms
}

/** Publishes a base and a lossless fine-tune, and repeats the fine-tune until there are `count` models; the key of their side file. */
async function fill(folder: string, count: number): Promise<string> {
  const catalog = await openSqliteCatalog(join(folder, 'registry.sqlite'))
  const blobs = await openFolderBlobStore(folder)
  await using pool = await openPool({ workers: 2 })
  const registry = await openRegistry({ catalog, blobs, pool, scratch: folder })
  const publish = (name: string, bytes: Buffer, parent?: string) => {
    const options = { name, revision: 'main', message: '', parent }
    return registry.publish.files(options, partsOf(bytes), SIGNAL)
  }
  const base = await publish('acme/base', weights(1))
  const tuned = await publish('acme/tuned', weights(2, weights(1)), base.id)
  const record = (await catalog.model(tuned.id))!
  const bytes = readFileSync(join(folder, record.manifest))
  const manifest = await openManifest(record.manifest, bytes, () => async (key, start, end) => {
    return readFileSync(join(folder, key)).subarray(start, end)
  })
  const first = Date.parse(record.createdAt)
  for (let i = 2; i < count; i++) {
    const id = randomBytes(20).toString('hex')
    const createdAt = new Date(first + i).toISOString()
    const model = { ...manifest.model, id, name: `acme/tuned-${i % 1000}`, createdAt }
    const own = Buffer.concat(await writeManifest({ ...manifest, model }))
    const key = blobKey('manifests', id)
    mkdirSync(dirname(join(folder, key)), { recursive: true })
    writeFileSync(join(folder, key), own)
    const sha256 = createHash('sha256').update(own).digest('hex')
    const blob = { key, sha256, size: own.length }
    await catalog.insertModel(toRecord(model, blob, manifest.blobs), [blob, ...manifest.blobs])
  }
  await registry.close()
  await catalog.close()
  await blobs.close()
  return record.files.find(({ path }) => path === SIDE)!.blob!
}

async function* partsOf(bytes: Buffer): AsyncGenerator<UploadPart> {
  const body = async function* (of: Buffer) {
    yield of
  }
  yield { field: 'file', path: MODEL, body: body(bytes) }
  yield { field: 'file', path: SIDE, body: body(Buffer.alloc(100_000, 'tokens ')) }
}

async function measure({ url }: ServerProcess, count: number, side: string): Promise<void> {
  const get = async (path: string) => {
    const answer = await fetch(url + path)
    const body = await answer.text()
    return { status: answer.status, body }
  }
  const timed = async (path: string) => {
    const times: number[] = []
    for (let i = 0; i < REQUESTS; i++) {
      const began = performance.now()
      const { status } = await get(path)
      if (status !== 200) throw new Error(`${path}: ${status}`)
      times.push(performance.now() - began)
    }
    return median(times)
  }
  say(count, '/healthz', await timed('/healthz'))
  say(count, '/readyz', await timed('/readyz'))
  say(count, '/stats', await timed('/stats'))
  say(count, '/models', await timed('/models'))
  const { next, models } = JSON.parse((await get('/models?limit=1000')).body)
  say(count, 'the page after 1000', await timed(`/models?cursor=${next}`))
  say(count, '/models?name=', await timed('/models?name=acme/tuned-7'))
  const base = models[0].parent
  say(count, '/models/:id', await timed(`/models/${models[0].id}`))
  say(count, '/models/:id/children', await timed(`/models/${base}/children`))
  say(count, '/models/:id/lineage', await timed(`/models/${models[0].id}/lineage`))
  // The one byte. A probe looks how late the event loop is meanwhile.
  const bytes = readFileSync(side)
  bytes[70_000]! ^= 1
  writeFileSync(side, bytes)
  let latest = 0
  const end = new AbortController()
  const probe = (async () => {
    while (!end.signal.aborted) {
      const began = performance.now()
      // The connection may be the one that a cut download had.
      await get('/healthz').catch(() => {})
      latest = Math.max(latest, performance.now() - began)
    }
  })()
  const began = performance.now()
  for (const { id } of models.slice(0, REQUESTS)) {
    const read = fetch(`${url}/models/${id}/files/${SIDE}`).then(async answer => {
      await answer.arrayBuffer()
      return answer.ok
    })
    if (await read.catch(() => false)) throw new Error('a bad byte was served')
  }
  say(count, 'a read of the bad byte', (performance.now() - began) / REQUESTS)
  say(count, '/models, all damaged', await timed('/models'))
  say(count, '/models?limit=1000, all damaged', await timed('/models?limit=1000'))
  end.abort()
  await probe
  say(count, 'latest answer meanwhile', latest)
  const { damaged } = JSON.parse((await get(`/models/${models[0].id}`)).body)
  if (damaged?.file !== SIDE) throw new Error('the damage is not shown')
}

function say(count: number, what: string, ms: number): void {
  process.stdout.write(`${count} models: ${what.padEnd(34)} ${ms.toFixed(1).padStart(8)} ms\n`)
}
