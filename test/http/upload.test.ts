import { once } from 'node:events'
import t from 'tap'
import { RegistryError } from '../../src/errors.ts'
import type { Publish } from '../../src/registry/registry.ts'
import { FORM_TYPE, formOf } from '../support/servers/forms.ts'
import { aModel, BYTES, dial, listen, readParts, recorder } from '../support/servers/test-app.ts'

/** Reads everything, like a registry that accepts the model. */
const accept: Publish['files'] = async (_options, parts) => {
  await readParts(parts)
  return aModel()
}

function post(url: string, path: string, body: Buffer, headers: Record<string, string> = {}) {
  return fetch(url + path, {
    method: 'POST',
    body: new Uint8Array(body),
    headers: { 'content-type': FORM_TYPE, ...headers },
  })
}

async function problemOf(answer: Response): Promise<Record<string, unknown>> {
  const problem = (await answer.json()) as Record<string, unknown>
  return { ...problem, mediaType: answer.headers.get('content-type') }
}

t.test('a model is published from fields and files', async t => {
  let got: unknown
  const { url } = await listen(t, {
    publishFiles: async (options, parts) => {
      got = { ...options, parts: await readParts(parts) }
      return aModel()
    },
  })
  const body = formOf([
    ['name', 'acme/model'],
    ['revision', 'v1.0'],
    ['message', 'première'],
    ['parent', 'acme/base@main'],
    ['strategy', 'int4'],
    ['outlier_fraction', '0.02'],
    ['sparsity', '1e-1'],
    ['file', BYTES, 'model-00001-of-00002.safetensors'],
    ['file', Buffer.alloc(0), 'deep/er/config.json'],
  ])
  const answer = await post(url, '/models', body)
  t.equal(answer.status, 201)
  t.equal(answer.headers.get('location'), `/models/${aModel().id}`)
  t.strictSame(await answer.json(), aModel())
  t.strictSame(got, {
    name: 'acme/model',
    revision: 'v1.0',
    message: 'première',
    parent: 'acme/base@main',
    strategy: 'int4',
    outlierFraction: 0.02,
    sparsity: 0.1,
    parts: [
      { field: 'file', path: 'model-00001-of-00002.safetensors', bytes: BYTES },
      { field: 'file', path: 'deep/er/config.json', bytes: Buffer.alloc(0) },
    ],
  })
})

t.test('a model from a delta, and what is left out', async t => {
  let got: unknown
  const { url } = await listen(t, {
    publishDelta: async (options, parts) => {
      got = { ...options, parts: await readParts(parts) }
      return aModel()
    },
  })
  const body = formOf([
    ['name', 'acme/model'],
    ['delta', BYTES, 'a.wdelta'],
    ['file', Buffer.from('{}'), 'config.json'],
  ])
  t.equal((await post(url, '/deltas', body)).status, 201)
  t.strictSame(got, {
    name: 'acme/model',
    revision: 'main',
    message: '',
    parts: [
      { field: 'delta', path: 'a.wdelta', bytes: BYTES },
      { field: 'file', path: 'config.json', bytes: Buffer.from('{}') },
    ],
  })
})

