import { once } from 'node:events'
import t from 'tap'
import { RegistryError } from '../../../src/errors.ts'
import { FORM_TYPE } from '../../support/servers/forms.ts'
import { dial, ID, listen } from '../../support/servers/test-app.ts'

const BODY = JSON.stringify({ name: 'ci', scope: 'read' })
const JSON_TYPE = 'Content-Type: application/json\r\n'
const LENGTH = 'Content-Length: 1000\r\n'

t.test('a body that trickles is cut off, whatever is asked', async t => {
  const { port, app } = await listen(
    t,
    {},
    { timeouts: { leastRate: { bytesPerSecond: 100_000, windowMs: 60 } } },
  )
  const heads: readonly [head: string, first: string][] = [
    [`POST /tokens HTTP/1.1\r\n${JSON_TYPE}${LENGTH}`, '{'],
    [`POST /tokens HTTP/1.1\r\n${JSON_TYPE}${LENGTH}`, ''],
    [`POST /tokens HTTP/1.1\r\n${JSON_TYPE}${LENGTH}Expect: 100-continue\r\n`, '{'],
    [`POST /admin/sweep HTTP/1.1\r\n${JSON_TYPE}Transfer-Encoding: chunked\r\n`, '1\r\n{\r\n'],
    [`POST /admin/scrub HTTP/1.1\r\nContent-Type: text/plain\r\n${LENGTH}`, 'x'],
    [`DELETE /models/${ID} HTTP/1.1\r\n${JSON_TYPE}${LENGTH}`, '{'],
    [`POST /nowhere HTTP/1.1\r\n${JSON_TYPE}${LENGTH}`, '{'],
    [`PUT /models HTTP/1.1\r\n${JSON_TYPE}${LENGTH}`, '{'],
    [`OPTIONS /models HTTP/1.1\r\n${JSON_TYPE}${LENGTH}`, '{'],
  ]
  for (const [head, first] of heads) {
    const { socket, closed } = dial(t, port)
    socket.write(`${head}Host: localhost\r\n\r\n${first}`)
    // One byte after the other, of which none ends the body.
    const timer = setInterval(() => {
      if (first !== '') socket.write(head.includes('chunked') ? '1\r\n \r\n' : ' ')
    }, 10)
    const answer = await closed()
    clearInterval(timer)
    t.match(answer, /HTTP\/1.1 408 [\s\S]*"code":"upload-too-slow"/, head)
    t.match(answer, /^connection: close\r$/im, head)
  }
  const { socket, closed } = dial(t, port)
  socket.write(`GET /healthz HTTP/1.1\r\nHost: localhost\r\n${LENGTH}\r\n{`)
  t.match(await closed(), /HTTP\/1.1 200/, 'what nobody reads holds no connection either')
  const connections = await new Promise<number>((resolve, reject) =>
    app.server.getConnections((error, count) => (error ? reject(error) : resolve(count))),
  )
  t.equal(connections, 0)
})

t.test('a body in pieces, one that ends, and one that is refused', async t => {
  const names: string[] = []
  const { port } = await listen(t, {
    createToken: async ({ name }) => {
      names.push(name)
      throw new RegistryError('bad-request', 'heard')
    },
  })
  const head = `POST /tokens HTTP/1.1\r\nHost: localhost\r\n${JSON_TYPE}`
  const whole = dial(t, port)
  whole.socket.setNoDelay()
  whole.socket.write(`${head}Content-Length: ${BODY.length}\r\n\r\n`)
  await once(whole.socket, 'connect')
  for (const character of BODY) {
    await new Promise(resolve => whole.socket.write(character, resolve))
  }
  t.match(await whole.until('heard'), /HTTP\/1.1 400/)
  whole.socket.write(`${head}Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n0\r\n\r\n`)
  t.match(await whole.until('JSON'), 'bad-request', 'the connection goes on')
  t.strictSame(names, ['ci'])
  const long = dial(t, port)
  long.socket.write(`${head}Content-Length: 70000\r\n\r\n${' '.repeat(70_000)}`)
  t.match(await long.closed(), /HTTP\/1.1 413/)
  const chunked = dial(t, port)
  chunked.socket.write(`${head}Transfer-Encoding: chunked\r\n\r\n`)
  chunked.socket.write(`${(70_000).toString(16)}\r\n${' '.repeat(70_000)}\r\n0\r\n\r\n`)
  t.match(await chunked.until('upload-too-large'), /HTTP\/1.1 413/)
})

t.test('a client that leaves in the middle of its body', async t => {
  const { port, app } = await listen(t, {})
  const types = [JSON_TYPE, 'Content-Type: image/png\r\n']
  const ways = ['end', 'resetAndDestroy'] as const
  for (const [type, leave] of types.flatMap(type => ways.map(way => [type, way] as const))) {
    const closed = new Promise<void>(resolve => {
      app.server.once('request', (_request, response) => response.once('close', resolve))
    })
    const parsing = once(app.server, 'request')
    const { socket } = dial(t, port)
    socket.write(`POST /tokens HTTP/1.1\r\nHost: localhost\r\n${type}${LENGTH}\r\n{`)
    await parsing
    socket[leave]()
    await closed
  }
  const metrics = await (await fetch(`http://127.0.0.1:${port}/metrics`)).text()
  t.match(metrics, /http_requests_total{[^}]*route="\/tokens"[^}]*} \d/)
})

t.test('an upload that no route takes is refused by its head', async t => {
  const { port } = await listen(t, {})
  const { socket, closed } = dial(t, port)
  socket.write(
    `POST /tokens HTTP/1.1\r\nHost: localhost\r\nContent-Type: ${FORM_TYPE}\r\n${LENGTH}\r\n-`,
  )
  t.match(await closed(), /HTTP\/1.1 415/)
})
