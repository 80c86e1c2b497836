import { execFileSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { cpSync, globSync, openAsBlob, statSync } from 'node:fs'
import { basename, join } from 'node:path'
import type { Test } from 'tap'
import { makeModel, makeTuned } from '../../bench/make-model.ts'
import type { Model, SweepReport } from '../../src/registry/registry.ts'
import { wdelta } from '../cli/helper.ts'
import { type ServerProcess, startServer } from '../server-process.ts'

/** Bytes of each model that is uploaded. */
const SIZE = 8 * 1024 * 1024
/** One thread for files, so that the n-th call of a kind is the same in every run. */
const ENV = { UV_THREADPOOL_SIZE: '1', WORKERS: '1' }

/** A form to be sent: every way to publish. */
export interface Upload {
  readonly path: '/models' | '/deltas'
  readonly fields: Readonly<Record<string, string>>
  readonly field: 'file' | 'delta'
  readonly files: readonly string[]
}

/** A data folder with acknowledged models in it, and uploads that it can take. */
export interface Scene {
  readonly data: string
  readonly models: readonly Model[]
  readonly uploads: Readonly<Record<'base' | 'fine-tune' | 'delta', Upload>>
}

/** Makes models and a data folder below `folder`. */
export async function prepareScene(folder: string): Promise<Scene> {
  const at = (name: string) => join(folder, name)
  await makeModel(at('base'), { size: SIZE, tensors: 4, shards: 2 })
  await makeModel(at('other'), { size: SIZE, tensors: 4, shards: 2, seed: 7 })
  await makeTuned(at('tuned'), at('base'))
  await makeTuned(at('next'), at('base'), { seed: 3 })
  const delta = at('next.wdelta')
  const models = ['--tuned', at('next'), '--base', at('base')]
  const saved = await wdelta(['save', delta, ...models, '--strategy', 'quantized'])
  if (saved.code !== 0) throw new Error(saved.stderr)
  const files = (name: string) => globSync(join(at(name), '*')).sort()
  const encoded = { parent: 'acme/base', strategy: 'int4' }
  const data = at('data')
  const server = await startServer(data, ENV)
  const whole = (name: string): Upload => ({
    path: '/models',
    fields: { name: `acme/${name}` },
    field: 'file',
    files: files(name),
  })
  const tuned = whole('tuned')
  const fineTune: Upload = { ...tuned, fields: { ...tuned.fields, ...encoded } }
  const acknowledged = [
    await publish(server, whole('base')),
    await publish(server, { ...fineTune, fields: { ...fineTune.fields, name: 'acme/first' } }),
  ]
  await server.stop()
  // A new fine-tune each: equal content would share the blobs that are there.
  const another: Upload = { ...fineTune, files: files('next') }
  return {
    data,
    models: acknowledged,
    uploads: {
      base: whole('other'),
      'fine-tune': another,
      delta: { path: '/deltas', fields: { name: 'acme/next' }, field: 'delta', files: [delta] },
    },
  }
}

/** Starts a server over a copy of the scene's data folder. */
export async function startCopy(scene: Scene, folder: string): Promise<ServerProcess> {
  cpSync(scene.data, folder, { recursive: true })
  return restart(folder)
}

export function restart(folder: string): Promise<ServerProcess> {
  return startServer(folder, ENV)
}

export async function send(server: ServerProcess, upload: Upload): Promise<Response> {
  const form = new FormData()
  for (const [name, value] of Object.entries(upload.fields)) form.append(name, value)
  for (const path of upload.files) {
    form.append(upload.field, await openAsBlob(path), basename(path))
  }
  return fetch(server.url + upload.path, { method: 'POST', body: form })
}

/** Publishes and gives the model. Rejects for any answer but 201. */
export async function publish(server: ServerProcess, upload: Upload): Promise<Model> {
  const response = await send(server, upload)
  if (response.status !== 201) throw new Error(`${response.status}: ${await response.text()}`)
  return (await response.json()) as Model
}

async function get<T>(server: ServerProcess, path: string): Promise<T> {
  return (await (await fetch(server.url + path)).json()) as T
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
  const { models } = await get<{ models: Model[] }>(server, '/models')
  for (const model of acknowledged) {
    t.strictSame(
      models.find(({ id }) => id === model.id),
      model,
      `${model.name} is there`,
    )
  }
  const unacknowledged = models.length - acknowledged.length
  t.ok(unacknowledged === 0 || unacknowledged === 1, `${unacknowledged} unacknowledged`)
  for (const { id, name, sha256 } of models) {
    const response = await fetch(`${server.url}/models/${id}/reconstruct`)
    const bytes = new Uint8Array(await response.arrayBuffer())
    t.equal(createHash('sha256').update(bytes).digest('hex'), sha256, `${name} is whole`)
  }
  await checkFolder(t, server, folder)
  return { unacknowledged }
}

/** The blob folder holds what the catalog counts, and not a byte more. */
async function checkFolder(t: Test, server: ServerProcess, folder: string): Promise<void> {
  const files = globSync(join(folder, '**/*')).filter(path => statSync(path).isFile())
  t.strictSame(
    files.filter(path => path.includes('/staged/')),
    [],
    'nothing is left staged',
  )
  const blobs = files.filter(path => /\/blobs\//.test(path))
  const bytes = blobs.reduce((sum, path) => sum + statSync(path).size, 0)
  const { storedBytes } = await get<{ storedBytes: number }>(server, '/stats')
  t.equal(bytes, storedBytes, 'the folder holds what the catalog counts')
  const response = await fetch(`${server.url}/admin/sweep`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ dryRun: true }),
  })
  const { deleted } = (await response.json()) as SweepReport
  t.strictSame(deleted, [], 'nothing is left to sweep')
}

/** Throws where strace is missing or may not trace: a suite that crashes nothing would pass. */
export function requireStrace(): void {
  execFileSync('strace', ['-qq', '-e', 'trace=none', 'true'])
}
