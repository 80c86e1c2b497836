import { createHash } from 'node:crypto'
import { globSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { basename, join } from 'node:path'
import { GetObjectCommand, PutObjectCommand } from '@aws-sdk/client-s3'
import t, { type Test } from 'tap'
import { makeModel, makeTuned } from '../../bench/make-model.ts'
import type { Model } from '../../src/registry/registry.ts'
import { openCachedBlobStore } from '../../src/storage/cache/blob-store.ts'
import { openS3BlobStore } from '../../src/storage/s3/blob-store.ts'
import { openS3Client, type S3Options } from '../../src/storage/s3/client.ts'
import { damageMatrix } from '../registry/care/damage-matrix.ts'
import { goldenCase } from '../support/models/golden-cases.ts'
import { type ServerProcess, startServer } from '../support/servers/server-process.ts'
import { openRegistryOver } from '../support/servers/test-registry.ts'
import { wdeltaIn } from '../support/servers/wdelta-process.ts'
import {
  contentsOf,
  download,
  environment,
  type Files,
  get,
  publish,
  remove,
  startGate,
  sweep,
} from './over-http.ts'
import { type S3Server, SERVER_NAMES, startS3Server } from './servers.ts'

t.setTimeout(900_000)

const MIB = 1024 * 1024
/** Two shards, of several parts each … */
const LARGE = 40 * MIB
/** … and of one: more than what is put at once. */
const SMALL = 8 * MIB
/** Kills between the last part of an upload and its completion; and after it, before anybody heard of it. */
const { FULL } = process.env
const KILLS = FULL ? 20 : 4
const KILLS_AFTER = FULL ? 6 : 2

function temporaryFolder(t: Test): string {
  const folder = mkdtempSync(join(tmpdir(), 'wdelta-s3-'))
  t.teardown(() => rmSync(folder, { recursive: true }))
  return folder
}

function filesOf(folder: string): Files {
  const paths = globSync(join(folder, '*')).sort()
  return Object.fromEntries(paths.map(path => [basename(path), Buffer.from(readFileSync(path))]))
}

/** A registry that does not outlive the test. */
async function serve(t: Test, folder: string, env: Record<string, string>): Promise<ServerProcess> {
  const registry = await startServer(folder, env)
  t.teardown(() => registry.kill())
  return registry
}

const sha256 = (bytes: Uint8Array) => createHash('sha256').update(bytes).digest('hex')

/** What is downloaded of a model: its stream, and every file. */
async function downloads(registry: ServerProcess, { id, files }: Model): Promise<string[]> {
  const names = ['reconstruct', ...files.map(({ path }) => `files/${path}`)]
  return Promise.all(
    names.map(async name => sha256(await download(registry, `/models/${id}/${name}`))),
  )
}

const made = mkdtempSync(join(tmpdir(), 'wdelta-s3-models-'))
t.teardown(() => rmSync(made, { recursive: true }))

/** The files of a base and of a fine-tune, `size` bytes each. */
async function makePair(size: number): Promise<{ base: Files; tuned: Files }> {
  const [base, tuned] = [join(made, `base-${size}`), join(made, `tuned-${size}`)]
  await makeModel(base, { size, tensors: 6, shards: 2 })
  await makeTuned(tuned, base)
  return { base: filesOf(base), tuned: filesOf(tuned) }
}

const large = await makePair(LARGE)
const small = await makePair(SMALL)

/** A base, a lossless fine-tune and an int4 delta. */
async function publishAll(registry: ServerProcess): Promise<Model[]> {
  const base = await publish(registry, { name: 'acme/base' }, large.base)
  const parent = base.id
  return [
    base,
    await publish(registry, { name: 'acme/lossless', parent }, large.tuned),
    await publish(registry, { name: 'acme/int4', parent, strategy: 'int4' }, large.tuned),
  ]
}

/** The same over a folder: bytes do not depend on where they are kept. */
const { models: EXPECTED, hashes: EXPECTED_HASHES } = await (async () => {
  const registry = await startServer(join(made, 'data'), { WORKERS: '2' })
  try {
    const models = await publishAll(registry)
    const hashes = await Promise.all(models.map(model => downloads(registry, model)))
    return { models, hashes }
  } finally {
    await registry.kill()
  }
})()

async function wholeRun(t: Test, options: S3Options): Promise<void> {
  const folder = temporaryFolder(t)
  const env = environment(options)
  const first = await serve(t, folder, env)
  const models = await publishAll(first)
  t.strictSame(
    models.map(model => model.hashes),
    EXPECTED.map(model => model.hashes),
  )
  const hashes = async (registry: ServerProcess) =>
    Promise.all(models.map(model => downloads(registry, model)))
  t.strictSame(await hashes(first), EXPECTED_HASHES)
  for (const [path, bytes] of Object.entries(large.tuned)) {
    const back = await download(first, `/models/acme%2Flossless/files/${path}`)
    t.ok(back.equals(bytes), path)
  }
  t.strictSame((await contentsOf(options)).uploads, [])
  t.equal(await first.stop(), 0)

  rmSync(join(folder, 'cache'), { recursive: true })
  const second = await serve(t, folder, env)
  t.strictSame(await hashes(second), EXPECTED_HASHES, 'after a restart, from the bucket alone')
  for (const { id } of [...models].reverse()) await remove(second, id)
  const { deleted } = await sweep(second)
  t.ok(deleted.length > 0)
  const { objects, uploads } = await contentsOf(options)
  t.strictSame(
    objects.map(name => name.replace(/[^/]+\/[^/]+$/, '')),
    [`${options.prefix}catalogs/`],
    'only the mark of the catalog is left',
  )
  t.strictSame(uploads, [])
}

/** Everything that can be told of the models of a registry. */
async function told(registry: ServerProcess) {
  const { models } = await get<{ models: Model[] }>(registry, '/models?limit=100')
  const refs = [...new Set(models.map(({ name, revision }) => `${name}@${revision}`))]
  const revisions = await Promise.all(
    refs.map(async ref => {
      const response = await fetch(`${registry.url}/models/${encodeURIComponent(ref)}`)
      const { id } = (await response.json()) as { id?: string }
      return [ref, response.status, id]
    }),
  )
  const lineages = await Promise.all(
    models.map(({ id }) => get<object>(registry, `/models/${id}/lineage`)),
  )
  return { models, revisions, lineages }
}

/** Models of every kind, in lineages, under several revisions, some of them deleted. */
async function publishForest(registry: ServerProcess): Promise<void> {
  const golden = goldenCase('chain-int4-bf16')
  const tuned = (step: number) => filesOf(golden.tuned[step - 1]!)
  const name = 'acme/model'
  const files = { ...filesOf(golden.base), 'config.json': Buffer.from('{}') }
  const base = await publish(registry, { name }, files)
  const delta = { '1.wdelta': Buffer.from(readFileSync(golden.deltas[0]!)) }
  const first = await publish(registry, { name, message: 'first' }, delta)
  const sparse = { name: 'acme/sparse', parent: first.id, strategy: 'sparse' }
  const second = await publish(registry, sparse, tuned(2))
  await publish(registry, { name: 'acme/end', revision: 'v1', parent: second.id }, tuned(3))
  const whole = { name: 'acme/whole', parent: base.id, strategy: 'whole' }
  await publish(registry, whole, tuned(3))
  // The newer of two of one revision: it points at nothing then.
  await publish(registry, { name: 'acme/twice' }, tuned(1))
  await remove(registry, (await publish(registry, { name: 'acme/twice' }, tuned(2))).id)
}

async function lostCatalog(t: Test, options: S3Options): Promise<void> {
  const folder = temporaryFolder(t)
  const env = environment(options)
  const first = await serve(t, folder, env)
  await publishForest(first)
  const before = await told(first)
  t.equal(before.models.length, 6)
  t.match(
    before.revisions.find(([ref]) => ref === 'acme/twice@main'),
    ['acme/twice@main', 404],
  )
  await first.stop()

  const lose = () => {
    for (const path of globSync(join(folder, 'registry.sqlite*'))) rmSync(path)
  }
  lose()
  await t.rejects(startServer(folder, env), { message: /wdelta rebuild/ })
  lose()
  const rebuilt = await wdeltaIn({ ...env, DATA_DIR: folder })('rebuild')
  t.equal(rebuilt.code, 0, rebuilt.stderr)
  const second = await serve(t, folder, env)
  t.strictSame(await told(second), before)
  for (const model of before.models) {
    const [stream] = await downloads(second, model)
    t.equal(stream, model.sha256)
  }
}

async function damage(t: Test, options: S3Options): Promise<void> {
  const folder = temporaryFolder(t)
  const client = openS3Client(options)
  t.teardown(() => client.destroy())
  const remote = await openS3BlobStore(options)
  const blobs = await openCachedBlobStore(remote, join(folder, 'cache'), 1024 * MIB)
  const { registry, catalog } = await openRegistryOver(t, folder, blobs)
  const at = (key: string) => ({ Bucket: options.bucket, Key: options.prefix + key })
  await damageMatrix(t, {
    registry,
    catalog,
    read: async key => {
      const { Body } = await client.send(new GetObjectCommand(at(key)))
      return Buffer.from(await Body!.transformToByteArray())
    },
    write: async (key, bytes) => {
      await client.send(new PutObjectCommand({ ...at(key), Body: bytes }))
      // All of these are smaller than what is kept of a blob as a whole.
      await blobs.evict(key, 0)
    },
  })
}

async function kills(t: Test, server: S3Server, options: S3Options): Promise<void> {
  await using gate = await startGate(server.url)
  const folder = temporaryFolder(t)
  const env = environment({ ...options, endpoint: gate.url })
  const list = (registry: ServerProcess) => get<{ models: Model[] }>(registry, '/models')
  let registry = await serve(t, folder, env)
  const { base, tuned } = small
  const [shard] = Object.keys(tuned).filter(path => path.endsWith('.safetensors'))
  const { id: parent } = await publish(registry, { name: 'acme/base' }, base)
  const settled = await contentsOf(options)
  const models = await list(registry)
  for (let n = 0; n < KILLS + KILLS_AFTER; n++) {
    const isDone = n >= KILLS
    // Of a base both shards are multipart uploads, of a fine-tune its delta.
    const isFineTune = n % 3 === 2
    const name = `acme/kill-${n}`
    const held = gate.hold(isFineTune ? 0 : n % 3, isDone)
    const files = { ...tuned, 'note.txt': Buffer.from(name) }
    const fields = isFineTune ? { name, parent } : { name }
    const publishing = publish(registry, fields, files)
    const ended = t.rejects(publishing, TypeError, `${name}: no answer came`)
    await held
    await registry.kill()
    await ended
    const left = await contentsOf(options)
    if (!isDone) t.ok(left.uploads.length > 0, 'an upload is left')

    registry = await serve(t, folder, env)
    t.strictSame(await list(registry), models, 'nothing is visible')
    t.strictSame(await contentsOf(options), settled, 'the sweep took what was left')
    const { id } = await publish(registry, fields, files)
    const back = await download(registry, `/models/${id}/files/${shard}`)
    t.ok(back.equals(tuned[shard!]!), 'the next upload works')
    await remove(registry, id)
    await sweep(registry)
    t.strictSame(await contentsOf(options), settled)
  }
  await registry.kill()
}

for (const name of SERVER_NAMES) {
  t.test(name, async t => {
    await using server = await startS3Server(name)
    await t.test('models are published, reconstructed, deleted and swept', async t =>
      wholeRun(t, { ...(await server.bucket('whole')), prefix: 'some/where/' }),
    )
    await t.test('a lost catalog is made again from the bucket', async t =>
      lostCatalog(t, await server.bucket('lost')),
    )
    await t.test('a flipped bit anywhere is never served, and scrub names it', async t =>
      damage(t, await server.bucket('damage')),
    )
    await t.test('killed between the parts of an upload and its completion', async t =>
      kills(t, server, await server.bucket('kills')),
    )
  })
}
