import { createHash } from 'node:crypto'
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import type { ServerResponse } from 'node:http'
import { join } from 'node:path'
import t from 'tap'
import { startWdelta, wdelta } from '../support/servers/wdelta-process.ts'
import { json, openFakeRegistry, type Seen } from './fake-registry.ts'

const ID = 'c'.repeat(40)
const BYTES = Buffer.from(Array.from({ length: 300_000 }, (_, i) => (i * 31) % 251))
const sha256 = (bytes: Uint8Array) => createHash('sha256').update(bytes).digest('hex')

const file = (path: string, bytes: Uint8Array = BYTES) => ({
  path,
  size: bytes.length,
  sha256: sha256(bytes),
})

/** Answers for a model with these files; `serve` gives their bytes. */
function modelOf(
  files: ReturnType<typeof file>[],
  serve: (seen: Seen, response: ServerResponse) => void,
) {
  return (seen: Seen, response: ServerResponse) => {
    if (seen.url.includes('/files/')) serve(seen, response)
    else json(response, 200, { id: ID, files })
  }
}

const startOf = ({ headers }: Seen) => Number(/^bytes=(\d+)-$/.exec(headers.range ?? '')?.[1] ?? 0)

/** Bytes from where the request asks on; `most` of them, then the connection ends. */
function serveFrom(seen: Seen, response: ServerResponse, most = Number.POSITIVE_INFINITY) {
  const start = startOf(seen)
  const range = { 'content-range': `bytes ${start}-${BYTES.length - 1}/${BYTES.length}` }
  response.writeHead(start > 0 ? 206 : 200, {
    'content-length': BYTES.length - start,
    ...(start > 0 && range),
  })
  const bytes = BYTES.subarray(start, start + Math.min(most, BYTES.length))
  if (start + bytes.length === BYTES.length) response.end(bytes)
  else response.write(bytes, () => response.destroy())
}

t.test('every file of the model arrives, in its folder', async t => {
  const files = [file('config.json'), file('onnx/a b%.bin')]
  const { url, seen } = await openFakeRegistry(t, modelOf(files, serveFrom))
  const out = t.testdir()
  const pull = () => wdelta('pull', 'acme/tiny@v1', { out: join(out, 'new'), registry: url })
  const paths = files.map(({ path }) => join(out, 'new', path))
  t.match(await pull(), { code: 0, stdout: `${paths.join('\n')}\n`, stderr: '' })
  for (const path of paths) t.ok(readFileSync(path).equals(BYTES), path)
  t.strictSame(
    seen.map(one => one.url),
    [
      '/models/acme%2Ftiny%40v1',
      `/models/${ID}/files/config.json`,
      `/models/${ID}/files/onnx/a%20b%25.bin`,
    ],
  )
  t.equal(seen[1]!.headers['accept-encoding'], 'identity')
  t.strictSame(readdirSync(join(out, 'new')).sort(), ['config.json', 'onnx'])
  t.equal((await pull()).code, 0)
  t.equal(seen.length, 4, 'what is there is not fetched again')
})

t.test('a connection that is cut goes on where it ended', async t => {
  const serve = (seen: Seen, response: ServerResponse) => serveFrom(seen, response, 100_000)
  const { url, seen } = await openFakeRegistry(t, modelOf([file('model.safetensors')], serve))
  const out = t.testdir()
  const ran = await wdelta('pull', 'a/b', { out, registry: url })
  t.match(ran, { code: 0, stderr: '' })
  t.ok(readFileSync(join(out, 'model.safetensors')).equals(BYTES))
  const starts = seen.slice(1).map(startOf)
  t.ok(starts.length >= 3, 'several connections')
  t.strictSame(
    starts,
    [...starts].sort((a, b) => a - b),
  )
})

t.test('a download that was given up is continued by the next one', async t => {
  let broken = true
  const serve = (seen: Seen, response: ServerResponse) => {
    if (!broken) serveFrom(seen, response)
    else if (startOf(seen) > 0) response.destroy()
    // Ends in order, so that all of it is received.
    else response.writeHead(200, { 'content-length': 100_000 }).end(BYTES.subarray(0, 100_000))
  }
  const { url, seen } = await openFakeRegistry(t, modelOf([file('model.safetensors')], serve))
  const out = t.testdir()
  const pull = () => wdelta('pull', 'a/b', { out, registry: url })
  t.match(await pull(), { code: 1, stdout: '', stderr: /^wdelta: [^\n]+\n$/ })
  t.notOk(existsSync(join(out, 'model.safetensors')), 'nothing under its name')
  broken = false
  t.match(await pull(), { code: 0, stderr: '' })
  t.equal(startOf(seen.at(-1)!), 100_000)
  t.ok(readFileSync(join(out, 'model.safetensors')).equals(BYTES))
  t.strictSame(readdirSync(out), ['model.safetensors'])
})