t.test('a form that is refused says which part is wrong', async t => {
  const { url } = await listen(t, { publishFiles: accept, publishDelta: accept })
  const name = ['name', 'acme/model'] as const
  const file = ['file', BYTES, 'a.safetensors'] as const
  const cases: [form: Parameters<typeof formOf>[0], detail: RegExp][] = [
    [[file], /name: /],
    [[], /name: /],
    [[name, file, ['revision', 'v1']], /expected fields before files/],
    [[name, ['nmae', 'x'], file], /unknown field "nmae".*name, revision, message, parent/],
    [[name, name, file], /sent twice/],
    [[name, ['message', 'x'.repeat(70_000)], file], /at most 65536 bytes/],
    [[name, ['message', 'x'.repeat(20_000)], file], /message: /],
    [[['name', 'acme'], file], /name: expected namespace\/name/],
    [[['name', 'acme/a/b'], file], /name: /],
    [[['name', '../x'], file], /name: /],
    [[['name', 'acme/..'], file], /name: /],
    [[['name', '.acme/x'], file], /name: /],
    [[['name', 'acme/x\u0000'], file], /name: /],
    [[['name', 'acme/x\n'], file], /name: /],
    [[['name', `acme/${'x'.repeat(97)}`], file], /name: /],
    [[['name', 'acmé/x'], file], /name: /],
    [[name, ['revision', 'a/b'], file], /revision: /],
    [[name, ['revision', ''], file], /revision: /],
    [[name, ['revision', 'a'.repeat(40)], file], /revision: .*40 hex digits/],
    [[name, ['strategy', 'best'], file], /strategy: /],
    [[name, ['sparsity', ''], file], /sparsity: expected a number/],
    [[name, ['sparsity', 'NaN'], file], /sparsity: expected a number/],
    [[name, ['sparsity', '1.5'], file], /sparsity: /],
    [[name, ['outlier_fraction', '-0.1'], file], /outlier_fraction: /],
    [[name, ['file', 'no filename']], /unknown field "file"/],
    [[name, file, ['file', 'no filename']], /expected fields before files/],
    [[name, ['file', 'empty filename', '']], /expected a filename/],
    [[name, ['__proto__', 'x'], file], /prototype/],
    [[name, file, ['constructor', 'x', 'y']], /prototype/],
  ]
  for (const [form, detail] of cases) {
    const answer = await post(url, '/models', formOf(form))
    t.equal(answer.status, 400, String(detail))
    t.match(
      await problemOf(answer),
      { code: 'bad-request', detail, mediaType: 'application/problem+json' },
      String(detail),
    )
  }
  const delta = await post(url, '/deltas', formOf([name, ['strategy', 'int4'], file]))
  t.match(await problemOf(delta), { code: 'bad-request', detail: /unknown field "strategy"/ })
  t.equal((await post(url, '/models', formOf([name, file]))).status, 201)
})

t.test('a body that is no multipart is refused', async t => {
  const { url } = await listen(t, { publishFiles: accept })
  const body = formOf([
    ['name', 'acme/model'],
    ['file', BYTES, 'a.safetensors'],
  ])
  const cases: [headers: Record<string, string>, status: number, code: string][] = [
    [{ 'content-type': 'application/json' }, 415, 'unsupported-media-type'],
    [{ 'content-type': 'application/octet-stream' }, 415, 'unsupported-media-type'],
    [{ 'content-type': 'multipart/mixed; boundary=xyz' }, 415, 'unsupported-media-type'],
    [{ 'content-type': 'multipart/form-datax' }, 415, 'unsupported-media-type'],
    [{ 'content-encoding': 'gzip' }, 415, 'unsupported-media-type'],
    [{ 'content-type': 'multipart/form-data' }, 400, 'bad-multipart'],
    [{ 'content-type': 'multipart/form-data; boundary=other' }, 400, 'bad-multipart'],
  ]
  for (const [headers, status, code] of cases) {
    const answer = await post(url, '/models', body, headers)
    t.equal(answer.status, status, JSON.stringify(headers))
    t.match(await problemOf(answer), { code }, JSON.stringify(headers))
  }
  const none = await fetch(`${url}/models`, { method: 'POST' })
  t.equal(none.status, 415)
})

t.test('a multipart body that ends too early, within a complete request', async t => {
  const { url } = await listen(t, { publishFiles: accept })
  const whole = formOf([
    ['name', 'acme/model'],
    ['file', BYTES, 'a.safetensors'],
  ])
  const file = whole.indexOf(BYTES)
  for (const at of [0, 1, 7, file - 1, file, file + 1, file + 500, whole.length - 8]) {
    const answer = await post(url, '/models', whole.subarray(0, at))
    t.equal(answer.status, 400, `cut at ${at}`)
    const { code } = await problemOf(answer)
    t.ok(code === 'bad-multipart' || (at < file && code === 'bad-request'), `${at}: ${code}`)
  }
})

