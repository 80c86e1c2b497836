import { hostname } from 'node:os'
import t, { type Test } from 'tap'
import type { AppDeps } from '../../src/app.ts'
import { FORM_TYPE, formOf } from '../support/servers/forms.ts'
import { aContent, aModel, dial, ID, listen } from '../support/servers/test-app.ts'

const STATS = { models: 0, bases: 0, deltas: 0, logicalBytes: 0, storedBytes: 0, savedBytes: 0 }

/** An app whose registry counts what reaches it, and how to ask it with headers that no HTTP client would send. */
async function open(t: Test, options: Partial<AppDeps> = {}) {
  const reached: string[] = []
  const count =
    <T>(name: string, value: T) =>
    async () => {
      reached.push(name)
      return value
    }
  const { port } = await listen(
    t,
    {
      stats: count('stats', STATS),
      list: count('list', { models: [], next: null }),
      find: count('find', aModel()),
      openReconstruct: count('reconstruct', aContent()),
      openFile: count('file', aContent()),
      remove: count('remove', undefined),
      sweep: count('sweep', { dryRun: false, deleted: [], deletedTotal: 0, bytes: 0 }),
      publishFiles: count('publish', aModel()),
      ready: async () => {},
      authenticate: async () => ({ id: 'x', scope: 'admin' }),
    },
    options,
  )
  const ask = async (head: string, body = '') => {
    const { socket, closed } = dial(t, port)
    const length = body === '' ? '' : `Content-Length: ${Buffer.byteLength(body)}\r\n`
    socket.write(`${head}\r\nConnection: close\r\n${length}\r\n${body}`)
    const answer = await closed()
    return { status: Number(answer.split(' ', 2)[1]), answer }
  }
  return { ask, reached, port }
}

const get = (host: string, path = '/stats') => `GET ${path} HTTP/1.1\r\nHost: ${host}`

t.test('a host on loopback is the loopback, under any of its names', async t => {
  const { ask, reached, port } = await open(t)
  const own = [
    `127.0.0.1:${port}`,
    '127.0.0.1',
    '127.255.0.9:1',
    'localhost',
    `localhost:${port}`,
    'LocalHost:65535',
    'localhost.',
    'registry.localhost:8080',
    '[::1]',
    `[::1]:${port}`,
    '[0:0:0:0:0:0:0:1]',
    '[::ffff:127.0.0.1]:8080',
    '[::1%lo]:8080',
  ]
  for (const host of own) t.equal((await ask(get(host))).status, 200, host)
  t.equal(reached.length, own.length)
  const foreign = [
    'rebound.evil.example:8080',
    'evil.example',
    `evil.example:${port}`,
    '127.0.0.1.evil.example',
    'localhost.evil.example',
    'evil-localhost',
    'notlocalhost',
    'localhost.evil.example.',
    'x',
    'localhost:8080@evil.example',
    'evil.example@localhost',
    'localhost:pass@127.0.0.1',
    'localhost, evil.example',
    'localhost/evil.example',
    'localhost evil.example',
    'localhost:80:80',
    'localhost..',
    '[::1]evil.example',
    '[::1].evil.example',
    '[evil.example]',
    '[::2]',
    '192.0.2.1',
    '128.0.0.1:8080',
    '127.0.0.1:port',
    '0.0.0.0:8080',
    '',
    '.',
    ':8080',
  ]
  for (const host of foreign) {
    const { status, answer } = await ask(get(host))
    t.equal(status, 403, JSON.stringify(host))
    t.match(answer, '"code":"cross-site"')
    t.match(answer, 'PUBLIC_URL', 'tells how to mend it')
    t.notMatch(answer, /^www-authenticate/im, 'no token would help')
  }
  t.equal(reached.length, own.length)
})

t.test('every route is behind it but the probes', async t => {
  const { ask, reached } = await open(t)
  const routes = [
    'GET /',
    'GET /models',
    `GET /models/${ID}`,
    `HEAD /models/${ID}/reconstruct`,
    `GET /models/${ID}/files/a`,
    `DELETE /models/${ID}`,
    'POST /models',
    'POST /deltas',
    'POST /tokens',
    'POST /admin/sweep',
    'GET /admin/backup',
    'OPTIONS /models',
    'GET /metrics',
    'GET /openapi.yaml',
    'GET /docs',
    'GET /docs/static/index.html',
    'GET /nowhere',
    'PUT /models',
  ]
  for (const route of routes) {
    t.equal((await ask(`${route} HTTP/1.1\r\nHost: evil.example`)).status, 403, route)
  }
  t.strictSame(reached, [])
  for (const path of ['/healthz', '/readyz']) {
    t.equal((await ask(get('10.0.0.7:8080', path))).status, 200, path)
    t.equal((await ask(`GET ${path} HTTP/1.0`)).status, 200, `${path} without a Host`)
  }
})

