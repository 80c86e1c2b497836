import { spawn } from 'node:child_process'
import { createHash } from 'node:crypto'
import { once } from 'node:events'
import { chmodSync, mkdirSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs'
import { get, request } from 'node:http'
import { connect } from 'node:net'
import { join } from 'node:path'
import t from 'tap'
import { VERSION } from '../src/version.ts'
import { goldenCase } from './support/models/golden-cases.ts'
import { type ServerProcess, startServer } from './support/servers/server-process.ts'

/** What these tests look at of a Model or a problem. */
interface Body {
  readonly id: string
  readonly sha256: string
}

/** A server that does not outlive the test. */
async function serve(
  t: { teardown(fn: () => unknown): unknown },
  folder: string,
  env: Record<string, string> = {},
) {
  const server = await startServer(folder, env)
  t.teardown(() => server.kill())
  return server
}

async function publish(
  { url }: ServerProcess,
  path: '/models' | '/deltas',
  fields: Record<string, string>,
  [part, name, bytes]: [part: string, name: string, bytes: Uint8Array<ArrayBuffer>],
  headers: Record<string, string> = {},
) {
  const form = new FormData()
  for (const [field, value] of Object.entries(fields)) form.set(field, value)
  form.set(part, new Blob([bytes]), name)
  const answer = await fetch(url + path, { method: 'POST', body: form, headers })
  return { status: answer.status, body: (await answer.json()) as Body }
}

/** A safetensors file of one F32 tensor of `count` zeros. */
function zeros(count: number): Buffer<ArrayBuffer> {
  const header = JSON.stringify({
    w: { dtype: 'F32', shape: [count], data_offsets: [0, count * 4] },
  }).padEnd(80)
  const bytes = Buffer.alloc(8 + header.length + count * 4)
  bytes.writeBigUInt64LE(BigInt(header.length))
  bytes.write(header, 8)
  return bytes
}

t.test('a base and its deltas go in, and come back bit for bit, also after a restart', async t => {
  const folder = t.testdir()
  let server = await serve(t, folder)
  const golden = goldenCase('int4-bf16')
  const base = new Uint8Array(readFileSync(join(golden.base, 'model.safetensors')))
  const expected = readFileSync(golden.expected)
  const wdelta = new Uint8Array(readFileSync(golden.deltas[0]!))
  const published = await publish(server, '/models', { name: 'acme/base' }, [
    'file',
    'model.safetensors',
    base,
  ])
  t.match(published, { status: 201, body: { kind: 'base', size: base.length } })
  const tuned = await publish(server, '/deltas', { name: 'acme/tuned', revision: 'v1' }, [
    'delta',
    'd.wdelta',
    wdelta,
  ])
  t.match(tuned, { status: 201, body: { kind: 'delta', parent: published.body.id } })
  t.equal(await server.stop(), 0)

  server = await serve(t, folder)
  const model = `${server.url}/models/acme%2Ftuned%40v1`
  const whole = Buffer.from(await (await fetch(`${model}/reconstruct`)).arrayBuffer())
  t.equal(createHash('sha256').update(whole).digest('hex'), tuned.body.sha256)
  const float32 = Buffer.from(
    await (await fetch(`${model}/reconstruct?dtype=float32`)).arrayBuffer(),
  )
  t.ok(float32.equals(expected), 'as the reference has it')
  for (let i = 0; i < 50; i++) {
    const start = (i * 7919) % whole.length
    const end = Math.min(whole.length, start + 1 + ((i * 104729) % whole.length))
    const headers = { range: `bytes=${start}-${end - 1}` }
    const part = Buffer.from(await (await fetch(`${model}/reconstruct`, { headers })).arrayBuffer())
    t.ok(part.equals(whole.subarray(start, end)), `bytes ${start}-${end}`)
  }
  const stored = await fetch(`${model}/delta`)
  t.ok(Buffer.from(await stored.arrayBuffer()).equals(Buffer.from(wdelta)))
  const children = await (await fetch(`${server.url}/models/acme%2Fbase/children`)).json()
  t.match(children, { models: [{ id: tuned.body.id }] })
  const kept = await fetch(`${server.url}/models/acme%2Fbase`, { method: 'DELETE' })
  t.match(await kept.json(), { status: 409, code: 'has-children', children: [tuned.body.id] })
  t.equal(await server.stop(), 0)
})

t.test('what is malformed is refused and leaves nothing', async t => {
  const server = await serve(t, t.testdir())
  const good = zeros(100)
  const long = Buffer.from(good)
  long.writeBigUInt64LE(2n ** 40n)
  const cases: [bytes: Buffer<ArrayBuffer>, code: string][] = [
    [good.subarray(0, 50), 'malformed-safetensors'],
    [good.subarray(0, -1), 'malformed-safetensors'],
    [Buffer.concat([good, Buffer.alloc(1)]), 'malformed-safetensors'],
    [long, 'malformed-safetensors'],
    [Buffer.alloc(0), 'malformed-safetensors'],
  ]
  const fields = { name: 'acme/bad' }
  for (const [bytes, code] of cases) {
    const refused = await publish(server, '/models', fields, ['file', 'a.safetensors', bytes])
    t.match(refused, { status: 422, body: { code } })
  }
  for (const path of ['../a.safetensors', '/etc/a.safetensors', 'a/../b.safetensors', 'C:\\a']) {
    const refused = await publish(server, '/models', fields, ['file', path, good])
    t.match(refused, { status: 400, body: { code: 'bad-request' } }, path)
  }
  const delta = await publish(server, '/deltas', fields, ['delta', 'd.wdelta', good])
  t.match(delta, { status: 422, body: { code: 'malformed-delta' } })
  t.match(await (await fetch(`${server.url}/models`)).json(), { models: [] })
  const swept = await fetch(`${server.url}/admin/sweep`, { method: 'POST' })
  t.match(await swept.json(), { deleted: [] })
})

t.test('the line that says where it listens is there at any log level', async t => {
  const server = await serve(t, t.testdir(), { LOG_LEVEL: 'silent' })
  t.equal(server.log.length, 1)
  t.match(JSON.parse(server.log[0]!), { msg: 'listening', url: server.url, version: VERSION })
  t.equal((await fetch(`${server.url}/readyz`)).status, 200)
  t.equal(await server.stop(), 0)
})

t.test('the first start with tokens leaves an admin token in a file', async t => {
  const folder = t.testdir()
  const path = join(folder, 'admin-token')
  let server = await serve(t, folder, { AUTH: 'tokens' })
  t.equal(statSync(path).mode & 0o777, 0o600)
  const token = readFileSync(path, 'utf8').trim()
  const log = server.log.join('\n')
  t.match(log, path)
  t.notMatch(log, token)
  const tokens = async (bearer: string) =>
    (await fetch(`${server.url}/tokens`, { headers: { authorization: `Bearer ${bearer}` } })).status
  t.equal(await tokens(token), 200)
  t.equal(await tokens(`${token}x`), 401)
  t.equal((await fetch(`${server.url}/models`)).status, 401)
  await server.stop()
  server = await serve(t, folder, { AUTH: 'tokens', ADMIN_TOKEN: 'configured-by-hand' })
  t.equal(readFileSync(path, 'utf8').trim(), token)
  t.equal(await tokens(token), 200)
  t.equal(await tokens('configured-by-hand'), 200)
  t.notMatch(server.log.join('\n'), /configured-by-hand/)
  await server.stop()
})

/** Paths below a folder, and itself, with their modes in octal. */
function modesOf(folder: string): [path: string, mode: string][] {
  const below = readdirSync(folder, { recursive: true, encoding: 'utf8' })
  return ['.', ...below].map(path => [
    path,
    (statSync(join(folder, path)).mode & 0o777).toString(8),
  ])
}

t.test('what the registry makes is for its own user, whatever the umask', async t => {
  const parent = t.testdir()
  const given = join(parent, 'given')
  mkdirSync(given)
  chmodSync(given, 0o755)
  const before = process.umask(0)
  t.teardown(() => process.umask(before))
  for (const folder of [join(parent, 'made'), given]) {
    const server = await serve(t, folder, { AUTH: 'tokens' })
    const token = readFileSync(join(folder, 'admin-token'), 'utf8').trim()
    const headers = { authorization: `Bearer ${token}` }
    const file = ['file', 'model.safetensors', zeros(100)] as const
    const { body } = await publish(server, '/models', { name: 'acme/zeros' }, [...file], headers)
    t.ok((await (await fetch(`${server.url}/admin/backup`, { headers })).bytes()).length > 0)
    await fetch(`${server.url}/models/${body.id}`, { method: 'DELETE', headers })
    await publish(server, '/models', { name: 'acme/zeros' }, [...file], headers)
    const modes = modesOf(folder)
    const names = modes.map(([path]) => path).join(' ')
    for (const made of ['registry.sqlite-wal', 'admin-token', 'blobs', 'manifests', 'tombstones']) {
      t.match(names, made)
    }
    for (const [path, mode] of modes) {
      const isFolder = statSync(join(folder, path)).isDirectory()
      const expected = path === '.' && folder === given ? '755' : isFolder ? '700' : '600'
      t.equal(mode, expected, path)
    }
    await server.stop()
  }
})

t.test('what an earlier build left for everybody to read is closed at the start', async t => {
  const folder = t.testdir()
  const open = async () => (await serve(t, folder)).stop()
  await open()
  const left = ['registry.sqlite', 'blobs', 'manifests', 'catalogs', 'staged']
  for (const name of left) chmodSync(join(folder, name), name.includes('.') ? 0o644 : 0o755)
  writeFileSync(join(folder, 'notes.txt'), '')
  chmodSync(join(folder, 'notes.txt'), 0o644)
  await open()
  const modes = new Map(modesOf(folder))
  for (const name of left) t.equal(modes.get(name), name.includes('.') ? '600' : '700', name)
  t.equal(modes.get('notes.txt'), '644', 'what it did not make is not its own')
})

t.test('PUBLIC_URL is a name of the registry, and any other is none', async t => {
  const server = await serve(t, t.testdir(), { PUBLIC_URL: 'https://registry.example/' })
  const { hostname, port } = new URL(server.url)
  const status = async (host: string) => {
    const asked = get({ hostname, port, path: '/models', headers: { host } })
    const [answer] = await once(asked, 'response')
    answer.resume()
    return answer.statusCode
  }
  t.equal(await status('registry.example'), 200)
  t.equal(await status(`localhost:${port}`), 200)
  t.equal(await status('rebound.example'), 403)
})

t.test('no token comes into the log, at any level', async t => {
  const admin = 'configured-by-hand'
  const server = await serve(t, t.testdir(), {
    AUTH: 'tokens',
    ADMIN_TOKEN: admin,
    LOG_LEVEL: 'trace',
  })
  const ask = async (path: string, init: RequestInit) =>
    (await fetch(server.url + path, init)).text()
  const bearer = (token: string) => ({ authorization: `Bearer ${token}` })
  const json = { ...bearer(admin), 'content-type': 'application/json' }
  const body = JSON.stringify({ name: 'ci', scope: 'write' })
  const { token } = JSON.parse(await ask('/tokens', { method: 'POST', headers: json, body }))
  for (const secret of [admin, token]) {
    const headers = { ...bearer(secret), 'proxy-authorization': secret, cookie: `t=${secret}` }
    const file = ['file', 'model.safetensors', zeros(100)] as const
    await publish(server, '/models', { name: 'acme/zeros' }, [...file], headers)
    await publish(server, '/models', { name: secret }, [...file], headers)
    await publish(server, '/deltas', { name: 'acme/zeros' }, ['delta', 'd', zeros(1)], headers)
    await ask(`/models/${secret}`, { headers })
    await ask(`/models?token=${secret}&limit=x`, { headers })
    await ask(`/nowhere/${secret}`, { method: 'PUT', headers })
    await ask('/tokens', { method: 'POST', headers: json, body: `{"name": ${secret}` })
    const { hostname, port } = new URL(server.url)
    const socket = connect(Number(port), hostname)
    socket.on('error', () => {})
    socket.end(`GET / HTTP/1.1\r\nAuthorization: Bearer ${secret}\r\nbroken ${secret}\r\n\r\n`)
    await once(socket.resume(), 'close')
  }
  t.equal(await server.stop(), 0)
  const log = server.log.join('\n')
  t.match(log, /busboy/, 'the plugins do log at this level')
  for (const secret of [admin, token]) t.notOk(log.includes(secret))
  for (const line of server.log) t.ok(JSON.parse(line))
})

t.test('SIGTERM lets a download finish', async t => {
  const server = await serve(t, t.testdir())
  const file = zeros(16_000_000)
  const { body } = await publish(server, '/models', { name: 'acme/zeros' }, [
    'file',
    'model.safetensors',
    file,
  ])
  const download = get(`${server.url}/models/${body.id}/reconstruct`)
  const [incoming] = await once(download, 'response')
  incoming.pause()
  process.kill(server.pid, 'SIGTERM')
  // New connections are refused once the signal has been heard.
  while (
    await fetch(`${server.url}/healthz`).then(
      answer => answer.ok,
      () => false,
    )
  );
  const hash = createHash('sha256')
  let size = 0
  for await (const chunk of incoming) {
    size += chunk.length
    hash.update(chunk)
  }
  t.equal(size, file.length)
  t.equal(hash.digest('hex'), body.sha256)
  t.equal(await server.exited, 0)
})

t.test('SIGTERM does not wait for ever, a second signal not at all', async t => {
  const folder = t.testdir()
  const stuck = async (seconds: string) => {
    const server = await serve(t, join(folder, seconds), { DRAIN_SECONDS: seconds })
    const upload = request(`${server.url}/models`, {
      method: 'POST',
      headers: { 'content-type': 'multipart/form-data; boundary=x', 'content-length': 1000 },
    })
    upload.on('error', () => {})
    upload.write('--x\r\n')
    const metrics = async () => (await fetch(`${server.url}/metrics`)).text()
    while (!(await metrics()).includes('wdelta_http_streams{direction="upload"} 1'));
    process.kill(server.pid, 'SIGTERM')
    return server
  }
  const patient = await stuck('1')
  t.equal(await patient.exited, 0)
  const hurried = await stuck('600')
  while (
    await fetch(`${hurried.url}/healthz`).then(
      answer => answer.ok,
      () => false,
    )
  );
  process.kill(hurried.pid, 'SIGINT')
  t.equal(await hurried.exited, 1)
})

t.test('what cannot start says why', async t => {
  const folder = t.testdir()
  const running = await serve(t, folder)
  writeFileSync(join(folder, 'file'), '')
  const attempts: [env: Record<string, string>, why: RegExp][] = [
    [{ PORT: 'http' }, /PORT: expected an integer/],
    [{ AUTH: 'maybe' }, /AUTH: /],
    [{ DATA_DIR: folder }, /catalog-failed|locked/],
    [{ DATA_DIR: join(folder, 'file/below') }, /ENOTDIR/],
    [{ PORT: new URL(running.url).port, DATA_DIR: join(folder, 'other') }, /EADDRINUSE/],
  ]
  for (const [env, why] of attempts) {
    const { PATH } = process.env
    const child = spawn(process.execPath, [join(import.meta.dirname, '../src/main.ts')], {
      env: { PATH, PORT: '0', DATA_DIR: join(folder, 'new'), ...env },
    })
    const heard: Buffer[] = []
    for (const stream of [child.stdout, child.stderr]) stream.on('data', chunk => heard.push(chunk))
    const [code] = await once(child, 'close')
    t.equal(code, 1, String(why))
    t.match(Buffer.concat(heard).toString(), why)
  }
})
