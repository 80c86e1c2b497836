import { once } from 'node:events'
import { get } from 'node:http'
import t from 'tap'
import { RegistryError } from '../../src/errors.ts'
import { Random } from '../support/random.ts'
import { aContent, BYTES, dial, ID, listen, recorder } from '../support/servers/test-app.ts'

const PATH = `/models/${ID}/reconstruct`

t.test('the whole, with everything a client needs to check and resume it', async t => {
  const { url } = await listen(t, { openReconstruct: async () => aContent() })
  const answer = await fetch(url + PATH)
  t.equal(answer.status, 200)
  t.strictSame(Buffer.from(await answer.arrayBuffer()), BYTES)
  const { date, connection, 'keep-alive': alive, ...headers } = Object.fromEntries(answer.headers)
  t.strictSame(headers, {
    'accept-ranges': 'bytes',
    'cache-control': 'public, max-age=31536000, immutable',
    'content-disposition': 'attachment; filename="model.safetensors"',
    'content-length': '1000',
    'content-type': 'application/octet-stream',
    etag: '"tag"',
    'repr-digest': `sha-256=:${Buffer.from('c'.repeat(64), 'hex').toString('base64')}:`,
    'x-content-type-options': 'nosniff',
  })
})

t.test('what a revision names may change', async t => {
  const { url } = await listen(t, { openReconstruct: async () => aContent() })
  const answer = await fetch(`${url}/models/acme%2Fmodel@main/reconstruct`)
  t.equal(answer.headers.get('cache-control'), 'no-cache')
  t.equal((await answer.bytes()).length, 1000)
})

t.test('with tokens only the client itself may keep a copy', async t => {
  const { url } = await listen(
    t,
    { openReconstruct: async () => aContent() },
    { auth: { mode: 'tokens', adminToken: 'secret' } },
  )
  const answer = await fetch(url + PATH, { headers: { authorization: 'Bearer secret' } })
  t.match(answer.headers.get('cache-control'), /^private, /)
  await answer.bytes()
})

t.test('a range gives its bytes, or the status that says why not', async t => {
  const { url } = await listen(t, { openReconstruct: async () => aContent() })
  const cases: [range: string, status: number, start: number, end: number][] = [
    ['bytes=0-0', 206, 0, 1],
    ['bytes=0-999', 206, 0, 1000],
    ['bytes=5-', 206, 5, 1000],
    ['bytes=999-', 206, 999, 1000],
    ['bytes=150-349', 206, 150, 350],
    ['bytes=900-5000', 206, 900, 1000],
    ['bytes=900-99999999999999999999999999', 206, 900, 1000],
    ['bytes=-1', 206, 999, 1000],
    ['bytes=-5000', 206, 0, 1000],
    ['BYTES=1-2', 206, 1, 3],
    ['bytes=1-2, 5-6', 200, 0, 1000],
    ['bytes=5-2', 200, 0, 1000],
    ['bytes=-', 200, 0, 1000],
    ['bytes=a-b', 200, 0, 1000],
    ['bytes=+1-2', 200, 0, 1000],
    ['lines=1-2', 200, 0, 1000],
  ]
  for (const [range, status, start, end] of cases) {
    const answer = await fetch(url + PATH, { headers: { range } })
    t.equal(answer.status, status, range)
    t.strictSame(Buffer.from(await answer.arrayBuffer()), BYTES.subarray(start, end), range)
    const expected = status === 206 ? `bytes ${start}-${end - 1}/1000` : null
    t.equal(answer.headers.get('content-range'), expected, range)
    t.equal(answer.headers.get('content-length'), String(end - start), range)
  }
  for (const range of [
    'bytes=1000-',
    'bytes=1000-1001',
    'bytes=-0',
    'bytes=9999999999999999999-',
  ]) {
    const answer = await fetch(url + PATH, { headers: { range } })
    t.equal(answer.status, 416, range)
    t.equal(answer.headers.get('content-range'), 'bytes */1000')
    t.equal(answer.headers.get('etag'), null)
    t.match(await answer.json(), { code: 'range-not-satisfiable', size: 1000 })
  }
})

