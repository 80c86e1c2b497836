import { readFileSync } from 'node:fs'
import t from 'tap'
import { parse } from 'yaml'
import { PROBLEMS, RegistryError } from '../../src/errors.ts'
import { aModel, ID, listen } from '../support/servers/test-app.ts'

const PACKAGE = JSON.parse(readFileSync(new URL('../../package.json', import.meta.url), 'utf8'))
const json = { 'content-type': 'application/json' }

t.test('what is known about models is told by their routes', async t => {
  const asked: unknown[] = []
  const { url } = await listen(t, {
    find: async ref => {
      asked.push(ref)
      return aModel()
    },
    list: async query => {
      asked.push(query)
      return { models: [aModel()], next: 'more' }
    },
    lineage: async () => {
      return { lineage: [aModel(), aModel({ kind: 'base', parent: null })], next: null }
    },
    children: async () => ({ models: [], next: null }),
    tensors: async () => [{ name: 'a/b', dtype: 'BF16', shape: [], size: 2 }],
    inspect: async () => inspection,
    stats: async () => stats,
  })
  const inspection = {
    id: ID,
    format: 1 as const,
    strategy: 'int4',
    parentHash: 'f'.repeat(64),
    storedSize: 5,
    tensors: [
      {
        name: 'w',
        shape: [2, 3],
        dtype: 'F32',
        strategy: 'int4',
        storedBytes: 3,
        error: null,
        nonFinite: 0,
      },
    ],
  }
  const stats = {
    models: 2,
    bases: 1,
    deltas: 1,
    logicalBytes: 10,
    storedBytes: 12,
    savedBytes: -2,
  }
  const ask = async (path: string) => (await fetch(url + path)).json()
  t.strictSame(await ask(`/models/${ID}`), aModel())
  t.strictSame(await ask('/models/acme%2Fmodel%40v1'), aModel())
  t.strictSame(await ask('/models'), { models: [aModel()], next: 'more' })
  await ask('/models?name=acme/model&revision=v1&limit=5&cursor=x')
  await ask('/models?parent=acme/base')
  t.strictSame(asked, [
    ID,
    'acme/model@v1',
    { limit: 100 },
    { name: 'acme/model', revision: 'v1', limit: 5, cursor: 'x' },
    'acme/base',
    { parent: ID, limit: 100 },
  ])
  t.match(await ask(`/models/${ID}/lineage`), { lineage: [{ kind: 'delta' }, { kind: 'base' }] })
  t.strictSame(await ask(`/models/${ID}/children`), { models: [], next: null })
  t.strictSame(await ask(`/models/${ID}/tensors`), {
    tensors: [{ name: 'a/b', dtype: 'BF16', shape: [], size: 2 }],
  })
  t.strictSame(await ask(`/models/${ID}/inspect`), inspection)
  t.strictSame(await ask('/stats'), stats)
  for (const query of ['limit=0', 'limit=1001', 'limit=x', 'limit=']) {
    t.match(await ask(`/models?${query}`), { code: 'bad-request', issues: [{ path: 'limit' }] })
  }
})

t.test('models are deleted, tokens managed and blobs swept by their routes', async t => {
  const asked: unknown[] = []
  const token = {
    id: 't1',
    name: 'ci',
    scope: 'read' as const,
    createdAt: 'now',
    expiresAt: null,
  }
  const report = {
    dryRun: true,
    deleted: [{ key: 'blobs/00', size: 3 }],
    deletedTotal: 1,
    bytes: 3,
  }
  const { url } = await listen(t, {
    remove: async ref => void asked.push(ref),
    createToken: async options => {
      asked.push(options)
      return { ...token, token: 'shown once' }
    },
    // A registry that says too much is not repeated.
    listTokens: async () => ({
      tokens: [{ ...token, token: 'secret' } as typeof token],
      next: null,
    }),
    revokeToken: async id => void asked.push(id),
    sweep: async options => {
      asked.push(options)
      return report
    },
  })
  const ask = (method: string, path: string, body?: unknown) =>
    fetch(url + path, {
      method,
      ...(body !== undefined && { headers: json, body: JSON.stringify(body) }),
    })
  const deleted = await ask('DELETE', '/models/acme%2Fmodel')
  t.equal(deleted.status, 204)
  t.equal(await deleted.text(), '')
  const created = await ask('POST', '/tokens', { name: 'ci', scope: 'read' })
  t.equal(created.status, 201)
  t.equal(created.headers.get('cache-control'), 'no-store')
  t.strictSame(await created.json(), { ...token, token: 'shown once' })
  t.strictSame(await (await ask('GET', '/tokens')).json(), { tokens: [token], next: null })
  t.equal((await ask('DELETE', '/tokens/t1')).status, 204)
  t.strictSame(await (await ask('POST', '/admin/sweep', { dryRun: true })).json(), report)
  t.equal((await ask('POST', '/admin/sweep')).status, 200)
  t.strictSame(asked, [
    'acme/model',
    { name: 'ci', scope: 'read' },
    't1',
    { dryRun: true },
    { dryRun: false },
  ])
  for (const body of [
    {},
    { name: 'x', scope: 'root' },
    { name: 'x', scope: 'read', expiresAt: 1 },
  ]) {
    t.equal((await ask('POST', '/tokens', body)).status, 400)
  }
  const broken = await fetch(`${url}/tokens`, { method: 'POST', headers: json, body: '{' })
  t.match(await broken.json(), { code: 'bad-request' })
  const large = await ask('POST', '/tokens', { name: 'x'.repeat(100_000), scope: 'read' })
  t.equal(large.status, 413)
})

