import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import t from 'tap'
import { parse } from 'yaml'
import { PROBLEMS, RegistryError } from '../../src/errors.ts'
import { aContent, aModel, BYTES, dial, ID, listen, recorder } from './helper.ts'

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

t.test('each scope may do its own and what the lower ones may', async t => {
  const scopes = new Map([
    ['r', 'read'],
    ['w', 'write'],
    ['a', 'admin'],
  ] as const)
  const { url } = await listen(
    t,
    {
      authenticate: async token => {
        const scope = scopes.get(token as 'r')
        return scope ? { id: token, scope } : null
      },
      ready: async () => {},
      stats: async () => ({
        models: 0,
        bases: 0,
        deltas: 0,
        logicalBytes: 0,
        storedBytes: 0,
        savedBytes: 0,
      }),
      find: async () => aModel(),
      openFile: async () => aContent(),
      remove: async () => {},
      listTokens: async () => ({ tokens: [], next: null }),
    },
    { auth: { mode: 'tokens', adminToken: 'configured' } },
  )
  const status = async (method: string, path: string, authorization?: string) => {
    const headers = authorization === undefined ? {} : { authorization }
    const answer = await fetch(url + path, { method, headers })
    await answer.bytes()
    return answer.status
  }
  const least: [method: string, path: string, scope: string][] = [
    ['GET', '/stats', 'r'],
    ['GET', `/models/${ID}`, 'r'],
    ['HEAD', `/models/${ID}/files/a`, 'r'],
    ['DELETE', `/models/${ID}`, 'a'],
    ['GET', '/tokens', 'a'],
  ]
  const order = ['r', 'w', 'a', 'configured']
  for (const [method, path, scope] of least) {
    for (const token of order) {
      const allowed = order.indexOf(token) >= order.indexOf(scope)
      const expected = allowed ? [200, 204] : [403]
      const got = await status(method, path, `Bearer ${token}`)
      t.ok(expected.includes(got), `${method} ${path} with ${token}: ${got}`)
    }
    for (const wrong of [undefined, 'Bearer', 'Bearer x', 'Basic cg==', 'r', 'Bearer configure']) {
      t.equal(await status(method, path, wrong), 401, `${method} ${path} with ${wrong}`)
    }
  }
  t.equal(await status('GET', '/stats', 'bearer r'), 200)
  for (const path of ['/healthz', '/readyz', '/metrics', '/openapi.yaml', '/docs']) {
    t.equal(await status('GET', path), 200, path)
  }
  const refused = await fetch(`${url}/stats`)
  t.match(refused.headers.get('www-authenticate'), /^Bearer /)
  t.match(await refused.json(), { code: 'unauthorized' })
})

