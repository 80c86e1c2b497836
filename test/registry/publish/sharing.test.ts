import { globSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { RegistryError } from '../../../src/errors.ts'
import { openRegistry } from '../../../src/registry/open-registry.ts'
import type { Model, Registry, UploadPart } from '../../../src/registry/registry.ts'
import type { Pool } from '../../../src/workers/pool.ts'
import { modelFile } from '../../support/models/model-file.ts'
import { before, bytesOf, openTestRegistry, part } from '../../support/servers/test-registry.ts'

const CONFIG = Buffer.from('{"architectures":["LlamaForCausalLM"]}\n')

/** A safetensors file of four bytes, told apart by one of them. */
function weights(byte: number): Buffer {
  return modelFile([{ name: 'w', dtype: 'U8', shape: [4], data: Uint8Array.of(byte, 1, 2, 3) }])
}

type Steps = 'proof' | 'manifest' | 'row'

/** The same pool, with something done before the hashes of a model are taken. */
function beforeProof(pool: Pool, work: () => Promise<void>): Pool {
  return new Proxy(pool, {
    get: (target, name) => {
      const member = Reflect.get(target, name)
      if (typeof member !== 'function') return member
      if (name !== 'openModelHash') return member.bind(target)
      return (...args: Parameters<Pool['openModelHash']>) =>
        before(target.openModelHash(...args), 'update', work)
    },
  })
}

/** A registry whose first publications are held up at one step, each until it is told how to go on. */
async function openHeld(t: Test, step: Steps, held: number) {
  const { registry: first, pool, blobs, catalog, folder } = await openTestRegistry(t)
  await first.close()
  const waiting: PromiseWithResolvers<void>[] = []
  const arrivals = Array.from({ length: held }, () => Promise.withResolvers<void>())
  let isOpen = false
  const hold = async () => {
    if (!isOpen || waiting.length === held) return
    const turn = Promise.withResolvers<void>()
    waiting.push(turn)
    arrivals[waiting.length - 1]!.resolve()
    await turn.promise
  }
  const ofManifests = async (key: unknown) => String(key).startsWith('manifests/') && hold()
  const registry = await openRegistry({
    pool: step === 'proof' ? beforeProof(pool, hold) : pool,
    blobs: step === 'manifest' ? before(blobs, 'stage', ofManifests) : blobs,
    catalog: step === 'row' ? before(catalog, 'insertModel', hold) : catalog,
    scratch: folder,
    sweepGraceMs: 0,
  })
  t.teardown(() => registry.close())
  isOpen = true
  const stored = () =>
    globSync('{staged/*,blobs/*/*,manifests/*/*}', { cwd: join(folder, 'store') })
  /** Resolves when so many are held up. */
  const arrived = (count: number) => arrivals[count - 1]!.promise
  return { registry, waiting, arrived, allHeld: arrived(held), stored }
}

function publish(registry: Registry, name: string, byte: number, signal?: AbortSignal) {
  const parts = async function* (): AsyncGenerator<UploadPart> {
    yield part('config.json', CONFIG)
    yield part('model.safetensors', weights(byte))
  }
  const naming = { name, revision: 'main', message: '' }
  return registry.publish.files(naming, parts(), signal ?? new AbortController().signal)
}

/** The models come back as they were published, and the store holds them and nothing else. */
async function checkStore(
  t: Test,
  { registry, stored }: Awaited<ReturnType<typeof openHeld>>,
  models: readonly Model[],
) {
  t.strictSame((await registry.care.sweep({ dryRun: false })).deleted, [], 'nothing is left over')
  const contents = new Set<string>()
  for (const { id, files } of models) {
    for (const { path, sha256 } of files) {
      contents.add(sha256)
      t.equal((await bytesOf(await registry.models.openFile(id, path))).length > 0, true)
    }
  }
  t.equal(stored().length, contents.size + models.length, 'each content once, and the manifests')
  t.equal(registry.figures().badBlocks, 0)
  for (const { id } of models) await registry.models.remove(id)
  await registry.care.sweep({ dryRun: false })
  t.strictSame(stored(), [])
}

const FAILED = new RegistryError('storage-failed', 'no')

for (const step of ['proof', 'manifest', 'row'] as const) {
  t.test(`whoever shares a file with a publication before its ${step} does not wait`, async t => {
    const held = await openHeld(t, step, 1)
    const large = publish(held.registry, 'acme/large', 1)
    await held.allHeld
    const small = await publish(held.registry, 'acme/small', 2)
    const same = await publish(held.registry, 'acme/same', 1)
    held.waiting[0]!.resolve()
    await checkStore(t, held, [await large, small, same])
  })

  for (const how of ['fails', 'is aborted'] as const) {
    const end = (turn: PromiseWithResolvers<void>, abort: AbortController) => {
      if (how === 'fails') return turn.reject(FAILED)
      abort.abort(FAILED)
      turn.resolve()
    }

    t.test(`one that ${how} at its ${step} after another took its files`, async t => {
      const held = await openHeld(t, step, 1)
      const abort = new AbortController()
      const first = publish(held.registry, 'acme/first', 1, abort.signal)
      await held.allHeld
      const second = await publish(held.registry, 'acme/second', 1)
      end(held.waiting[0]!, abort)
      // An abort that comes when the row is being inserted comes too late.
      const outcome = await first.catch(error => t.equal(error.code, FAILED.code))
      const models = step === 'row' && how === 'is aborted' ? [second, outcome as Model] : [second]
      await checkStore(t, held, models)
    })

    t.test(`one that ${how} at its ${step} while another needs its files`, async t => {
      const held = await openHeld(t, step, 2)
      const abort = new AbortController()
      const first = publish(held.registry, 'acme/first', 1, abort.signal)
      await held.arrived(1)
      const second = publish(held.registry, 'acme/second', 1)
      await held.allHeld
      end(held.waiting[0]!, abort)
      const [outcome] = await Promise.allSettled([first])
      held.waiting[1]!.resolve()
      const models = [await second]
      if (outcome.status === 'fulfilled') models.push(outcome.value)
      await checkStore(t, held, models)
    })
  }

  t.test(`the last one that fails at its ${step} takes the files with it`, async t => {
    const held = await openHeld(t, step, 3)
    const publications = [0, 1, 2].map(i => publish(held.registry, `acme/m${i}`, 1))
    await held.allHeld
    for (const [i, turn] of held.waiting.entries()) {
      t.ok(held.stored().length >= 2, 'the others need them')
      turn.reject(FAILED)
      if (i < 2) await Promise.race(publications.map(one => one.catch(() => {})))
    }
    for (const one of publications) await t.rejects(one, { code: FAILED.code })
    t.strictSame(held.stored(), [])
    const again = await publish(held.registry, 'acme/again', 1)
    await checkStore(t, held, [again])
  })
}

for (const count of [2, 32]) {
  for (const isSame of [true, false]) {
    const what = isSame ? 'all files' : 'one file'
    t.test(`${count} at once that share ${what}, every other one of which fails`, async t => {
      const held = await openHeld(t, 'row', count)
      const publications = Array.from({ length: count }, (_, i) =>
        publish(held.registry, `acme/m${i}`, isSame ? 0 : i),
      )
      // None has a row yet: nobody waits for that of another.
      await held.allHeld
      for (const [i, turn] of held.waiting.entries()) {
        if (i % 2 === 0) turn.reject(FAILED)
        else turn.resolve()
      }
      const outcomes = await Promise.allSettled(publications)
      const models = outcomes.flatMap(one => (one.status === 'fulfilled' ? [one.value] : []))
      t.equal(models.length, count / 2)
      await checkStore(t, held, models)
    })
  }
}

t.test('a model that is deleted while others share its files before their rows', async t => {
  const held = await openHeld(t, 'row', 2)
  const first = publish(held.registry, 'acme/first', 1)
  await held.arrived(1)
  const second = publish(held.registry, 'acme/second', 1)
  await held.allHeld
  held.waiting[0]!.resolve()
  await held.registry.models.remove((await first).id)
  t.strictSame(
    (await held.registry.care.sweep({ dryRun: false })).deleted,
    [],
    'the second needs them',
  )
  held.waiting[1]!.resolve()
  await checkStore(t, held, [await second])
})