t.test('a thousand random ranges are slices of the whole', async t => {
  const { url } = await listen(t, { openReconstruct: async () => aContent() })
  const random = new Random(7)
  for (let i = 0; i < 1000; i++) {
    const start = random.below(1000)
    const end = start + 1 + random.below(1000 - start)
    const answer = await fetch(url + PATH, { headers: { range: `bytes=${start}-${end - 1}` } })
    const got = Buffer.from(await answer.arrayBuffer())
    if (!got.equals(BYTES.subarray(start, end))) t.fail(`bytes ${start}-${end}`)
  }
})

t.test('preconditions decide between the whole, a part, 304 and 412', async t => {
  const { url } = await listen(t, { openReconstruct: async () => aContent() })
  const range = 'bytes=0-9'
  const cases: [headers: Record<string, string>, status: number][] = [
    [{ range, 'if-range': '"tag"' }, 206],
    [{ range, 'if-range': 'W/"tag"' }, 200],
    [{ range, 'if-range': '"other"' }, 200],
    [{ range, 'if-range': 'Mon, 23 Nov 2026 07:00:00 GMT' }, 200],
    [{ range: 'bytes=5000-', 'if-range': '"other"' }, 200],
    [{ 'if-none-match': '"tag"' }, 304],
    [{ 'if-none-match': '"x", W/"tag"' }, 304],
    [{ 'if-none-match': '*' }, 304],
    [{ 'if-none-match': '"other"' }, 200],
    [{ 'if-none-match': '"tag"', range }, 304],
    [{ 'if-match': '"tag"' }, 200],
    [{ 'if-match': 'W/"tag"' }, 412],
    [{ 'if-match': '"other"' }, 412],
    [{ 'if-match': '*', range }, 206],
  ]
  for (const [headers, status] of cases) {
    const answer = await fetch(url + PATH, { headers })
    t.equal(answer.status, status, JSON.stringify(headers))
    if (status === 304) t.equal(answer.headers.get('etag'), '"tag"')
    await answer.bytes()
  }
})

t.test('HEAD tells the same and reads nothing', async t => {
  const { events, seen } = recorder()
  const content = async () => aContent(BYTES, {}, seen)
  const { url } = await listen(t, {
    openReconstruct: content,
    openFile: content,
    openDelta: content,
  })
  for (const path of ['reconstruct', 'files/a/b.txt', 'delta']) {
    const answer = await fetch(`${url}/models/${ID}/${path}`, { method: 'HEAD' })
    t.equal(answer.status, 200)
    t.equal(answer.headers.get('content-length'), '1000')
    t.equal(answer.headers.get('etag'), '"tag"')
    t.equal(answer.headers.get('accept-ranges'), 'bytes')
  }
  t.strictSame(events, [])
})

t.test('content of no bytes is whole, whatever range is asked for', async t => {
  const { url } = await listen(t, { openReconstruct: async () => aContent(Buffer.alloc(0)) })
  for (const range of ['', 'bytes=0-', 'bytes=-5']) {
    const answer = await fetch(url + PATH, { headers: { range } })
    t.equal(answer.status, 200)
    t.equal(answer.headers.get('content-length'), '0')
    t.equal((await answer.bytes()).length, 0)
  }
})

t.test('file names are sent so that every client can read them', async t => {
  const names = new Map([
    ['a b.json', 'attachment; filename="a b.json"'],
    [
      'gewichte "1" é.bin',
      `attachment; filename="gewichte _1_ _.bin"; filename*=UTF-8''gewichte%20%221%22%20%C3%A9.bin`,
    ],
    ['a\r\nb', `attachment; filename="a__b"; filename*=UTF-8''a%0D%0Ab`],
    ['\ud800', `attachment; filename="_"; filename*=UTF-8''%EF%BF%BD`],
    ["it's (1)*", `attachment; filename="it's (1)*"`],
    ["é'()*", `attachment; filename="_'()*"; filename*=UTF-8''%C3%A9%27%28%29%2A`],
  ])
  const { url } = await listen(t, {
    openFile: async (_ref, path) => aContent(BYTES, { filename: path }),
  })
  for (const [name, header] of names) {
    const path = encodeURIComponent(name.toWellFormed())
    const answer = await fetch(`${url}/models/${ID}/files/${path}`, { method: 'HEAD' })
    t.equal(answer.headers.get('content-disposition'), header)
  }
})