t.test('the target, if it names a host, names this one', async t => {
  const { ask, reached } = await open(t)
  const target = (host: string) => `GET http://${host}/stats HTTP/1.1\r\nHost: localhost`
  for (const host of ['evil.example', 'localhost@evil.example', 'evil.example:80', '']) {
    t.not((await ask(target(host))).status, 200, host)
  }
  t.strictSame(reached, [])
  t.equal((await ask(target('127.0.0.1:8080'))).status, 200)
  t.equal((await ask('GET http://localhost/stats HTTP/1.1\r\nHost: evil.example')).status, 403)
})

t.test('a request has one Host, with tokens too', async t => {
  const { ask, reached } = await open(t)
  const guarded = await open(t, { auth: { mode: 'tokens' } })
  const pairs = [
    'Host: localhost\r\nHost: localhost',
    'Host: localhost\r\nHost: evil.example',
    'Host: evil.example\r\nhost: localhost',
    'HOST: localhost\r\nX: y\r\nhOST: ',
  ]
  for (const pair of pairs) {
    for (const app of [{ ask }, guarded]) {
      const { status, answer } = await app.ask(
        `GET /stats HTTP/1.1\r\n${pair}\r\nAuthorization: Bearer x`,
      )
      t.equal(status, 400, pair)
      t.match(answer, '"code":"bad-request"')
    }
  }
  t.equal((await ask('GET /stats HTTP/1.1')).status, 400, 'none')
  t.equal((await ask('GET /stats HTTP/1.0')).status, 400, 'none, of an old client')
  t.strictSame([...reached, ...guarded.reached], [])
  t.equal((await ask('GET /stats HTTP/1.0\r\nHost: localhost')).status, 200)
  const named = `${get('registry.example')}\r\nAuthorization: Bearer x\r\nOrigin: https://evil.example`
  t.equal((await guarded.ask(named)).status, 200, 'a token is what no other site has')
})

t.test('what another page had a browser send is refused', async t => {
  const { ask, reached } = await open(t)
  const form = formOf([
    ['name', 'acme/base'],
    ['file', 'x', 'a.txt'],
  ]).toString()
  const foreign = [
    'Origin: https://evil.example',
    'Origin: null',
    'Origin: http://localhost:3000',
    'Origin: http://127.0.0.1:8080',
    'Origin: http://localhost.evil.example:8080',
    'Origin: http://localhost:8080@evil.example',
    'Origin: http://localhost:8080, https://evil.example',
    'Origin: file://localhost:8080',
    'Origin: localhost:8080',
    'Origin: ',
    'Sec-Fetch-Site: cross-site',
    'Sec-Fetch-Site: same-site',
    'Sec-Fetch-Site: Same-Origin',
    'Sec-Fetch-Site: cross-site\r\nOrigin: http://localhost:8080',
    'Sec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: navigate\r\nSec-Fetch-Dest: document',
  ]
  const requests = [
    [`POST /models HTTP/1.1\r\nHost: localhost:8080\r\nContent-Type: ${FORM_TYPE}`, form],
    ['POST /admin/sweep HTTP/1.1\r\nHost: localhost:8080'],
    [`DELETE /models/${ID} HTTP/1.1\r\nHost: localhost:8080`],
    ['OPTIONS /models HTTP/1.1\r\nHost: localhost:8080\r\nAccess-Control-Request-Method: DELETE'],
    [get('localhost:8080', '/models')],
    [get('localhost:8080', `/models/${ID}/files/a.html`)],
  ] as const
  for (const headers of foreign) {
    for (const [head, body] of requests) {
      const { status, answer } = await ask(`${head}\r\n${headers}`, body)
      t.equal(status, 403, `${headers} ${head.split(' HTTP')[0]}`)
      t.match(answer, '"code":"cross-site"')
      t.notMatch(answer, /^access-control/im)
    }
  }
  t.strictSame(reached, [])
  const own = [
    'Origin: http://localhost:8080',
    'Origin: http://LOCALHOST:8080',
    'Sec-Fetch-Site: same-origin\r\nOrigin: http://localhost:8080',
    'Sec-Fetch-Site: none',
    'Sec-Fetch-Mode: cors',
  ]
  for (const headers of own) {
    const { status } = await ask(`POST /admin/sweep HTTP/1.1\r\nHost: localhost:8080\r\n${headers}`)
    t.equal(status, 200, headers)
  }
  const tls = 'POST /admin/sweep HTTP/1.1\r\nHost: localhost\r\nOrigin: https://localhost'
  t.equal((await ask(tls)).status, 200, 'a proxy in front speaks TLS')
})

