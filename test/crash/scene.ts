import { createHash } from 'node:crypto'
import { cpSync, globSync, openAsBlob, rmSync, statSync } from 'node:fs'
import { basename, join } from 'node:path'
import type { Test } from 'tap'
import { makeModel, makeTuned } from '../../bench/make-model.ts'
import type { Model, SweepReport } from '../../src/registry/registry.ts'
import { type ServerProcess, startServer } from '../support/servers/server-process.ts'
import { wdelta, wdeltaIn } from '../support/servers/wdelta-process.ts'

/** Bytes of each model that is uploaded. */
const SIZE = 4 * 1024 * 1024
/** What an upload left is swept at once. No lease is renewed meanwhile, which would be calls to the system and files of a moment. */
const SWEPT = { SWEEP_GRACE_SECONDS: '0', LEASE_SECONDS: '86400' }
/** One thread for files, so that the n-th call of a kind is the same in every run. */
const ENV = { ...SWEPT, UV_THREADPOOL_SIZE: '1', WORKERS: '1' }

/** A form to be sent. */
export interface Upload {
  readonly path: '/models' | '/deltas'
  readonly fields: Readonly<Record<string, string>>
  readonly field: 'file' | 'delta'
  readonly files: readonly string[]
}

/** Every way to publish. */
export const KINDS = ['base', 'lossless', 'int4', 'delta'] as const
export type Kind = (typeof KINDS)[number]

/** A data folder with acknowledged models in it, and uploads that it can take. */
export interface Scene {
  readonly data: string
  readonly models: readonly Model[]
  readonly uploads: Readonly<Record<Kind, Upload>>
}

/** Makes models and a data folder below `folder`. */
export async function prepareScene(folder: string): Promise<Scene> {
  const at = (name: string) => join(folder, name)
  await makeModel(at('base'), { size: SIZE, tensors: 4, shards: 2 })
  await makeModel(at('other'), { size: SIZE, tensors: 4, shards: 2, seed: 7 })
  await makeTuned(at('tuned'), at('base'))
  await makeTuned(at('next'), at('base'), { seed: 3 })
  const delta = at('next.wdelta')
  const options = { tuned: at('next'), base: at('base'), strategy: 'quantized' }
  const saved = await wdelta('save', delta, options)
  if (saved.code !== 0) throw new Error(saved.stderr)
  const whole = (name: string, fields: Record<string, string> = {}) =>
    wholeUpload(at(name), { name: `acme/${name}`, ...fields })
  const parent = 'acme/base'
  const data = at('data')
  const server = await restart(data)
  const acknowledged = [
    await publish(server, whole('base')),
    await publish(server, whole('tuned', { parent, strategy: 'int4' })),
  ]
  await server.stop()
  return {
    data,
    models: acknowledged,
    uploads: {
      base: whole('other'),
      // A new fine-tune each: equal content would share the blobs that are there.
      lossless: whole('next', { parent }),
      int4: whole('next', { parent, strategy: 'int4' }),
      delta: { path: '/deltas', fields: { name: 'acme/next' }, field: 'delta', files: [delta] },
    },
  }
}

/** The model in `folder` as files, the weights first: what is staged first is large. */
export function wholeUpload(folder: string, fields: Upload['fields']): Upload {
  const files = globSync(join(folder, '*')).sort()
  const isShard = (path: string) => path.endsWith('.safetensors')
  const ordered = [...files.filter(isShard), ...files.filter(path => !isShard(path))]
  return { path: '/models', fields, field: 'file', files: ordered }
}

/** Starts a server over a copy of the scene's data folder. */
export async function startCopy(scene: Scene, folder: string): Promise<ServerProcess> {
  cpSync(scene.data, folder, { recursive: true })
  return restart(folder)
}

export function restart(folder: string): Promise<ServerProcess> {
  return startServer(folder, ENV)
}

/** Starts a server as it is by default, but for what it sweeps. */
export function startSwept(folder: string): Promise<ServerProcess> {
  return startServer(folder, SWEPT)
}

/** Sends a form. Once `pause.after` bytes of it are on their way, the rest waits for `pause.until`. */
export async function send(
  server: ServerProcess,
  upload: Upload,
  pause?: { after: number; until: () => Promise<void> },
): Promise<Response> {
  const form = new FormData()
  for (const [name, value] of Object.entries(upload.fields)) form.append(name, value)
  for (const path of upload.files) {
    form.append(upload.field, await openAsBlob(path), basename(path))
  }
  const url = server.url + upload.path
  if (!pause) return fetch(url, { method: 'POST', body: form })
  const { headers, body } = new Response(form)
  const type = headers.get('content-type')!
  const request = { method: 'POST', headers: { 'content-type': type }, duplex: 'half' } as const
  return fetch(url, { ...request, body: ReadableStream.from(paused(body!, pause)) })
}

async function* paused(
  body: ReadableStream<Uint8Array>,
  { after, until }: { after: number; until: () => Promise<void> },
): AsyncGenerator<Uint8Array> {
  let sent = 0
  for await (const chunk of body) {
    yield chunk
    const before = sent
    sent += chunk.length
    if (before < after && sent >= after) await until()
  }
}

