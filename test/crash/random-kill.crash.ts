import { setTimeout as sleep } from 'node:timers/promises'
import t, { type Test } from 'tap'
import type { Model } from '../../src/registry/registry.ts'
import type { ServerProcess } from '../support/servers/server-process.ts'
import { type Fresh, FreshModels, sendFresh } from './fresh-models.ts'
import { checkFolder, checkRebuild, checkScrub, checkWhole, listAll, startSwept } from './scene.ts'

const { FULL, SEED = String(Math.floor(Math.random() * 2 ** 31)) } = process.env
const KILLS = FULL ? 200 : 12
const UPLOADERS = 4
/** A server lives so long at most once it listens. */
const LIFE_MS = 2000
const SIZE = 4 * 1024 * 1024
/** Models that an uploader keeps; it deletes what is older. */
const KEPT = 8
/** Models that are read back after each kill, in turn. */
const SAMPLE = 6
const BASE = 'acme/base'

/** What the clients of one server after the other know. */
class Ledger {
  /** By id: acknowledged with 201, or seen to be whole after a kill; and not deleted. */
  readonly there = new Map<string, Model>()
  /** By id: the deletion was acknowledged with 204. */
  readonly deleted = new Set<string>()
  #sampled = 0

  /** The next few models, so that all have their turn. */
  sample(): Model[] {
    const all = [...this.there.values()]
    return Array.from(
      { length: Math.min(SAMPLE, all.length) },
      () => all[this.#sampled++ % all.length]!,
    )
  }
}

const models = await FreshModels.make(t.testdir({}), SIZE, Number(SEED))
const { random } = models

function nextUpload(uploader: number): Fresh {
  const own = `acme/own-${uploader}`
  const other = `acme/other-${uploader}`
  switch (random.below(5)) {
    case 0:
      return models.base(other)
    case 1:
      return models.base(other, true)
    case 2:
      return models.tuned(other, BASE, 'int4')
    // Moves the one revision that only this uploader has.
    case 3:
      return models.tuned(own, BASE, 'int4')
    default:
      return models.tuned(own, BASE, 'lossless')
  }
}

/** Publishes and deletes until the server is gone. */
async function work(t: Test, server: ServerProcess, ledger: Ledger, uploader: number) {
  const own = [...ledger.there.values()].filter(({ name }) => name.endsWith(`-${uploader}`))
  const ids = own.sort((a, b) => (a.createdAt < b.createdAt ? -1 : 1)).map(({ id }) => id)
  try {
    for (;;) {
      const fresh = nextUpload(uploader)
      const response = await sendFresh(server, fresh)
      if (response.status !== 201) {
        const errors = server.log.filter(line => line.includes('"level":50'))
        throw new Error(`${response.status}: ${await response.text()}\n${errors.join('\n')}`)
      }
      const model = (await response.json()) as Model
      ledger.there.set(model.id, model)
      ids.push(model.id)
      if (fresh.sha256 !== null) t.equal(model.sha256, fresh.sha256)
      if (ids.length > KEPT) await remove(t, server, ledger, ids.shift()!)
    }
  } catch (error) {
    // What fetch says of a connection that ended.
    if (!(error instanceof TypeError)) throw error
  }
}

/** Until the answer is there, the model may be there or not. */
async function remove(t: Test, { url }: ServerProcess, ledger: Ledger, id: string) {
  ledger.there.delete(id)
  const { status } = await fetch(`${url}/models/${id}`, { method: 'DELETE' })
  t.equal(status, 204)
  ledger.deleted.add(id)
}

/** What is there after a kill is what was acknowledged, and of what was under way, whole models. */
async function check(t: Test, server: ServerProcess, data: string, ledger: Ledger): Promise<void> {
  const listed = new Map((await listAll(server)).map(model => [model.id, model]))
  for (const model of ledger.there.values()) {
    t.strictSame(listed.get(model.id), model, `${model.name} is there`)
  }
  const unknown = [...listed.values()].filter(({ id }) => !ledger.there.has(id))
  t.strictSame(
    unknown.filter(({ id }) => ledger.deleted.has(id)),
    [],
    'what was deleted does not come back',
  )
  t.ok(unknown.length <= UPLOADERS, `${unknown.length} were under way`)
  for (const model of [...unknown, ...ledger.sample()]) await checkWhole(t, server, model)
  for (const model of unknown) ledger.there.set(model.id, model)
  await checkScrub(t, server)
  await checkFolder(t, server, data)
}

t.test(`${KILLS} kills at random times, seed ${SEED}`, async t => {
  const data = t.testdir({})
  const ledger = new Ledger()
  let server = await startSwept(data)
  const first = await sendFresh(server, models.base(BASE))
  t.equal(first.status, 201)
  const base = (await first.json()) as Model
  ledger.there.set(base.id, base)
  for (let kill = 0; kill < KILLS; kill++) {
    const working = Array.from({ length: UPLOADERS }, (_, i) => work(t, server, ledger, i))
    await sleep(random.below(LIFE_MS))
    await server.kill()
    await Promise.all(working)
    server = await startSwept(data)
    await t.test(`kill ${kill + 1}`, t => check(t, server, data, ledger))
  }
  t.comment(`${ledger.there.size} models are there, ${ledger.deleted.size} were deleted`)
  for (const model of ledger.there.values()) await checkWhole(t, server, model)
  server = await checkRebuild(t, server, data)
  await server.stop()
})