t.test('refs, paths and names come through as they were meant', async t => {
  const asked: string[][] = []
  const { url, port } = await listen(t, {
    openFile: async (...args) => {
      asked.push(args)
      return aContent()
    },
    openTensor: async (...args) => {
      asked.push(args)
      return { ...aContent(), dtype: 'BF16', shape: [25, 20] }
    },
  })
  await fetch(`${url}/models/acme%2Fmodel%40v1.0/files/deep/er/a%20b.json`)
  await fetch(`${url}/models/acme%2Fmodel/files/deep%2Fa.json`)
  const long = `layers/${'x'.repeat(3000)}`
  const answer = await fetch(`${url}/models/${ID}/tensors/${encodeURIComponent(long)}`)
  t.equal(answer.headers.get('x-tensor-dtype'), 'BF16')
  t.equal(answer.headers.get('x-tensor-shape'), '[25,20]')
  const { socket, closed } = dial(t, port)
  const head = 'HTTP/1.1\r\nHost: localhost\r\n'
  socket.write(`HEAD /models/${ID}/files/../../etc/passwd ${head}\r\n`)
  socket.write(`HEAD /models/${ID}/files/%2e%2e%2f%2e%2e%2fetc/passwd ${head}\r\n`)
  socket.write(`HEAD /models/${ID}/tensors/%00__proto__ ${head}Connection: close\r\n\r\n`)
  t.equal((await closed()).match(/HTTP\/1.1 200/g)?.length, 3)
  t.strictSame(asked, [
    ['acme/model@v1.0', 'deep/er/a b.json'],
    ['acme/model', 'deep/a.json'],
    [ID, long],
    [ID, '../../etc/passwd'],
    [ID, '../../etc/passwd'],
    [ID, '\u0000__proto__'],
  ])
})

t.test('dtype asks for the values as stored or as one of the floats', async t => {
  const asked: unknown[] = []
  const { url } = await listen(t, {
    openReconstruct: async (_ref, dtype) => {
      asked.push(dtype)
      return aContent()
    },
  })
  for (const query of [
    '',
    '?dtype=stored',
    '?dtype=float32',
    '?dtype=float16',
    '?dtype=bfloat16',
  ]) {
    await (await fetch(url + PATH + query)).bytes()
  }
  t.strictSame(asked, [undefined, undefined, 'F32', 'F16', 'BF16'])
  const answer = await fetch(`${url}${PATH}?dtype=int8`)
  t.equal(answer.status, 400)
  t.match(await answer.json(), { code: 'bad-request', issues: [{ path: 'dtype' }] })
})

t.test('a failure before the first byte is a problem, without the headers of content', async t => {
  const { url } = await listen(t, {
    openTensor: async () => ({
      ...aContent(BYTES, {
        // biome-ignore lint/correctness/useYield: it fails before it could
        async *open() {
          throw new RegistryError('blob-missing', 'secret key blobs/00')
        },
      }),
      dtype: 'F32',
      shape: [1],
    }),
  })
  const answer = await fetch(`${url}/models/${ID}/tensors/w`)
  t.equal(answer.status, 500)
  t.equal(answer.headers.get('content-type'), 'application/problem+json')
  t.equal(answer.headers.get('cache-control'), 'no-store')
  for (const name of ['etag', 'content-disposition', 'accept-ranges', 'x-tensor-dtype']) {
    t.equal(answer.headers.get(name), null, name)
  }
  const { title, ...problem } = (await answer.json()) as Record<string, unknown>
  t.strictSame(problem, {
    type: 'urn:wdelta:problem:blob-missing',
    status: 500,
    code: 'blob-missing',
  })
})

