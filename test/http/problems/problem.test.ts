import t from 'tap'
import { PROBLEMS, RegistryError } from '../../../src/errors.ts'
import { aModel, dial, ID, listen } from '../../support/servers/test-app.ts'

const json = { 'content-type': 'application/json' }

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
