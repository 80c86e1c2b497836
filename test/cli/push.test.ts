import { mkdirSync, symlinkSync, writeFileSync } from 'node:fs'
import type { AddressInfo } from 'node:net'
import { createServer } from 'node:net'
import { join } from 'node:path'
import t from 'tap'
import { goldenCase } from '../support/models/golden-cases.ts'
import { wdelta, wdeltaIn } from '../support/servers/wdelta-process.ts'
import { formParts, json, openFakeRegistry } from './fake-registry.ts'

const MODEL = { id: 'a'.repeat(40), name: 'acme/tiny', revision: 'main' }

t.test('a folder goes up as fields, then files in path order', async t => {
  const { url, seen } = await openFakeRegistry(t, (_seen, response) => json(response, 201, MODEL))
  const folder = t.testdir({
    'model.safetensors': 'weights',
    'config.json': '{}',
    'a "b".txt': 'quoted',
    '.hidden': 'no',
    '.cache': { 'model.safetensors': 'no' },
    onnx: { 'config.json': '[]' },
  })
  mkdirSync(join(folder, 'blobs.d'))
  writeFileSync(join(folder, 'blobs.d', 'x'), 'linked')
  symlinkSync(join('blobs.d', 'x'), join(folder, 'tokenizer.json'))
  symlinkSync('.', join(folder, 'loop'))
  const options = {
    registry: url,
    token: 'secret',
    parent: 'acme/base',
    strategy: 'int4',
    outlierFraction: 0.05,
    message: 'é',
  }
  const pushed = await wdelta('push', folder, 'acme/tiny@v1', options)
  t.match(pushed, { code: 0, stdout: `${MODEL.id}\n`, stderr: '' })
  t.equal(seen.length, 1)
  t.match(seen[0], { method: 'POST', url: '/models', headers: { authorization: 'Bearer secret' } })
  t.equal(seen[0]!.headers['content-length'], String(seen[0]!.body.length))
  const parts = await formParts(seen[0]!)
  t.strictSame(
    parts.map(({ name, filename, body }) => [name, filename, body.toString()]),
    [
      ['name', null, 'acme/tiny'],
      ['revision', null, 'v1'],
      ['message', null, 'é'],
      ['parent', null, 'acme/base'],
      ['strategy', null, 'int4'],
      ['outlier_fraction', null, '0.05'],
      ['file', 'a "b".txt', 'quoted'],
      ['file', 'blobs.d/x', 'linked'],
      ['file', 'config.json', '{}'],
      ['file', 'model.safetensors', 'weights'],
      ['file', 'onnx/config.json', '[]'],
      ['file', 'tokenizer.json', 'linked'],
    ],
  )
})

t.test('a delta goes to /deltas; address and token come from the environment', async t => {
  const { url, seen } = await openFakeRegistry(t, (_seen, response) => json(response, 201, MODEL))
  const { deltas } = goldenCase('int4-bf16')
  const env = { WDELTA_REGISTRY: `${url}/`, WDELTA_TOKEN: 'secret' }
  const ran = await wdeltaIn(env)('push', deltas[0]!, 'acme/tiny', { json: true })
  t.match(ran, { code: 0, stderr: '' })
  t.strictSame(JSON.parse(ran.stdout), MODEL)
  t.match(seen[0], { method: 'POST', url: '/deltas', headers: { authorization: 'Bearer secret' } })
  const parts = await formParts(seen[0]!)
  t.strictSame(
    parts.map(({ name, filename }) => [name, filename]),
    [
      ['name', null],
      ['delta', 'model.wdelta'],
    ],
  )
})

t.test('what the registry refuses is told by its code', async t => {
  const { url } = await openFakeRegistry(t, (_seen, response) => {
    json(response, 422, {
      code: 'parent-unknown',
      title: 'No',
      detail: 'expected a model\nwith hash x',
    })
  })
  const { deltas } = goldenCase('int4-bf16')
  const ran = await wdelta('push', deltas[0]!, 'acme/tiny', { registry: url })
  t.match(ran, {
    code: 1,
    stdout: '',
    stderr: 'wdelta: parent-unknown: expected a model with hash x\n',
  })
})

t.test('an answer before the end of the body ends the upload', async t => {
  const server = createServer(socket => {
    socket.on('error', () => {})
    socket.once('data', () => {
      // No byte more is read: the sender meets a full window.
      socket.pause()
      const body = JSON.stringify({
        code: 'upload-too-large',
        title: 'x',
        detail: 'at most 10 bytes',
      })
      const head = 'HTTP/1.1 413 Payload Too Large\r\nContent-Type: application/problem+json\r\n'
      socket.write(`${head}Content-Length: ${body.length}\r\n\r\n${body}`)
    })
  })
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  t.teardown(() => server.close())
  const folder = t.testdir({ 'model.safetensors': Buffer.alloc(32 * 1024 * 1024) })
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`
  const ran = await wdelta('push', folder, 'acme/tiny', { registry: url })
  t.match(ran, { code: 1, stdout: '', stderr: 'wdelta: upload-too-large: at most 10 bytes\n' })
})

t.test('a folder that is no model fails before anything is sent', async t => {
  const { url, seen } = await openFakeRegistry(t, (_seen, response) => json(response, 201, MODEL))
  const folder = t.testdir({ 'config.json': '{}' })
  const none = await wdelta('push', folder, 'a/b', { registry: url })
  t.match(none, { code: 1, stderr: /^wdelta: no-shards: / })
  const missing = await wdelta('push', join(folder, 'missing'), 'a/b', { registry: url })
  t.match(missing, { code: 1, stderr: /^wdelta: ENOENT/ })
  t.equal(seen.length, 0)
})

t.test('a registry that is not there is named, with the reason', async t => {
  const { deltas } = goldenCase('int4-bf16')
  const ran = await wdelta('push', deltas[0]!, 'a/b', { registry: 'http://127.0.0.1:1' })
  t.match(ran, {
    code: 1,
    stdout: '',
    stderr: /^wdelta: unreachable: http:\/\/127\.0\.0\.1:1: .*ECONNREFUSED/,
  })
})
