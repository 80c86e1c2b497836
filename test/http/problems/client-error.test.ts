import { once } from 'node:events'
import t from 'tap'
import {
  aContent,
  aModel,
  BYTES,
  dial,
  ID,
  listen,
  recorder,
} from '../../support/servers/test-app.ts'

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
