import t from 'tap'
import type { Catalog } from '../../../src/catalog/catalog.ts'
import { RegistryError } from '../../../src/errors.ts'
import { Readiness } from '../../../src/registry/care/readiness.ts'
import type { BlobStore } from '../../../src/storage/blob-store.ts'
import { UNLIMITED } from '../../../src/storage/disk-room.ts'
import { openTestRegistry } from '../../support/servers/test-registry.ts'

/** A store that answers when it is told to, and a clock that goes when it is told to. */
function scene() {
  const looks: PromiseWithResolvers<number>[] = []
  let now = 0
  const upstream = {
    size: () => {
      looks.push(Promise.withResolvers())
      return looks.at(-1)!.promise
    },
  }
  const catalog = { identity: async () => '0'.repeat(32) } as Partial<Catalog>
  const blobs = { upstream } as unknown as BlobStore
  const readiness = new Readiness(catalog as Catalog, blobs, UNLIMITED, () => now)
  const pass = (ms: number) => {
    now += ms
  }
  return { readiness, looks, pass, turn: () => new Promise(setImmediate) }
}

t.test('the store is looked at once for all who ask at once, and for a second after', async t => {
  const { readiness, looks, pass, turn } = scene()
  const first = Array.from({ length: 100 }, () => readiness.check())
  await turn()
  pass(5000)
  first.push(readiness.check())
  await turn()
  t.equal(looks.length, 1, 'a slow look is not joined by a second one')
  looks[0]!.resolve(33)
  await Promise.all(first)
  pass(999)
  await readiness.check()
  t.equal(looks.length, 1)
  pass(1)
  const second = readiness.check()
  await turn()
  t.equal(looks.length, 2)
  looks[1]!.resolve(33)
  await second
})

t.test('so is a refusal told, until the store answers again', async t => {
  const { readiness, looks, pass, turn } = scene()
  const first = readiness.check()
  first.catch(() => {})
  await turn()
  looks[0]!.reject(new RegistryError('storage-unavailable', 'gone'))
  await t.rejects(first, { code: 'storage-unavailable' })
  await t.rejects(readiness.check(), { code: 'storage-unavailable' })
  t.equal(looks.length, 1)
  pass(1000)
  const again = readiness.check()
  await turn()
  looks[1]!.resolve(33)
  await again
})

t.test('a registry is ready while its catalog and its store answer', async t => {
  const { registry, catalog } = await openTestRegistry(t)
  await registry.care.ready()
  await catalog.close()
  await t.rejects(registry.care.ready(), { code: 'catalog-failed' })
})