t.test('a request that ends too early publishes nothing', async t => {
  const whole = formOf([
    ['name', 'acme/model'],
    ['file', BYTES, 'a.safetensors'],
  ])
  const file = whole.indexOf(BYTES)
  const cuts = [0, 1, 7, 60, file - 1, file, file + 1, file + 500, whole.length - 1]
  for (const framing of ['length', 'chunked'] as const) {
    for (const how of ['fin', 'reset', 'idle'] as const) {
      for (const at of cuts) {
        const { seen, happened } = recorder()
        const { port } = await listen(
          t,
          {
            publishFiles: async (_options, parts, signal) => {
              seen('begun')
              try {
                await readParts(parts)
                return aModel()
              } catch (error) {
                t.equal(signal.aborted, true)
                t.type(error, RegistryError)
                seen('refused')
                throw error
              }
            },
          },
          { timeouts: { leastRate: { bytesPerSecond: 10_000, windowMs: 60 } } },
        )
        const { socket, closed } = dial(t, port)
        await once(socket, 'connect')
        const begun = whole.subarray(0, at)
        socket.write(`POST /models HTTP/1.1\r\nHost: localhost\r\nContent-Type: ${FORM_TYPE}\r\n`)
        if (framing === 'length') {
          socket.write(`Content-Length: ${whole.length}\r\n\r\n`)
          socket.write(begun)
        } else {
          socket.write('Transfer-Encoding: chunked\r\n\r\n')
          if (at > 0) socket.write(`${at.toString(16)}\r\n`)
          socket.write(begun)
        }
        // The registry hears of an upload with the first byte of its first file.
        const name = `${framing} ${how} at ${at}`
        if (at > file) await happened('begun')
        if (how === 'fin') socket.end()
        if (how === 'reset') socket.resetAndDestroy()
        const answer = await closed()
        if (at > file) await happened('refused')
        t.notMatch(answer, /HTTP\/1.1 2/, name)
        if (how === 'fin') t.match(answer, /HTTP\/1.1 400[\s\S]*upload-aborted/, name)
        if (how === 'idle') t.match(answer, /HTTP\/1.1 408[\s\S]*upload-too-slow/, name)
      }
    }
  }
})

t.test('files and bodies larger than the limit', async t => {
  const big = Buffer.alloc(5 * 1024 * 1024, 1)
  const form = formOf([
    ['name', 'acme/model'],
    ['file', big, 'a.safetensors'],
  ])
  const { url, port } = await listen(t, { publishFiles: accept }, { maxUploadBytes: 1_000_000 })
  const declared = await post(url, '/models', form)
  t.equal(declared.status, 413)
  t.match(await problemOf(declared), { code: 'upload-too-large', detail: /1000000 bytes/ })

  const { socket, closed } = dial(t, port)
  socket.write(
    `POST /models HTTP/1.1\r\nHost: localhost\r\nContent-Type: ${FORM_TYPE}\r\nTransfer-Encoding: chunked\r\n\r\n`,
  )
  socket.write(`${form.length.toString(16)}\r\n`)
  socket.write(form)
  socket.write('\r\n0\r\n\r\n')
  t.match(await closed(), /HTTP\/1.1 413[\s\S]*connection: close[\s\S]*upload-too-large/)
})

t.test('five MiB arrive as five MiB', async t => {
  const big = Buffer.alloc(5 * 1024 * 1024, 1)
  let size = 0
  const { url } = await listen(t, {
    publishFiles: async (_options, parts) => {
      for (const { bytes } of await readParts(parts)) size += bytes.length
      return aModel()
    },
  })
  const form = formOf([
    ['name', 'acme/model'],
    ['file', big, 'a.safetensors'],
  ])
  t.equal((await post(url, '/models', form)).status, 201)
  t.equal(size, big.length)
  const metrics = await (await fetch(`${url}/metrics`)).text()
  t.match(metrics, `wdelta_http_upload_received_bytes_total ${form.length}`)
  t.match(metrics, 'wdelta_http_streams{direction="upload"} 0')
})

/** The head of an upload that would be 50 GB long, and its first part. */
const HUGE = `POST /models HTTP/1.1\r\nHost: localhost\r\nContent-Type: ${FORM_TYPE}\r\nContent-Length: 50000000000\r\n`
const START = formOf([
  ['name', 'acme/model'],
  ['file', BYTES, 'a.safetensors'],
]).subarray(0, -10)

