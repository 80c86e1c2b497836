import { once } from 'node:events'
import t, { type Test } from 'tap'
import { pretendMemory } from '../../support/pretend-memory.ts'
import {
  aContent,
  aModel,
  BYTES,
  dial,
  ID,
  listen,
  readParts,
} from '../../support/servers/test-app.ts'

const FORM = 'multipart/form-data; boundary=x'

t.test('an upload too many is told to come again, before its body is asked for', async t => {
  const begun = Promise.withResolvers<void>()
  const ended = Promise.withResolvers<void>()
  const { url, port } = await listen(
    t,
    {
      publishFiles: async () => {
        begun.resolve()
        await ended.promise
        return aModel()
      },
    },
    { limits: { uploads: 1 } },
  )
  const form = () => {
    const data = new FormData()
    data.set('name', 'acme/model')
    data.set('file', new Blob([BYTES]), 'model.safetensors')
    return data
  }
  const first = fetch(`${url}/models`, { method: 'POST', body: form() })
  await begun.promise
  const refused = await fetch(`${url}/models`, { method: 'POST', body: form() })
  t.equal(refused.status, 503)
  t.match(refused.headers.get('retry-after'), /^\d+$/)
  t.match(await refused.json(), { code: 'overloaded' })

  const head = `POST /models HTTP/1.1\r\nHost: localhost\r\nContent-Type: ${FORM}\r\nContent-Length: 99999\r\nExpect: 100-continue\r\n\r\n`
  const waiting = dial(t, port)
  waiting.socket.write(head)
  t.match(await waiting.until('overloaded'), /^HTTP\/1\.1 503 /)

  ended.resolve()
  t.equal((await first).status, 201)
  t.equal((await fetch(`${url}/models`, { method: 'POST', body: form() })).status, 201)
})

t.test('a download too many waits for one that ends', async t => {
  const going = Promise.withResolvers<void>()
  const content = aContent(BYTES, {
    async *open() {
      yield BYTES.subarray(0, 500)
      await going.promise
      yield BYTES.subarray(500)
    },
  })
  const { url } = await listen(
    t,
    { openReconstruct: async () => content, find: async () => aModel() },
    { limits: { downloads: 2 } },
  )
  const path = `${url}/models/${ID}/reconstruct`
  const two = [await fetch(path), await fetch(path)]
  const refused = await fetch(path)
  t.equal(refused.status, 503)
  t.match(await refused.json(), { code: 'overloaded' })
  t.equal((await fetch(path, { method: 'HEAD' })).status, 200, 'a head takes no place')
  t.equal((await fetch(`${url}/models/${ID}`)).status, 200)
  going.resolve()
  for (const response of two) t.equal((await response.bytes()).length, BYTES.length)
  t.equal((await (await fetch(path)).bytes()).length, BYTES.length)
})

t.test('a client that is gone leaves its place', async t => {
  const content = aContent(BYTES, {
    async *open(_range, signal) {
      yield BYTES.subarray(0, 500)
      await once(signal, 'abort')
    },
  })
  const { url } = await listen(
    t,
    { openReconstruct: async () => content },
    { limits: { downloads: 1 } },
  )
  for (let i = 0; i < 3; i++) {
    const abort = new AbortController()
    const response = await fetch(`${url}/models/${ID}/reconstruct`, { signal: abort.signal })
    t.equal(response.status, 200)
    abort.abort()
    await t.rejects(response.bytes())
    // The server hears of it a moment later.
    for (let tries = 0; tries < 100; tries++) {
      const head = await fetch(`${url}/metrics`)
      if (/direction="download"} 0/.test(await head.text())) break
    }
  }
})

t.test('a client that is gone before its download begins takes no place', async t => {
  const asked = Promise.withResolvers<void>()
  const gone = Promise.withResolvers<void>()
  let waits = true
  const { url, port } = await listen(
    t,
    {
      openReconstruct: async () => {
        if (waits) {
          waits = false
          asked.resolve()
          await gone.promise
        }
        return aContent()
      },
    },
    { limits: { downloads: 1 } },
  )
  const { socket } = dial(t, port)
  socket.write(`GET /models/${ID}/reconstruct HTTP/1.1\r\nHost: localhost\r\n\r\n`)
  await asked.promise
  socket.destroy()
  // Counted once its connection has closed.
  const isCounted = async () => /status="499"/.test(await (await fetch(`${url}/metrics`)).text())
  while (!(await isCounted()));
  gone.resolve()
  const response = await fetch(`${url}/models/${ID}/reconstruct`)
  t.equal(response.status, 200)
  t.equal((await response.bytes()).length, BYTES.length)
  t.match(await (await fetch(`${url}/metrics`)).text(), /direction="download"} 0/)
})