t.test('a link elsewhere may lead to the page, and nothing else may show it', async t => {
  const { ask } = await open(t)
  const from = (path: string, headers: string, method = 'GET') =>
    ask(
      `${method} ${path} HTTP/1.1\r\nHost: localhost:8080\r\nSec-Fetch-Site: cross-site\r\n${headers}`,
    )
  const visit = 'Sec-Fetch-Mode: navigate\r\nSec-Fetch-Dest: document'
  for (const path of ['/docs', '/docs/', '/docs?x=1', '/docs/static/index.html']) {
    const { status, answer } = await from(path, visit)
    t.ok(status === 200 || status === 302, `${path}: ${status}`)
    t.match(answer, /^x-content-type-options: nosniff\r$/im)
    t.match(answer, /^x-frame-options: DENY\r$/im)
    t.match(answer, /^content-security-policy: .*frame-ancestors 'none'/im)
  }
  for (const headers of [
    'Sec-Fetch-Mode: navigate\r\nSec-Fetch-Dest: iframe',
    'Sec-Fetch-Mode: no-cors\r\nSec-Fetch-Dest: script',
    'Sec-Fetch-Dest: document',
    `${visit}\r\nOrigin: null`,
  ]) {
    t.equal((await from('/docs', headers)).status, 403, headers)
  }
  for (const path of ['/docsx', '/models', '/openapi.yaml', '/metrics', `/models/${ID}`]) {
    t.equal((await from(path, visit)).status, 403, path)
  }
  t.equal((await from('/docs', visit, 'POST')).status, 403)
})

t.test('a type is what it says, in every answer', async t => {
  const { ask } = await open(t)
  const heads = [
    get('localhost'),
    get('localhost', '/nope<script>'),
    get('localhost', '/models/%zz'),
    get('localhost', '/openapi.yaml'),
    get('localhost', `/models/${ID}/files/a.html`),
    get('evil.example'),
    'BROKEN',
  ]
  for (const head of heads) {
    const found = (await ask(head)).answer.match(/^x-content-type-options: nosniff\r$/gim)
    t.equal(found?.length, 1, head)
  }
})

t.test('beyond loopback: addresses, names of this machine and its network, PUBLIC_URL', async t => {
  const site = { host: '0.0.0.0', isLoopback: false }
  const wide = await open(t, { site })
  const own = [
    '10.0.0.7:8080',
    '[2001:db8::7]:80',
    'localhost',
    'registry:8080',
    hostname(),
    '0.0.0.0',
  ]
  for (const host of own) t.equal((await wide.ask(get(host))).status, 200, host)
  for (const host of ['registry.example', 'x.y', '1.2.3.4.5', '10.0.0.7.evil.example']) {
    t.equal((await wide.ask(get(host))).status, 403, host)
  }
  const named = await open(t, {
    site: { ...site, host: 'Box.lan', publicUrl: 'https://Registry.Example/models/' },
  })
  for (const host of [
    'registry.example',
    'registry.example:8080',
    'REGISTRY.example.',
    'box.lan',
  ]) {
    t.equal((await named.ask(get(host))).status, 200, host)
  }
  t.equal((await named.ask(get('other.example'))).status, 403)
  const from = (host: string, origin: string) =>
    named.ask(`POST /admin/sweep HTTP/1.1\r\nHost: ${host}\r\nOrigin: ${origin}`)
  t.equal((await from('registry.example', 'https://registry.example')).status, 200)
  const behind = await from('127.0.0.1:8080', 'https://registry.example')
  t.equal(behind.status, 200, 'a proxy in front names us by our address')
  t.equal((await from('registry.example', 'https://registry.example:444')).status, 403)
  t.equal((await from('registry.example', 'https://evil.example')).status, 403)
})