t.test('an early refusal does not read the rest', async t => {
  const { port } = await listen(
    t,
    {
      publishFiles: async (_options, parts) => {
        for await (const { body } of parts) {
          for await (const _chunk of body) {
            throw new RegistryError('malformed-safetensors', 'bad header')
          }
        }
        return aModel()
      },
    },
    { maxUploadBytes: 1e12 },
  )
  const { socket, until, closed } = dial(t, port)
  socket.write(`${HUGE}\r\n`)
  socket.write(START)
  const answer = await until('bad header')
  t.match(answer, /HTTP\/1.1 422[\s\S]*connection: close/)
  // It goes on sending, as one does who has not looked yet.
  const more = Buffer.alloc(1024 * 1024)
  let sent = 0
  const pump = () => {
    while (!socket.destroyed && socket.write(more)) sent++
  }
  socket.on('drain', pump)
  pump()
  await closed()
  t.ok(sent < 1000, `${sent} MiB were taken`)
})

t.test('a refusal by the head asks for no body', async t => {
  const { port } = await listen(
    t,
    { publishFiles: accept, authenticate: async () => null },
    { auth: { mode: 'tokens', adminToken: 'secret' }, maxUploadBytes: 1e9 },
  )
  const cases: [head: string, status: number][] = [
    [HUGE, 401],
    [`${HUGE}Authorization: Bearer secret\r\n`, 413],
    [`${HUGE}Authorization: Bearer secret\r\nContent-Encoding: gzip\r\n`, 415],
  ]
  for (const [head, status] of cases) {
    const { socket, closed } = dial(t, port)
    socket.write(`${head}Expect: 100-continue\r\n\r\n`)
    const answer = await closed()
    t.match(answer, new RegExp(`^HTTP/1.1 ${status} `), String(status))
    t.match(answer, /connection: close/i)
  }
})

t.test('a body that is welcome is asked for', async t => {
  const { port } = await listen(t, {
    publishFiles: accept,
    createToken: async () => {
      throw new RegistryError('bad-request', 'heard')
    },
  })
  const form = formOf([
    ['name', 'acme/model'],
    ['file', BYTES, 'a.safetensors'],
  ])
  const { socket, until } = dial(t, port)
  const head = 'HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\n'
  socket.write(
    `POST /models ${head}Content-Type: ${FORM_TYPE}\r\nContent-Length: ${form.length}\r\n\r\n`,
  )
  t.match(await until('\r\n\r\n'), /^HTTP\/1.1 100 Continue\r\n\r\n$/)
  socket.write(form)
  t.match(await until('"createdAt"'), /HTTP\/1.1 201/)
  const json = '{"name":"ci","scope":"read"}'
  const other = dial(t, port)
  other.socket.write(
    `POST /tokens ${head}Content-Type: application/json\r\nContent-Length: ${json.length}\r\n\r\n`,
  )
  t.match(await other.until('\r\n\r\n'), /^HTTP\/1.1 100 Continue\r\n\r\n$/)
  other.socket.write(json)
  t.match(await other.until('heard'), /HTTP\/1.1 400/)
  const lost = dial(t, port)
  lost.socket.write(`POST /nowhere ${head}Content-Length: 10\r\n\r\n`)
  t.match(await lost.closed(), /^HTTP\/1.1 404/)
})

t.test('a client that leaves while its token is looked up', async t => {
  const { seen, happened } = recorder()
  const gate = Promise.withResolvers<void>()
  const { app, port } = await listen(
    t,
    {
      publishFiles: accept,
      authenticate: async () => {
        seen('asked')
        await gate.promise
        return { id: 'x', scope: 'write' }
      },
    },
    { auth: { mode: 'tokens' }, maxUploadBytes: 1e12 },
  )
  const left = new Promise<void>(resolve => {
    app.server.once('request', (_request, response) => response.once('close', resolve))
  })
  const { socket } = dial(t, port)
  socket.write(`${HUGE}Authorization: Bearer secret\r\n\r\n`)
  socket.write(START)
  await happened('asked')
  socket.resetAndDestroy()
  await left
  gate.resolve()
  const metrics = await (await fetch(`http://127.0.0.1:${port}/metrics`)).text()
  t.notMatch(metrics, 'wdelta_http_streams{direction="upload"} 1')
  await app.close()
})