/** Publishes and gives the model. Rejects for any answer but 201. */
export async function publish(server: ServerProcess, upload: Upload): Promise<Model> {
  const response = await send(server, upload)
  if (response.status !== 201) throw new Error(`${response.status}: ${await response.text()}`)
  return (await response.json()) as Model
}

export async function get<T>({ url }: ServerProcess, path: string): Promise<T> {
  return (await (await fetch(url + path)).json()) as T
}

/** Asks for a sweep. Rejects for any answer but 200. */
export async function sweep({ url }: ServerProcess, dryRun: boolean): Promise<SweepReport> {
  const response = await fetch(`${url}/admin/sweep`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ dryRun }),
  })
  if (response.status !== 200) throw new Error(`${response.status}: ${await response.text()}`)
  return (await response.json()) as SweepReport
}

/** Every model that a server lists, newest first. */
export async function listAll(server: ServerProcess): Promise<Model[]> {
  const all: Model[] = []
  for (let cursor: string | null = ''; cursor !== null; ) {
    const query: string = cursor === '' ? '' : `&cursor=${cursor}`
    const page = await get<{ models: Model[]; next: string | null }>(
      server,
      `/models?limit=100${query}`,
    )
    all.push(...page.models)
    cursor = page.next
  }
  return all
}

/** Reads a model back: its bytes are the ones that its row promises. */
export async function checkWhole(t: Test, { url }: ServerProcess, model: Model): Promise<void> {
  const { id, name, sha256 } = model
  const response = await fetch(`${url}/models/${id}/reconstruct`)
  const hash = createHash('sha256').update(await response.bytes())
  t.equal(hash.digest('hex'), sha256, `${name} is whole`)
}

/**
 * What must hold after any crash: every acknowledged model is there and whole; beside them there is at most the one whose answer was cut off,
 * and it is whole too; nothing else is on the disk.
 */
export async function checkInvariants(
  t: Test,
  server: ServerProcess,
  folder: string,
  acknowledged: readonly Model[],
): Promise<{ unacknowledged: number }> {
  const models = await listAll(server)
  for (const model of acknowledged) {
    t.strictSame(
      models.find(({ id }) => id === model.id),
      model,
      `${model.name} is there`,
    )
  }
  const unacknowledged = models.length - acknowledged.length
  t.ok(unacknowledged === 0 || unacknowledged === 1, `${unacknowledged} unacknowledged`)
  for (const model of models) await checkWhole(t, server, model)
  await checkFolder(t, server, folder)
  return { unacknowledged }
}

/** The store holds what the catalog counts, and not a byte more. */
export async function checkFolder(t: Test, server: ServerProcess, folder: string): Promise<void> {
  const { deleted } = await sweep(server, true)
  t.strictSame(deleted, [], 'nothing is left to sweep')
  const files = globSync('**/*', { cwd: folder }).filter(path =>
    statSync(join(folder, path)).isFile(),
  )
  const counted = files.filter(path => /^(?:blobs|manifests)\//.test(path))
  const bytes = counted.reduce((sum, path) => sum + statSync(join(folder, path)).size, 0)
  const { storedBytes } = await get<{ storedBytes: number }>(server, '/stats')
  t.equal(bytes, storedBytes, 'the folder holds what the catalog counts')
  const known = /^(?:blobs|manifests|tombstones|catalogs|owners)\/|^registry\.sqlite(?:-wal)?$/
  t.strictSame(
    files.filter(path => !known.test(path)),
    [],
    'nothing else lies in the folder',
  )
}

/** A scrub finds nothing, and no read since the start met a bad block. */
export async function checkScrub(t: Test, { url }: ServerProcess): Promise<void> {
  const response = await fetch(`${url}/admin/scrub`, { method: 'POST' })
  t.match(await response.json(), { damaged: [], cleared: [] })
  const metrics = await (await fetch(`${url}/metrics`)).text()
  t.match(metrics, /^wdelta_bad_blocks 0$/m)
}

/** The catalog is lost and made again from the store: it says the same. Gives the server that goes on with it. */
export async function checkRebuild(
  t: Test,
  server: ServerProcess,
  folder: string,
): Promise<ServerProcess> {
  // Two that are published at once may get their rows in another order than their times.
  const byTime = (models: Model[]) => models.sort((a, b) => (a.createdAt < b.createdAt ? -1 : 1))
  const models = byTime(await listAll(server))
  const revisions = await pointedAt(server, models)
  await server.stop()
  for (const file of ['registry.sqlite', 'registry.sqlite-wal']) {
    rmSync(join(folder, file), { force: true })
  }
  t.match(await wdeltaIn({ DATA_DIR: folder })('rebuild'), { code: 0 })
  const again = await startServer(folder, SWEPT)
  t.strictSame(byTime(await listAll(again)), models, 'the store tells of the same models')
  t.strictSame(await pointedAt(again, models), revisions, 'and of the same revisions')
  return again
}

/** The ids that `main` of each name points at; null where it points at nothing. */
async function pointedAt(
  { url }: ServerProcess,
  models: readonly Model[],
): Promise<Record<string, string | null>> {
  const pointed: Record<string, string | null> = {}
  for (const name of new Set(models.map(({ name }) => name))) {
    const response = await fetch(`${url}/models/${encodeURIComponent(name)}`)
    const { id = null } = (await response.json()) as { id?: string }
    pointed[name] = id
  }
  return pointed
}
