import type { TAP, Test } from 'tap'
import type { Catalog } from '../../src/catalog/catalog.ts'
import { blobContract } from './contract/blobs.ts'
import { damageContract } from './contract/damage.ts'
import { modelContract } from './contract/models.ts'
import { parentContract } from './contract/parents.ts'
import { type CatalogTest, token } from './contract/samples.ts'

/** The behaviour that every catalog has. `open` gives an empty one, and closes it with the test. */
export function catalogContract(t: TAP, open: (t: Test) => Promise<Catalog>): void {
  const test: CatalogTest = (name, fn) => {
    t.test(name, async t => fn(t, await open(t)))
  }
  modelContract(test)
  parentContract(test)
  blobContract(test)
  damageContract(test)

  test('it knows which catalog it is', async (t, catalog) => {
    const identity = await catalog.identity()
    t.match(identity, /^[0-9a-f]{32}$/)
    t.equal(await catalog.identity(), identity)
    await catalog.setIdentity('0'.repeat(32))
    t.equal(await catalog.identity(), '0'.repeat(32))
  })

  test('a token is found by its id, listed in pages and deleted', async (t, catalog) => {
    const [one, two] = [token('1'), token('2', { expiresAt: '2027-01-01T00:00:00.000Z' })]
    await catalog.insertToken(one)
    await catalog.insertToken(two)
    t.strictSame({ ...(await catalog.findToken('2')) }, two)
    t.equal(await catalog.findToken('3'), null)
    const page = await catalog.listTokens({ limit: 1 })
    t.equal(page.tokens[0]!.id, '2')
    t.match(await catalog.listTokens({ limit: 1, cursor: page.next! }), {
      tokens: [{ id: '1' }],
      next: null,
    })
    t.equal((await catalog.listTokens({ limit: 10 })).tokens.length, 2)
    await t.rejects(catalog.listTokens({ limit: 1, cursor: 'x' }), { code: 'bad-request' })
    await catalog.deleteToken('1')
    t.equal(await catalog.findToken('1'), null)
    await t.rejects(catalog.deleteToken('1'), { code: 'token-not-found' })
  })
}