t.test('a token, or an address without one, has so many requests in a minute', async t => {
  const methods = { stats: async () => STATS }
  const { url } = await listen(t, methods, { limits: { requestsPerMinute: 5 } })
  for (let i = 0; i < 5; i++) t.equal((await fetch(`${url}/stats`)).status, 200)
  const refused = await fetch(`${url}/stats`)
  t.equal(refused.status, 429)
  const wait = Number(refused.headers.get('retry-after'))
  t.ok(wait >= 1 && wait <= 60, `${wait} s`)
  t.match(await refused.json(), { code: 'too-many-requests' })
  t.equal((await fetch(`${url}/healthz`)).status, 200)
})

const STATS = { models: 0, bases: 0, deltas: 0, logicalBytes: 0, storedBytes: 0, savedBytes: 0 }

t.test('each token for itself, and guessing of tokens is slowed down', async t => {
  const tokens: Record<string, string> = { one: 'a', two: 'b' }
  const { url } = await listen(
    t,
    {
      stats: async () => STATS,
      authenticate: async token =>
        token in tokens ? { id: tokens[token]!, scope: 'read' as const } : null,
    },
    { auth: { mode: 'tokens' }, limits: { requestsPerMinute: 3 } },
  )
  const ask = async (token: string) => {
    const headers = { authorization: `Bearer ${token}` }
    return (await fetch(`${url}/stats`, { headers })).status
  }
  const asked: number[] = []
  for (const token of ['one', 'one', 'one', 'one', 'two']) asked.push(await ask(token))
  t.strictSame(asked, [200, 200, 200, 429, 200])
  const guessed = new Set<number>()
  for (let i = 0; i < 70; i++) guessed.add(await ask(`guess-${i}`))
  t.strictSame([...guessed], [401, 429])
  t.equal(await ask('two'), 200, 'who has a token is not kept out by others that guess')
})

t.test('a process that has no memory left takes on nothing new, and says how it is', async t => {
  const memory = pretendMemory(t, 1300)
  const { url } = await listen(
    t,
    {
      stats: async () => STATS,
      list: async () => ({ models: [], next: null }),
      openReconstruct: async () => aContent(),
      openTensor: async () => ({ ...aContent(), dtype: 'F32', shape: [1] }),
      ready: async () => {},
    },
    { limits: { rssBytes: 1000 } },
  )
  const status = async (path: string, init: RequestInit = {}) => {
    const answer = await fetch(url + path, init)
    const { code } = answer.status === 503 ? ((await answer.json()) as { code: string }) : {}
    if (answer.status === 503) t.ok(answer.headers.has('retry-after'))
    return code ?? answer.status
  }
  // Its memory is looked at once a second.
  const until = async (path: string, wanted: number) => {
    while ((await fetch(url + path)).status !== wanted);
  }
  const work = [
    [`/models/${ID}/reconstruct`],
    [`/models/${ID}/reconstruct`, { method: 'HEAD' }],
    [`/models/${ID}/tensors/w`],
    ['/models', { method: 'POST' }],
    ['/deltas', { method: 'POST' }],
    ['/admin/scrub', { method: 'POST' }],
    ['/admin/backup'],
    ['/none'],
  ] as const
  const cheap = ['/stats', '/models?limit=1']
  const always = ['/healthz', '/metrics']

  t.equal(await status('/readyz'), 200, 'nothing is known at first')
  await until('/readyz', 503)
  for (const path of [...cheap, `/models/${ID}/reconstruct`]) {
    t.equal(await status(path), 'overloaded', `far beyond its limit: ${path}`)
  }
  for (const path of always) t.equal(await status(path), 200)

  memory.set(1200)
  await until('/stats', 200)
  t.equal(await status('/readyz'), 'overloaded')
  for (const [path, init] of work) {
    // An answer to a HEAD has no body to say more.
    if (init && init.method === 'HEAD') t.equal((await fetch(url + path, init)).status, 503)
    else t.equal(await status(path, init), 'overloaded', path)
  }
  for (const path of [...cheap, ...always]) t.equal(await status(path), 200, path)

  memory.set(1000)
  await until('/readyz', 200)
  t.equal(await status(`/models/${ID}/reconstruct`), 200, 'it comes back by itself')
})