t.test('tokens stay out of the log', async t => {
  const lines: string[] = []
  const { pino } = await import('pino')
  const logger = pino({ level: 'trace' }, { write: (line: string) => void lines.push(line) })
  const { url } = await listen(
    t,
    {
      authenticate: async () => Promise.reject(new RegistryError('catalog-failed', 'disk')),
      publishFiles: async (_options, parts) => {
        for await (const { body } of parts) for await (const _chunk of body);
        throw new RegistryError('catalog-failed', 'disk')
      },
    },
    { auth: { mode: 'tokens', adminToken: 'configured-secret' }, logger },
  )
  for (const token of ['configured-secret-2', 'configured-secret']) {
    await fetch(`${url}/stats`, { headers: { authorization: `Bearer ${token}` } })
  }
  const form = new FormData()
  form.set('name', 'acme/model')
  form.set('file', new Blob(['x']), 'a.txt')
  const headers = { authorization: 'Bearer configured-secret' }
  t.equal((await fetch(`${url}/models`, { method: 'POST', headers, body: form })).status, 500)
  t.ok(lines.length >= 2)
  t.match(lines.join(''), /busboyOptions/)
  t.notMatch(lines.join(''), /configured-secret/)
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

t.test('every code becomes its status; 5xx tell nothing of the inside', async t => {
  const { url } = await listen(t, {
    find: async code => {
      throw new RegistryError(code as keyof typeof PROBLEMS, 'the detail', {
        details: { children: ['x'], status: 1 },
      })
    },
    remove: async () => {
      throw new TypeError('secret bug')
    },
  })
  for (const [code, { status, title }] of Object.entries(PROBLEMS)) {
    const answer = await fetch(`${url}/models/${code}`)
    t.equal(answer.status, status, code)
    t.equal(answer.headers.get('cache-control'), 'no-store')
    const shown = status < 500
    t.strictSame(
      await answer.json(),
      {
        ...(shown && { children: ['x'], detail: 'the detail' }),
        type: `urn:wdelta:problem:${code}`,
        title,
        status,
        code,
      },
      code,
    )
  }
  const bug = await fetch(`${url}/models/x`, { method: 'DELETE' })
  t.equal(bug.status, 500)
  t.notMatch(await bug.text(), /secret/)
})

t.test('what is not there, and what is not allowed there', async t => {
  const { url, port } = await listen(t, { find: async () => aModel() })
  for (const path of ['/', '/nowhere', '/models/', `/models/${ID}/`, `/models/${ID}/files`]) {
    const answer = await fetch(url + path)
    t.ok(answer.status === 404 || answer.status === 400, `${path}: ${answer.status}`)
    t.equal(answer.headers.get('content-type'), 'application/problem+json')
  }
  const answer = await fetch(`${url}/models`, { method: 'PUT', body: '{}', headers: json })
  t.equal(answer.status, 405)
  t.equal(answer.headers.get('allow'), 'GET, POST')
  t.match(await answer.json(), { code: 'method-not-allowed' })
  t.equal((await fetch(`${url}/models/x/lineage`, { method: 'DELETE' })).status, 405)
  const { socket, until } = dial(t, port)
  socket.write('GET /models/%zz HTTP/1.1\r\nHost: localhost\r\n\r\n')
  t.match(await until('"code"'), /HTTP\/1.1 400[\s\S]*problem\+json[\s\S]*bad-request/)
  const long = await fetch(`${url}/models/${'x'.repeat(301)}`)
  t.equal(long.status, 400)
})

t.test('what is no HTTP is refused as a problem, and the connection ends', async t => {
  const { port } = await listen(t, { find: async () => aModel() })
  const head = `POST /models HTTP/1.1\r\nHost: localhost\r\n`
  const attacks = {
    'length and chunked': `${head}Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n`,
    'two lengths': `${head}Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello`,
    'signed length': `${head}Content-Length: +5\r\n\r\nhello`,
    'float length': `${head}Content-Length: 1e3\r\n\r\nhello`,
    'huge length': `${head}Content-Length: 18446744073709551616\r\n\r\nhello`,
    'negative length': `${head}Content-Length: -1\r\n\r\nhello`,
    'bad chunk': `${head}Transfer-Encoding: chunked\r\n\r\nzz\r\nhello`,
    'unknown coding': `${head}Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n`,
    'bare line feed': 'GET /models/x HTTP/1.1\nHost: localhost\n\n',
    'nul in a header': 'GET /models/x HTTP/1.1\r\nHost: localhost\r\nA: \u0000\r\n\r\n',
    'no host': 'GET /models/x HTTP/1.1\r\n\r\n',
    'long head': `GET /models/x HTTP/1.1\r\nHost: localhost\r\nA: ${'a'.repeat(20_000)}\r\n\r\n`,
    'no http': 'hello\r\n\r\n',
  }
  for (const [name, bytes] of Object.entries(attacks)) {
    const { socket, closed } = dial(t, port)
    socket.write(bytes)
    const status = name === 'long head' ? 431 : name === 'unknown coding' ? '4' : 400
    t.match(await closed(), new RegExp(`^HTTP/1.1 ${status}`), name)
  }
})

t.test('garbage after a request does not get into its answer', async t => {
  const { seen, happened } = recorder()
  const endless = {
    size: 1e6,
    async *open(_range: unknown, signal: AbortSignal) {
      yield Buffer.alloc(1000, 'm')
      await once(signal, 'abort')
      seen('aborted')
    },
  }
  const { port } = await listen(t, { openReconstruct: async () => aContent(BYTES, endless) })
  const { socket, until, closed } = dial(t, port)
  socket.write(`GET /models/${ID}/reconstruct HTTP/1.1\r\nHost: localhost\r\n\r\n`)
  await until('mmm')
  socket.write('\u0000garbage\r\n\r\n')
  const [, body = ''] = (await closed()).split('\r\n\r\n')
  t.equal(body, 'm'.repeat(1000))
  await happened('aborted')
})

t.test('a head that does not end is given up', async t => {
  const { port } = await listen(t, {}, { timeouts: { headersMs: 200 } })
  const dialled = Array.from({ length: 20 }, () => dial(t, port))
  for (const { socket } of dialled) socket.write('GET /healthz HTTP/1.1\r\nHost')
  for (const { closed } of dialled) t.match(await closed(), /^HTTP\/1.1 408/)
})

t.test('a connection that falls silent in an answer is closed', async t => {
  const { url, port } = await listen(t, {}, { timeouts: { idleMs: 100 } })
  const { socket, closed } = dial(t, port)
  socket.write(`POST /tokens HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n`)
  socket.write(`Content-Type: application/json\r\n\r\n{`)
  await closed()
  t.equal((await fetch(`${url}/healthz`)).status, 200)
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
