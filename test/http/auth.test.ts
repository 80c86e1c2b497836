import t from 'tap'
import { RegistryError } from '../../src/errors.ts'
import { aContent, aModel, ID, listen } from '../support/servers/test-app.ts'

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