/** More than sockets hold for a client that takes nothing. */
const LARGE = aContent(BYTES, {
  size: 64 * 4 * 1024 * 1024,
  async *open({ start, end }) {
    const chunk = Buffer.alloc(4 * 1024 * 1024)
    for (let at = start; at < end; at += chunk.length) yield chunk.subarray(0, end - at)
  },
})

/** A client that asks for a large content and takes nothing of it. */
async function stall(t: Test, port: number) {
  const stalled = dial(t, port)
  stalled.socket.write(`GET /models/${ID}/reconstruct HTTP/1.1\r\nHost: localhost\r\n\r\n`)
  await stalled.until('content-length')
  stalled.socket.pause()
  return stalled
}

t.test('large downloads that stand still leave the places of short ones alone', async t => {
  const methods = { openReconstruct: async () => LARGE, openFile: async () => aContent() }
  const { url, port } = await listen(t, methods, { limits: { downloads: 1 } })
  await stall(t, port)
  const path = `${url}/models/${ID}/reconstruct`
  t.equal((await fetch(path)).status, 503)
  const part = await fetch(path, { headers: { range: 'bytes=5-9' } })
  t.equal(part.status, 206)
  t.equal((await part.bytes()).length, 5)
  t.equal((await (await fetch(`${url}/models/${ID}/files/a`)).bytes()).length, BYTES.length)
})

t.test('a download that stands still gives its place up when another needs it', async t => {
  const methods = { openReconstruct: async () => LARGE }
  for (const [stalledMs, status] of [
    [60_000, 503],
    [0, 200],
  ] as const) {
    const { url, port } = await listen(t, methods, {
      limits: { downloads: 1 },
      timeouts: { stalledMs },
    })
    const stalled = await stall(t, port)
    const response = await fetch(`${url}/models/${ID}/reconstruct`)
    t.equal(response.status, status)
    const received = await response.bytes()
    if (status === 503) continue
    t.equal(received.length, LARGE.size)
    stalled.socket.resume()
    t.ok((await stalled.closed()).length < LARGE.size, 'the other was cut')
  }
})

t.test('a download that is read slowly, and all the time, keeps its place', async t => {
  const size = 64 * 1024 * 1024
  const content = aContent(BYTES, {
    size,
    // One chunk: nothing is told of it before all of it is taken.
    async *open() {
      yield Buffer.alloc(size)
    },
  })
  const stalledMs = 200
  const { url, port } = await listen(
    t,
    { openReconstruct: async () => content },
    { limits: { downloads: 1 }, timeouts: { stalledMs } },
  )
  const slow = await stall(t, port)
  slow.socket.on('data', () => slow.socket.pause())
  const began = performance.now()
  for (let reads = 0; reads < 100 || performance.now() - began < 5 * stalledMs; reads++) {
    slow.socket.resume()
    t.equal((await fetch(`${url}/models/${ID}/reconstruct`)).status, 503)
  }
  t.notOk(slow.socket.destroyed)
  t.ok(slow.heard().length < size, 'it has not come to the end of the chunk')
})

const MODEL_HEAD = (path: string) =>
  `POST ${path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: ${FORM}\r\nContent-Length: 9000000\r\n\r\n`
const NAME = '--x\r\nContent-Disposition: form-data; name="name"\r\n\r\nacme/model\r\n'
const fileHead = (field: string) =>
  `--x\r\nContent-Disposition: form-data; name="${field}"; filename="a.safetensors"\r\n\r\n`

/** Reads all, as a registry does that accepts everything. */
const accepting = {
  publishFiles: async (_options: unknown, parts: Parameters<typeof readParts>[0]) => {
    await readParts(parts)
    return aModel()
  },
}

function aForm(): FormData {
  const data = new FormData()
  data.set('name', 'acme/model')
  data.set('file', new Blob([BYTES]), 'model.safetensors')
  return data
}

