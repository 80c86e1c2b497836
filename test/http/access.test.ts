import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { request } from 'node:http'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import type { Scope } from '../../src/registry/registry.ts'
import { goldenCase } from '../support/models/golden-cases.ts'
import { FORM_TYPE, formOf } from '../support/servers/forms.ts'
import { listen } from '../support/servers/test-app.ts'
import { openTestRegistry } from '../support/servers/test-registry.ts'

const ADMIN = 'configured-by-hand'

/** A registry that asks for tokens, over a folder, and one token of each scope. */
async function openGuarded(t: Test) {
  const opened = await openTestRegistry(t)
  const { registry } = opened
  const served = await listen(t, {}, { registry, auth: { mode: 'tokens', adminToken: ADMIN } })
  const tokenOf = (scope: Scope) => registry.tokens.create({ name: scope, scope })
  return { ...opened, ...served, tokenOf }
}

/** Sends a request whose last byte waits for `meanwhile`, and returns its answer. */
async function postInTwo(
  url: string,
  token: string,
  form: Buffer,
  meanwhile: () => Promise<unknown>,
) {
  const sent = request(url, {
    method: 'POST',
    headers: {
      authorization: `Bearer ${token}`,
      'content-type': FORM_TYPE,
      'content-length': form.length,
    },
  })
  const answered = once(sent, 'response')
  await new Promise(resolve => sent.write(form.subarray(0, -1), resolve))
  await meanwhile()
  sent.end(form.subarray(-1))
  const [answer] = await answered
  const chunks: Buffer[] = []
  for await (const chunk of answer) chunks.push(chunk)
  return { status: answer.statusCode, body: JSON.parse(Buffer.concat(chunks).toString()) }
}

const { base, deltas } = goldenCase('int4-bf16')
const BASE = readFileSync(join(base, 'model.safetensors'))
const DELTA = readFileSync(deltas[0]!)

type Attempt = readonly [what: string, path: string, form: Buffer]

const UPLOADS: readonly [Attempt, ...Attempt[]] = [
  [
    'a base',
    '/models',
    formOf([
      ['name', 'acme/late'],
      ['file', BASE, 'model.safetensors'],
    ]),
  ],
  ...(['lossless', 'int4', 'whole'] as const).map(
    strategy =>
      [
        `a fine-tune, ${strategy}`,
        '/models',
        formOf([
          ['name', 'acme/late'],
          ['parent', 'acme/base'],
          ['strategy', strategy],
          ['file', BASE, 'model.safetensors'],
        ]),
      ] as const,
  ),
  [
    'a delta',
    '/deltas',
    formOf([
      ['name', 'acme/late'],
      ['delta', DELTA, 'd.wdelta'],
    ]),
  ],
]

t.test('a token that is revoked while its upload comes in publishes nothing', async t => {
  const { registry, blobs, url, tokenOf } = await openGuarded(t)
  const admin = await tokenOf('write')
  const base = formOf([
    ['name', 'acme/base'],
    ['file', BASE, 'model.safetensors'],
  ])
  t.match(await postInTwo(`${url}/models`, admin.token, base, async () => {}), { status: 201 })
  const stored = async () => (await Array.fromAsync(blobs.list(''))).map(({ key }) => key).sort()
  const before = await stored()
  for (const [what, path, form] of UPLOADS) {
    const { id, token } = await tokenOf('write')
    const revoke = () => registry.tokens.revoke(id)
    const refused = await postInTwo(url + path, token, form, revoke)
    t.match(refused, { status: 401, body: { code: 'unauthorized' } }, what)
    t.match(await registry.models.list({ limit: 10 }), { models: [{ name: 'acme/base' }] }, what)
    t.strictSame(await stored(), before, `${what} leaves no bytes`)
    const other = await tokenOf('write')
    const kept = () => registry.tokens.revoke(other.id)
    const { token: honest } = await tokenOf('write')
    const published = await postInTwo(url + path, honest, form, kept)
    t.match(published, { status: 201 }, `${what} with a token that lives on`)
    await registry.models.remove('acme/late')
    await registry.care.sweep({ dryRun: false })
  }
})

t.test('a token that expires while its upload comes in publishes nothing', async t => {
  const { registry, url } = await openGuarded(t)
  const expiresAt = new Date(Date.now() + 3_600_000).toISOString()
  const { token } = await registry.tokens.create({ name: 'short', scope: 'write', expiresAt })
  const [[, path, form]] = UPLOADS
  const now = Date.now
  t.teardown(() => {
    Date.now = now
  })
  const anHourLater = async () => {
    Date.now = () => now() + 3_600_000
  }
  t.match(await postInTwo(url + path, token, form, anHourLater), { status: 401 })
  t.match(await registry.models.list({ limit: 10 }), { models: [] })
})

t.test(
  'what deletes asks for an admin token, everything that publishes for no more than write',
  async t => {
    const { registry, url, tokenOf } = await openGuarded(t)
    const { token } = await tokenOf('write')
    const [[, path, form]] = UPLOADS
    const { body } = await postInTwo(url + path, token, form, async () => {})
    const remove = async (ref: string, bearer: string) => {
      const headers = { authorization: `Bearer ${bearer}` }
      return (await fetch(`${url}/models/${ref}`, { method: 'DELETE', headers })).status
    }
    for (const ref of [body.id, 'acme%2Flate', 'acme%2Flate%40main', 'no%2Fsuch']) {
      t.equal(await remove(ref, token), 403, `${ref} with a write token`)
      t.equal(await remove(ref, (await tokenOf('read')).token), 403, `${ref} with a read token`)
    }
    t.match(await registry.models.list({ limit: 10 }), { models: [{ id: body.id }] })
    t.equal(await remove(body.id, (await tokenOf('admin')).token), 204)
    t.equal(await remove(body.id, ADMIN), 404)
  },
)