t.test('a failure later, too few and too many bytes cut the connection', async t => {
  const bad = {
    async *fails() {
      yield BYTES.subarray(0, 100)
      throw new RegistryError('storage-failed', 'bad sector')
    },
    async *short() {
      yield BYTES.subarray(0, 999)
    },
    async *failsAtTheEnd() {
      yield BYTES
      throw new RegistryError('storage-failed', 'the digest differs')
    },
    async *failsAtTheStart() {
      yield BYTES.subarray(0, 0)
      throw new RegistryError('storage-failed', 'bad sector')
    },
    async *long() {
      yield BYTES
      yield BYTES.subarray(0, 1)
    },
  }
  for (const [name, open] of Object.entries(bad)) {
    const { port } = await listen(t, { openReconstruct: async () => aContent(BYTES, { open }) })
    const { socket, closed } = dial(t, port)
    socket.write(`GET ${PATH} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n`)
    const [head = '', body = ''] = (await closed()).split('\r\n\r\n')
    if (name !== 'failsAtTheStart') {
      t.match(head, /200 OK[\s\S]*content-length: 1000/)
      // The last byte waits for the end of its source.
      t.equal(body.length, name === 'fails' ? 100 : 999)
    } else {
      t.match(head, /500 Internal Server Error[\s\S]*application\/problem/, name)
      t.notMatch(head, /etag|content-disposition|repr-digest|content-length: 1000/i, name)
    }
  }
})

t.test('a client that goes away ends the reading at once', async t => {
  const { seen, happened } = recorder()
  const endless = {
    size: 1e12,
    async *open(_range: unknown, signal: AbortSignal) {
      signal.addEventListener('abort', () => seen(`aborted ${signal.reason.code}`))
      try {
        for (;;) yield Buffer.alloc(65536)
      } finally {
        seen('closed')
      }
    },
  }
  const { url } = await listen(t, { openReconstruct: async () => aContent(BYTES, endless) })
  const request = get(url + PATH)
  const [incoming] = await once(request, 'response')
  await once(incoming, 'data')
  const metrics = async () => (await fetch(`${url}/metrics`)).text()
  t.match(await metrics(), 'wdelta_http_streams{direction="download"} 1')
  request.destroy()
  await happened('closed')
  await happened('aborted client-closed')
  const body = await metrics()
  t.match(body, 'wdelta_http_streams{direction="download"} 0')
  t.match(body, /requests_total\{method="GET",route="\/models\/:id\/reconstruct",status="499"\} 1/)
})

t.test('a client that goes away before the first byte ends the reading too', async t => {
  const { seen, happened } = recorder()
  const stuck = {
    async *open(_range: unknown, signal: AbortSignal) {
      seen('opened')
      try {
        await once(signal, 'abort')
        yield BYTES
      } finally {
        seen('closed')
      }
    },
  }
  const { url } = await listen(t, { openReconstruct: async () => aContent(BYTES, stuck) })
  const request = get(url + PATH)
  request.on('error', () => {})
  await happened('opened')
  request.destroy()
  await happened('closed')
})

t.test('a reader that stalls holds the source back', async t => {
  let made = 0
  const { seen, happened } = recorder()
  const endless = {
    size: 1e12,
    async *open() {
      try {
        for (;;) {
          made++
          yield Buffer.alloc(1024 * 1024)
          if (made === 2) seen('two')
        }
      } finally {
        seen('closed')
      }
    },
  }
  const { url } = await listen(t, { openReconstruct: async () => aContent(BYTES, endless) })
  const request = get(url + PATH)
  const [incoming] = await once(request, 'response')
  incoming.pause()
  await happened('two')
  // The socket buffers of both ends, and what waits for them, are full well before this.
  let before = -1
  while (before !== made) {
    before = made
    await fetch(`${url}/healthz`)
  }
  t.ok(made < 40, `${made} MiB made for a client that reads nothing`)
  request.destroy()
  await happened('closed')
})
