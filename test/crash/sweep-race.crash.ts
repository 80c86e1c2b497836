import { createHash } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import t, { type Test } from 'tap'
import type { Model } from '../../src/registry/registry.ts'
import type { ServerProcess } from '../support/servers/server-process.ts'
import { type Fresh, FreshModels, sendFresh } from './fresh-models.ts'
import {
  checkFolder,
  checkRebuild,
  checkScrub,
  checkWhole,
  listAll,
  startSwept,
  sweep,
} from './scene.ts'

const { FULL, SEED = String(Math.floor(Math.random() * 2 ** 31)) } = process.env
const RUN_MS = FULL ? 60_000 : 6000
const SWEEP_EVERY_MS = 50
const [UPLOADERS, DELETERS, READERS] = [8, 4, 8]
const SIZE = 1024 * 1024
/** Deleters leave so many models. */
const KEPT = 24
/** Between two looks of who finds nothing to do. */
const PAUSE_MS = 5

/** A model that was acknowledged, and what has become of it. */
interface Entry {
  readonly model: Model
  state: 'there' | 'being deleted' | 'deleted'
}

const models = await FreshModels.make(t.testdir({}), SIZE, Number(SEED))
const { random } = models

/** What the clients know, and what they count. */
class Race {
  readonly server: ServerProcess
  readonly entries: Entry[] = []
  readonly counts = { published: 0, refused: 0, deleted: 0, kept: 0, read: 0, gone: 0, sweeps: 0 }
  readonly #t: Test
  readonly #until = performance.now() + RUN_MS

  constructor(t: Test, server: ServerProcess) {
    this.#t = t
    this.server = server
  }

  get isOn(): boolean {
    return performance.now() < this.#until
  }

  get there(): Entry[] {
    return this.entries.filter(({ state }) => state === 'there')
  }

  fail(message: string): void {
    this.#t.fail(message)
  }
}

function nextUpload(uploader: number, parent: Entry | undefined): Fresh {
  const name = `acme/m${uploader}`
  const kind = parent ? random.below(4) : random.below(2)
  if (kind < 2) return models.base(name, kind === 1)
  return models.tuned(name, parent!.model.id, kind === 2 ? 'lossless' : 'int4')
}

async function upload(race: Race, uploader: number): Promise<void> {
  while (race.isOn) {
    const parents = race.there
    const parent = parents.length > 0 ? random.pick(parents) : undefined
    const fresh = nextUpload(uploader, parent)
    const response = await sendFresh(race.server, fresh)
    const body = await response.json()
    if (response.status === 201) {
      const model = body as Model
      race.counts.published++
      race.entries.push({ model, state: 'there' })
      if (fresh.sha256 !== null && fresh.sha256 !== model.sha256) race.fail('another SHA-256')
      continue
    }
    race.counts.refused++
    const { code } = body as { code: string }
    const known = ['parent-deleted', 'parent-unknown', 'chain-too-deep'].includes(code)
    const isGone = fresh.fields['parent'] !== undefined && parent!.state !== 'there'
    if (!known || (code !== 'chain-too-deep' && !isGone)) race.fail(`upload: ${code}`)
  }
}

async function remove(race: Race): Promise<void> {
  while (race.isOn) {
    const candidates = race.there
    if (candidates.length <= KEPT) {
      await sleep(PAUSE_MS)
      continue
    }
    const entry = random.pick(candidates)
    entry.state = 'being deleted'
    const url = `${race.server.url}/models/${entry.model.id}`
    const { status } = await fetch(url, { method: 'DELETE' })
    if (status === 204) {
      entry.state = 'deleted'
      race.counts.deleted++
    } else if (status === 409) {
      // It has children.
      entry.state = 'there'
      race.counts.kept++
    } else race.fail(`delete: ${status}`)
  }
}

async function read(race: Race): Promise<void> {
  while (race.isOn) {
    // Of the newest, some are deleted already.
    const candidates = race.entries.slice(-2 * KEPT)
    if (candidates.length === 0) {
      await sleep(PAUSE_MS)
      continue
    }
    const entry = random.pick(candidates)
    const { id, sha256 } = entry.model
    const before = entry.state
    const response = await fetch(`${race.server.url}/models/${id}/reconstruct`)
    const bytes = await response.bytes()
    if (response.status === 200) {
      race.counts.read++
      const hash = createHash('sha256').update(bytes).digest('hex')
      if (hash !== sha256) race.fail(`${id}: wrong bytes`)
      if (before === 'deleted') race.fail(`${id} was deleted, and is still there`)
    } else {
      race.counts.gone++
      if (response.status !== 404 || entry.state === 'there') {
        race.fail(`read: ${response.status} ${Buffer.from(bytes)}`)
      }
    }
  }
}

async function sweepOften(race: Race): Promise<void> {
  const sweeps: Promise<unknown>[] = []
  while (race.isOn) {
    const one = sweep(race.server, false).then(
      () => race.counts.sweeps++,
      error => race.fail(`sweep: ${error}`),
    )
    sweeps.push(one)
    await sleep(SWEEP_EVERY_MS)
  }
  await Promise.all(sweeps)
}

const what = `a sweep every ${SWEEP_EVERY_MS} ms for ${RUN_MS / 1000} s, seed ${SEED}`
t.test(what, async t => {
  const data = t.testdir({})
  let server = await startSwept(data)
  const race = new Race(t, server)
  const times = (count: number, work: (i: number) => Promise<void>) =>
    Array.from({ length: count }, (_, i) => work(i))
  await Promise.all([
    ...times(UPLOADERS, i => upload(race, i)),
    ...times(DELETERS, () => remove(race)),
    ...times(READERS, () => read(race)),
    sweepOften(race),
  ])
  t.comment(JSON.stringify(race.counts))
  for (const [counted, count] of Object.entries(race.counts)) t.ok(count > 0, counted)

  await sweep(server, false)
  t.strictSame((await sweep(server, false)).deleted, [], 'the second sweep finds nothing')
  const listed = await listAll(server)
  t.strictSame(
    new Set(listed.map(({ id }) => id)),
    new Set(race.there.map(({ model }) => model.id)),
    'what was acknowledged and not deleted is there, and nothing else',
  )
  for (const model of listed) await checkWhole(t, server, model)
  await checkScrub(t, server)
  await checkFolder(t, server, data)
  server = await checkRebuild(t, server, data)
  await server.stop()
})