t.test('a registry that gives up between two files', async t => {
  const { url } = await listen(t, {
    publishFiles: async (_options, parts) => {
      for await (const { body } of parts) {
        for await (const _chunk of body);
        throw new RegistryError('malformed-model', 'one is enough')
      }
      return aModel()
    },
  })
  const form = formOf([
    ['name', 'acme/model'],
    ['file', BYTES, 'a.safetensors'],
    ['file', Buffer.alloc(3_000_000), 'b.safetensors'],
    ['file', BYTES, 'c.safetensors'],
  ])
  const answer = await post(url, '/models', form)
  t.equal(answer.status, 422)
  t.match(await answer.json(), { detail: 'one is enough' })
})

t.test('files that the registry does not read, or not to their end, are dropped', async t => {
  const heads: number[] = []
  const { url } = await listen(t, {
    publishFiles: async (_options, parts) => {
      for await (const { path, body } of parts) {
        if (path === 'skipped') continue
        for await (const chunk of body) {
          heads.push(chunk[0]!)
          break
        }
      }
      return aModel()
    },
  })
  const form = formOf([
    ['name', 'acme/model'],
    ['file', Buffer.alloc(1_000_000, 1), 'a'],
    ['file', Buffer.alloc(1_000_000, 2), 'skipped'],
    ['file', Buffer.alloc(1_000_000, 3), 'b'],
  ])
  t.equal((await post(url, '/models', form)).status, 201)
  t.strictSame(heads, [1, 3])
})

t.test('a trickle is cut off, a registry that is slow itself is not', async t => {
  const { seen, happened } = recorder()
  let reads = 0
  const { url, port } = await listen(
    t,
    {
      publishFiles: async (_options, parts, signal) => {
        try {
          for await (const { body } of parts) {
            for await (const _chunk of body) {
              // Slower than the watchdog's window, several times over.
              if (reads++ % 8 === 0) await new Promise(resolve => setTimeout(resolve, 150))
            }
          }
          return aModel()
        } catch (error) {
          seen(signal.reason.code)
          throw error
        }
      },
    },
    { timeouts: { leastRate: { bytesPerSecond: 100_000, windowMs: 100 } } },
  )
  const form = formOf([
    ['name', 'acme/model'],
    ['file', Buffer.alloc(4_000_000), 'a'],
  ])
  t.equal((await post(url, '/models', form)).status, 201)

  const { socket, closed } = dial(t, port)
  socket.write(`${HUGE.replace('50000000000', '5000000')}\r\n`)
  socket.write(START)
  const trickle = setInterval(() => socket.write('x'), 10)
  t.teardown(() => clearInterval(trickle))
  const answer = await closed()
  clearInterval(trickle)
  t.match(answer, /HTTP\/1.1 408[\s\S]*upload-too-slow/)
  await happened('upload-too-slow')
})

t.test(
  'the connection serves on after an upload, and what follows its form is dropped',
  async t => {
    const { port } = await listen(t, { publishFiles: accept })
    const form = Buffer.concat([
      formOf([
        ['name', 'acme/model'],
        ['file', BYTES, 'a'],
      ]),
      Buffer.alloc(300_000, 'epilogue'),
    ])
    const { socket, until } = dial(t, port)
    for (const id of ['healthz', 'readyz']) {
      socket.write(
        `POST /models HTTP/1.1\r\nHost: localhost\r\nContent-Type: ${FORM_TYPE}\r\nContent-Length: ${form.length}\r\n\r\n`,
      )
      socket.write(form)
      socket.write(`GET /missing/${id} HTTP/1.1\r\nHost: localhost\r\n\r\n`)
      t.match(await until(`/missing/${id}`), /HTTP\/1.1 201[\s\S]*HTTP\/1.1 404/)
    }
  },
)
