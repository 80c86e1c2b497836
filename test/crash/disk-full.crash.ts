import { execFileSync } from 'node:child_process'
import { mkdirSync, rmSync, statfsSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import t, { type Test } from 'tap'
import { makeModel, makeTuned } from '../../bench/make-model.ts'
import type { Model } from '../../src/registry/registry.ts'
import type { ServerProcess } from '../support/servers/server-process.ts'
import { wdelta } from '../support/servers/wdelta-process.ts'
import {
  checkInvariants,
  checkWhole,
  listAll,
  publish,
  restart,
  send,
  type Upload,
  wholeUpload,
} from './scene.ts'

const MIB = 1024 * 1024
const DISK_BYTES = 8 * MIB
const PAGE_BYTES = 4096
/** Longer than an answer of `/readyz` is repeated. */
const READY_MS = 1100
const { FULL } = process.env
const KILLS = FULL ? 60 : 6
/** About as long as it takes to empty a disk. */
const EMPTYING_MS = 600

/** A disk of 8 MiB. `data` is a folder on it; what fills it lies beside that. */
class Disk implements Disposable {
  readonly data: string
  readonly #path: string

  /** Throws where this user may not mount: a suite that fills no disk would pass. */
  constructor(path: string) {
    mkdirSync(path)
    const { uid, gid } = { uid: process.getuid!(), gid: process.getgid!() }
    const options = `size=${DISK_BYTES},uid=${uid},gid=${gid}`
    asRoot('mount', '-t', 'tmpfs', '-o', options, 'tmpfs', path)
    this.#path = path
    this.data = join(path, 'data')
  }

  /** Bytes that may still be written. */
  get free(): number {
    const { bavail, bsize } = statfsSync(this.#path)
    return bavail * bsize
  }

  /** Takes all but so many bytes, a multiple of a page. */
  leave(bytes: number): void {
    const filler = join(this.#path, 'filler')
    rmSync(filler, { force: true })
    if (this.free > bytes) writeFileSync(filler, Buffer.alloc(this.free - bytes))
  }

  [Symbol.dispose](): void {
    asRoot('umount', this.#path)
  }
}

function asRoot(...command: string[]): void {
  const [program, ...args] = process.getuid!() === 0 ? command : ['sudo', '-n', ...command]
  execFileSync(program!, args)
}

const folder = t.testdir({})
const at = (name: string) => join(folder, name)
const spec = { tensors: 4, shards: 2 }
await makeModel(at('small'), { ...spec, size: MIB, seed: 2 })
await makeModel(at('large'), { ...spec, size: 16 * MIB, seed: 3 })
await makeModel(at('tiny'), { size: 64 * 1024, tensors: 2, seed: 4 })
await makeModel(at('base'), { ...spec, size: 2 * MIB })
await makeTuned(at('tuned'), at('base'))
const wdeltaFile = at('tuned.wdelta')
const saved = await wdelta('save', wdeltaFile, {
  tuned: at('tuned'),
  base: at('base'),
  strategy: 'quantized',
})
if (saved.code !== 0) throw new Error(saved.stderr)

const upload = (name: string, fields: Record<string, string> = {}) =>
  wholeUpload(at(name), { name: `acme/${name}`, ...fields })
const small = upload('small')
let serial = 0
const newDisk = () => new Disk(at(`disk-${serial++}`))

/** Sends what does not fit: it is refused, it leaves nothing, and what fits goes in. */
async function overflow(t: Test, server: ServerProcess, disk: Disk, upload: Upload) {
  const models = await listAll(server)
  const { free } = disk
  const response = await send(server, upload)
  t.equal(response.status, 507)
  t.equal(response.headers.get('content-type'), 'application/problem+json')
  t.match(await response.json(), { status: 507, code: 'storage-full' })
  t.strictSame(await listAll(server), models, 'there is no row')
  t.equal(disk.free, free, 'its bytes are free again')
}

t.test('a model that is larger than the disk', async t => {
  using disk = newDisk()
  let server = await restart(disk.data)
  await overflow(t, server, disk, upload('large'))
  const model = await publish(server, small)
  await checkWhole(t, server, model)
  await overflow(t, server, disk, upload('large', { name: 'acme/small' }))
  await server.kill()
  server = await restart(disk.data)
  await checkInvariants(t, server, disk.data, [model])
  await server.stop()
})

/** Fine-tunes of a parent of 2 MiB, and how much room they are given. */
const parent = 'acme/base'
const cases: [what: string, upload: Upload, room: number][] = [
  ['a lossless fine-tune, in the middle of its delta', upload('tuned', { parent }), MIB / 2],
  [
    'an int4 fine-tune, in the middle of its files',
    upload('tuned', { parent, strategy: 'int4' }),
    MIB,
  ],
  [
    'an int4 fine-tune, in the middle of its delta',
    upload('tuned', { parent, strategy: 'int4' }),
    2 * MIB + MIB / 4,
  ],
  [
    'a .wdelta',
    { path: '/deltas', fields: { name: 'acme/tuned' }, field: 'delta', files: [wdeltaFile] },
    PAGE_BYTES * Math.floor(statSync(wdeltaFile).size / PAGE_BYTES / 2),
  ],
]
for (const [what, tuned, room] of cases) {
  t.test(what, async t => {
    using disk = newDisk()
    let server = await restart(disk.data)
    const base = await publish(server, upload('base'))
    disk.leave(room)
    await overflow(t, server, disk, tuned)
    await checkWhole(t, server, base)
    disk.leave(DISK_BYTES)
    const models = [base, await publish(server, tuned), await publish(server, small)]
    await server.kill()
    server = await restart(disk.data)
    await checkInvariants(t, server, disk.data, models)
    await server.stop()
  })
}

t.test('a disk that has room for so many pages: a model goes in, or nothing does', async t => {
  using disk = newDisk()
  let server = await restart(disk.data)
  const models: Model[] = [await publish(server, upload('base'))]
  for (let pages = 0; models.length < 2; pages++) {
    disk.leave(pages * PAGE_BYTES)
    const response = await send(server, upload('tiny'))
    if (response.status === 201) models.push((await response.json()) as Model)
    else t.match(await response.json(), { status: 507, code: 'storage-full' }, `${pages} pages`)
    t.strictSame(await listAll(server), models.toReversed())
  }
  const said = (text: string) => server.log.some(line => line.includes(text))
  t.ok(said('no space left to write'), 'the store was full')
  t.ok(said('no space left for the catalog'), 'the catalog was full')
  disk.leave(0)
  await server.kill()
  server = await restart(disk.data)
  for (const model of models) await checkWhole(t, server, model)
  disk.leave(DISK_BYTES)
  models.push(await publish(server, small))
  await server.kill()
  server = await restart(disk.data)
  await checkInvariants(t, server, disk.data, models)
  await server.stop()
})

const ready = async ({ url }: ServerProcess) => (await fetch(`${url}/readyz`)).status
const remove = async ({ url }: ServerProcess, { id }: Model) =>
  (await fetch(`${url}/models/${id}`, { method: 'DELETE' })).status
const sweep = async ({ url }: ServerProcess) =>
  (await fetch(`${url}/admin/sweep`, { method: 'POST' })).status

/** Models of one revision, so that deletions leave tombstones. Then not a block of the disk is left. */
async function fill(server: ServerProcess, disk: Disk): Promise<Model[]> {
  const models: Model[] = []
  for (const name of ['small', 'base', 'tiny', 'small', 'tiny', 'small']) {
    models.push(
      await publish(server, upload(name, { name: 'acme/model', message: `${models.length}` })),
    )
  }
  disk.leave(0)
  return models
}

t.test('a disk that is full to its last block is emptied by deleting models', async t => {
  using disk = newDisk()
  let server = await restart(disk.data)
  t.equal(await ready(server), 200)
  const models = await fill(server, disk)
  t.equal(disk.free, 0)
  t.equal((await send(server, small)).status, 507)
  await sleep(READY_MS)
  t.equal(await ready(server), 503)
  const kept = models.shift()!
  for (const model of models.toReversed()) t.equal(await remove(server, model), 204)
  t.strictSame(await listAll(server), [kept])
  t.equal(await sweep(server), 200)
  await checkWhole(t, server, kept)
  const again = await publish(server, upload('tiny', { name: 'acme/again' }))
  disk.leave(DISK_BYTES)
  await sleep(READY_MS)
  t.equal(await ready(server), 200)
  await server.kill()
  server = await restart(disk.data)
  await checkInvariants(t, server, disk.data, [kept, again])
  await server.stop()
})

t.test(`${KILLS} kills while a full disk is emptied`, async t => {
  for (let kill = 0; kill < KILLS; kill++) {
    using disk = newDisk()
    let server = await restart(disk.data)
    const models = await fill(server, disk)
    const emptying = (async () => {
      for (const model of models.slice(1).reverse()) await remove(server, model)
      await sweep(server)
      // Cut off in the middle, wherever that is.
    })().catch(() => {})
    await sleep((kill * EMPTYING_MS) / KILLS)
    await server.kill()
    await emptying
    server = await restart(disk.data)
    const left = await listAll(server)
    // They went from the newest on, and each is there as a whole or not at all.
    t.strictSame(left, models.slice(0, left.length).reverse())
    t.ok(left.length > 0)
    for (const model of left) await checkWhole(t, server, model)
    for (const model of left.slice(0, -1)) t.equal(await remove(server, model), 204)
    t.equal(await sweep(server), 200)
    disk.leave(DISK_BYTES)
    const again = await publish(server, upload('small', { name: 'acme/again' }))
    await checkInvariants(t, server, disk.data, [models[0]!, again])
    await server.stop()
  }
})