t.test('it is ready until it drains, and not while the store fails', async t => {
  let draining = false
  let broken = false
  const { url } = await listen(
    t,
    {
      ready: async () => {
        if (broken) throw new RegistryError('storage-failed', '/secret/path')
      },
    },
    { draining: () => draining },
  )
  const ready = async () => {
    const answer = await fetch(`${url}/readyz`)
    return {
      status: answer.status,
      body: await answer.json(),
      again: answer.headers.get('retry-after'),
    }
  }
  t.match(await ready(), { status: 200, body: { status: 'ok' } })
  broken = true
  t.strictSame((await ready()).status, 500)
  draining = true
  t.match(await ready(), { status: 503, body: { code: 'shutting-down' }, again: /\d/ })
  const alive = await fetch(`${url}/healthz`)
  t.equal(alive.status, 200)
  t.strictSame(await alive.json(), { status: 'ok', version: PACKAGE.version })
})

t.test('a disk that is full is a reason not to be ready, and is named', async t => {
  const { url } = await listen(t, {
    ready: async () => {
      throw new RegistryError('storage-full', 'less than 5 bytes are left')
    },
  })
  const answer = await fetch(`${url}/readyz`)
  t.equal(answer.status, 503)
  t.match(answer.headers.get('content-type'), 'application/problem+json')
  t.match(answer.headers.get('retry-after'), /^\d+$/)
  t.match(await answer.json(), { status: 503, code: 'storage-full', detail: /5 bytes/ })
})

t.test('the description is of these routes, and the one in the repository', async t => {
  const { url } = await listen(t, {})
  const answer = await fetch(`${url}/openapi.yaml`)
  t.equal(answer.headers.get('content-type'), 'application/yaml')
  const text = await answer.text()
  const { openapi, info, paths, components } = parse(text)
  t.equal(openapi, '3.1.0')
  t.equal(info.version, PACKAGE.version)
  const shown = Object.entries(paths as Record<string, object>).flatMap(([path, operations]) =>
    Object.keys(operations).map(method => `${method.toUpperCase()} ${path}`),
  )
  for (const route of ROUTES) t.ok(shown.includes(route), route)
  t.strictSame(components.schemas.Problem.properties.code.enum, Object.keys(PROBLEMS))
  t.strictSame(components.schemas.Model.required.toSorted(), Object.keys(aModel()).toSorted())
  const kept = readFileSync(new URL('../../openapi.yaml', import.meta.url), 'utf8')
  t.ok(kept === text, 'openapi.yaml has drifted: npm run openapi')
})

const ROUTES = [
  'POST /models',
  'POST /deltas',
  'GET /models',
  'GET /models/{id}',
  'DELETE /models/{id}',
  'GET /models/{id}/lineage',
  'GET /models/{id}/children',
  'GET /models/{id}/delta',
  'HEAD /models/{id}/delta',
  'GET /models/{id}/inspect',
  'GET /models/{id}/reconstruct',
  'HEAD /models/{id}/reconstruct',
  'GET /models/{id}/files/{path}',
  'HEAD /models/{id}/files/{path}',
  'GET /models/{id}/tensors',
  'GET /models/{id}/tensors/{name}',
  'HEAD /models/{id}/tensors/{name}',
  'GET /stats',
  'POST /tokens',
  'GET /tokens',
  'DELETE /tokens/{id}',
  'POST /admin/sweep',
  'POST /admin/scrub',
  'GET /admin/backup',
  'GET /healthz',
  'GET /readyz',
  'GET /metrics',
  'GET /openapi.yaml',
]