for (const [what, sent] of [
  ['its head', MODEL_HEAD('/models')],
  ['the head of a delta', MODEL_HEAD('/deltas')],
  ['half of a field', MODEL_HEAD('/models') + NAME.slice(0, 30)],
  ['a few bytes of a file', `${MODEL_HEAD('/models')}${NAME}${fileHead('file')}abc`],
  ['a few bytes of a delta', `${MODEL_HEAD('/deltas')}${NAME}${fileHead('delta')}abc`],
] as const) {
  t.test(`uploads that stop after ${what} give way, one for each that waits`, async t => {
    const { url, port } = await listen(
      t,
      { ...accepting, publishDelta: accepting.publishFiles },
      { limits: { uploads: 4 }, timeouts: { stalledMs: 50, uploadWaitMs: 60_000 } },
    )
    const slow = Array.from({ length: 4 }, () => dial(t, port))
    for (const { socket } of slow) socket.write(sent)
    // All of them hold places, or the others wait for nobody.
    while (!/direction="upload"} 4/.test(await (await fetch(`${url}/metrics`)).text()));
    const waiting = [1, 2].map(() => fetch(`${url}/models`, { method: 'POST', body: aForm() }))
    for (const answer of waiting) t.equal((await answer).status, 201)
    await Promise.race(slow.map(({ closed }) => closed()))
    const ended = slow.filter(({ heard }) => heard() !== '')
    t.ok(ended.length >= 1 && ended.length <= 2, `${ended.length} gave way`)
    for (const { closed } of ended) {
      t.match(await closed(), /^HTTP\/1\.1 408 [\s\S]*upload-too-slow[\s\S]*others wait/)
    }
  })
}

t.test('an upload that the registry works on gives way to nobody', async t => {
  const { url } = await listen(
    t,
    {
      publishFiles: async ({ message }, parts, signal) => {
        if (message === 'all of it') await readParts(parts)
        busy[message]!.resolve()
        await once(signal, 'abort')
        throw signal.reason
      },
    },
    { limits: { uploads: 2 }, timeouts: { stalledMs: 0, uploadWaitMs: 300 } },
  )
  const busy: Record<string, PromiseWithResolvers<void>> = {
    'all of it': Promise.withResolvers<void>(),
    'nothing yet': Promise.withResolvers<void>(),
  }
  const end = new AbortController()
  const uploads = Object.keys(busy).map(message => {
    const body = aForm()
    const file = body.get('file')!
    body.delete('file')
    body.set('message', message)
    const large = new Blob([Buffer.alloc(9_000_000)])
    body.set('file', message === 'all of it' ? file : large, 'model.safetensors')
    return fetch(`${url}/models`, { method: 'POST', body, signal: end.signal })
  })
  await Promise.all(Object.values(busy).map(({ promise }) => promise))
  const refused = await fetch(`${url}/models`, { method: 'POST', body: aForm() })
  t.equal(refused.status, 503)
  t.match(await refused.json(), { code: 'overloaded' })
  end.abort()
  for (const upload of uploads) await t.rejects(upload, { name: 'AbortError' })
})

t.test('one token does not keep others out', async t => {
  const tokens: Record<string, string> = { one: 'a', two: 'b' }
  const { url, port } = await listen(
    t,
    {
      ...accepting,
      authenticate: async token => ({ id: tokens[token]!, scope: 'write' as const }),
    },
    {
      auth: { mode: 'tokens' },
      limits: { uploads: 2 },
      timeouts: { stalledMs: 60_000, uploadWaitMs: 1000 },
    },
  )
  const held = Array.from({ length: 2 }, () => dial(t, port))
  const authorized = MODEL_HEAD('/models').replace(
    '\r\n\r\n',
    '\r\nAuthorization: Bearer one\r\n\r\n',
  )
  for (const { socket } of held) socket.write(authorized)
  while (!/direction="upload"} 2/.test(await (await fetch(`${url}/metrics`)).text()));
  const send = async (token: string) => {
    const headers = { authorization: `Bearer ${token}` }
    return (await fetch(`${url}/models`, { method: 'POST', body: aForm(), headers })).status
  }
  t.equal(await send('one'), 503)
  t.equal(await send('two'), 201)
  t.equal(held.filter(({ heard }) => /^HTTP\/1\.1 503 /.test(heard())).length, 1)
})