t.test('a registry that ignores the range is read from the beginning', async t => {
  const serve = (seen: Seen, response: ServerResponse) => {
    if (startOf(seen) === 0) serveFrom(seen, response, 100_000)
    else response.writeHead(200, { 'content-length': BYTES.length }).end(BYTES)
  }
  const { url } = await openFakeRegistry(t, modelOf([file('model.safetensors')], serve))
  const out = t.testdir()
  t.equal((await wdelta('pull', 'a/b', { out, registry: url })).code, 0)
  t.ok(readFileSync(join(out, 'model.safetensors')).equals(BYTES))
})

t.test('wrong bytes never get the name', async t => {
  const wrong = Buffer.from(BYTES)
  wrong[1000]! ^= 1
  const files = [{ ...file('model.safetensors'), sha256: sha256(wrong) }]
  const { url } = await openFakeRegistry(t, modelOf(files, serveFrom))
  const out = t.testdir({ 'model.safetensors': 'what was there' })
  const ran = await wdelta('pull', 'a/b', { out, registry: url })
  t.match(ran, { code: 1, stdout: '', stderr: /^wdelta: digest-mismatch: model\.safetensors: / })
  t.strictSame(readdirSync(out), ['model.safetensors'])
  t.equal(readFileSync(join(out, 'model.safetensors'), 'utf8'), 'what was there')
})

t.test(
  'an answer that is not what was asked for fails the pull, which is not tried again',
  async t => {
    const answers: [string, (seen: Seen, response: ServerResponse) => void][] = [
      ['too long', (_seen, response) => void response.end(Buffer.concat([BYTES, BYTES]))],
      [
        'refused',
        (_seen, response) => json(response, 500, { code: 'blob-missing', detail: 'gone' }),
      ],
      ['no problem document', (_seen, response) => void response.writeHead(502).end('<html>')],
    ]
    for (const [name, serve] of answers) {
      await t.test(name, async t => {
        const { url, seen } = await openFakeRegistry(t, modelOf([file('a.json')], serve))
        const ran = await wdelta('pull', 'a/b', { out: t.testdir(), registry: url })
        t.match(ran, {
          code: 1,
          stdout: '',
          stderr: /^wdelta: (bad-answer|blob-missing|http-502): [^\n]+\n$/,
        })
        t.equal(seen.length, 2, 'asked once')
      })
    }
  },
)

t.test('no path leads out of the folder', async t => {
  for (const path of ['../evil', '/evil', 'a/../../evil', 'a\\..\\evil', 'C:evil', '']) {
    await t.test(JSON.stringify(path), async t => {
      const { url, seen } = await openFakeRegistry(t, modelOf([file(path)], serveFrom))
      const folder = t.testdir({ out: {} })
      const ran = await wdelta('pull', 'a/b', { out: join(folder, 'out'), registry: url })
      t.match(ran, { code: 1, stdout: '', stderr: /^wdelta: path: / })
      t.equal(seen.length, 1)
      t.strictSame(readdirSync(folder), ['out'])
      t.strictSame(readdirSync(join(folder, 'out')), [])
    })
  }
})

t.test('a half of another model is not continued', async t => {
  const { url, seen } = await openFakeRegistry(t, modelOf([file('model.safetensors')], serveFrom))
  const out = t.testdir()
  writeFileSync(join(out, `model.safetensors.${'0'.repeat(16)}.part`), 'other')
  t.equal((await wdelta('pull', 'a/b', { out, registry: url })).code, 0)
  t.equal(startOf(seen.at(-1)!), 0)
})

t.test('an interrupted download leaves nothing under its name', async t => {
  const serve = (_seen: Seen, response: ServerResponse) => {
    response.writeHead(200, { 'content-length': BYTES.length }).write(BYTES.subarray(0, 1000))
    interrupt()
  }
  const { url } = await openFakeRegistry(t, modelOf([file('model.safetensors')], serve))
  const out = t.testdir()
  const { child, ended } = startWdelta(['pull', 'a/b', { out, registry: url }])
  const interrupt = () => child.kill('SIGINT')
  const ran = await ended
  t.match(ran, { code: 130, stdout: '', stderr: 'wdelta: ended by SIGINT\n' })
  t.notOk(existsSync(join(out, 'model.safetensors')))
})
