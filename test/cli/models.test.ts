import t from 'tap'
import { wdelta, wdeltaIn } from '../support/servers/wdelta-process.ts'
import { json, openFakeRegistry } from './fake-registry.ts'

const model = (i: number) => ({
  id: String(i).padStart(40, '0'),
  name: 'acme/tiny',
  revision: `v${i}`,
  kind: i === 0 ? 'base' : 'delta',
  strategy: i === 0 ? 'whole' : 'int4',
  size: 988_097_824,
  storedSize: 999,
})

t.test('ls asks for every page', async t => {
  const { url, seen } = await openFakeRegistry(t, ({ url }, response) => {
    const last = url.includes('cursor=')
    json(response, 200, { models: [model(last ? 0 : 1)], next: last ? null : 'a b' })
  })
  const ran = await wdelta('ls', { registry: url, name: 'acme/tiny', parent: 'a/b@c' })
  t.match(ran, { code: 0, stderr: '' })
  t.strictSame(ran.stdout.split('\n'), [
    'NAME       REVISION  KIND   STRATEGY  SIZE    STORED  ID',
    `acme/tiny  v1        delta  int4      988 MB  999 B   ${model(1).id}`,
    `acme/tiny  v0        base   whole     988 MB  999 B   ${model(0).id}`,
    '',
  ])
  t.strictSame(
    seen.map(one => one.url),
    [
      '/models?name=acme%2Ftiny&parent=a%2Fb%40c&limit=100',
      '/models?name=acme%2Ftiny&parent=a%2Fb%40c&limit=100&cursor=a+b',
    ],
  )
  const all = await wdelta('ls', { registry: url, json: true })
  t.strictSame(JSON.parse(all.stdout), [model(1), model(0)])
})

t.test('an empty registry has a heading and nothing else', async t => {
  const { url } = await openFakeRegistry(t, (_seen, response) => {
    json(response, 200, { models: [], next: null })
  })
  const ran = await wdelta('ls', { registry: url })
  t.equal(ran.stdout, 'NAME  REVISION  KIND  STRATEGY  SIZE  STORED  ID\n')
})

t.test('lineage and rm name the model in one segment', async t => {
  const { url, seen } = await openFakeRegistry(t, ({ method }, response) => {
    if (method === 'DELETE') response.writeHead(204).end()
    else json(response, 200, { lineage: [model(0), model(1)] })
  })
  const lineage = await wdelta('lineage', 'acme/tiny@v1', { registry: url })
  t.match(lineage, { code: 0, stderr: '' })
  t.match(lineage.stdout, /^NAME.*\nacme\/tiny {2}v0 .*\nacme\/tiny {2}v1 .*\n$/)
  const json_ = await wdelta('lineage', 'acme/tiny', { registry: url, json: true })
  t.strictSame(JSON.parse(json_.stdout), [model(0), model(1)])
  t.match(await wdelta('rm', 'acme/tiny', { registry: url }), { code: 0, stdout: '', stderr: '' })
  t.strictSame(
    seen.map(one => `${one.method} ${one.url}`),
    [
      'GET /models/acme%2Ftiny%40v1/lineage',
      'GET /models/acme%2Ftiny/lineage',
      'DELETE /models/acme%2Ftiny',
    ],
  )
})

t.test('a lineage and the tokens are asked for to the last page', async t => {
  const token = { id: 't', name: 'ci', scope: 'read', createdAt: 'now', expiresAt: null }
  const { url, seen } = await openFakeRegistry(t, ({ url }, response) => {
    const next = url.includes('cursor=') ? null : 'a b'
    if (url.startsWith('/tokens')) json(response, 200, { tokens: [token], next })
    else json(response, 200, { lineage: [model(next === null ? 1 : 0)], next })
  })
  const lineage = await wdelta('lineage', 'acme/tiny', { registry: url, json: true })
  t.strictSame(JSON.parse(lineage.stdout), [model(0), model(1)])
  const tokens = await wdelta('token', 'list', { registry: url, json: true })
  t.strictSame(JSON.parse(tokens.stdout), [token, token])
  t.strictSame(
    seen.map(one => one.url),
    [
      '/models/acme%2Ftiny/lineage',
      '/models/acme%2Ftiny/lineage?cursor=a+b',
      '/tokens',
      '/tokens?cursor=a+b',
    ],
  )
})

t.test('tokens are made, listed and revoked', async t => {
  const token = {
    id: 't1',
    name: 'ci',
    scope: 'write',
    createdAt: '2026-11-23T07:00:00.000Z',
    expiresAt: null,
  }
  const { url, seen } = await openFakeRegistry(t, ({ method }, response) => {
    if (method === 'DELETE') response.writeHead(204).end()
    else if (method === 'POST') json(response, 201, { ...token, token: 'secret' })
    else json(response, 200, { tokens: [token] })
  })
  const run = wdeltaIn({ WDELTA_REGISTRY: url })
  const options = { scope: 'write', expiresAt: '2027-01-01T00:00:00Z' }
  const created = await run('token', 'create', 'ci', options)
  t.match(created, { code: 0, stdout: 'secret\n', stderr: '' })
  const body = { name: 'ci', ...options }
  t.strictSame(JSON.parse(seen[0]!.body.toString()), body)
  t.match(seen[0], { url: '/tokens', headers: { 'content-type': 'application/json' } })
  const list = await run('token', 'list')
  t.match(list.stdout, /^ID .*\nt1 {2}ci {4}write .* never\n$/)
  t.match(await run('token', 'revoke', 'a/b'), { code: 0, stdout: '', stderr: '' })
  t.match(seen[2], { method: 'DELETE', url: '/tokens/a%2Fb' })
})

t.test('sweep tells what went', async t => {
  const { url, seen } = await openFakeRegistry(t, ({ body }, response) => {
    const { dryRun } = JSON.parse(body.toString())
    json(response, 200, { dryRun, deleted: [{ key: 'blobs/ab/c', size: 1500 }], bytes: 1500 })
  })
  const dry = await wdelta('sweep', { dryRun: true, registry: url })
  t.equal(dry.stdout, 'blobs/ab/c 1.50 kB\nwould delete 1 blobs, 1.50 kB\n')
  const real = await wdelta('sweep', { registry: url })
  t.equal(real.stdout, 'blobs/ab/c 1.50 kB\ndeleted 1 blobs, 1.50 kB\n')
  t.strictSame(
    seen.map(({ url, body }) => [url, JSON.parse(body.toString())]),
    [
      ['/admin/sweep', { dryRun: true }],
      ['/admin/sweep', { dryRun: false }],
    ],
  )
})

t.test('errors of the registry are shown in one line, with their code', async t => {
  const { url } = await openFakeRegistry(t, (_seen, response) => {
    json(response, 401, { code: 'unauthorized', title: 'A valid token is required' })
  })
  const ran = await wdelta('ls', { registry: url })
  t.match(ran, { code: 1, stdout: '', stderr: 'wdelta: unauthorized: A valid token is required\n' })
  const odd = await openFakeRegistry(t, (_seen, response) => void response.end('<html>'))
  const html = await wdelta('ls', { registry: odd.url })
  t.match(html, { code: 1, stdout: '', stderr: /^wdelta: bad-answer: / })
})
