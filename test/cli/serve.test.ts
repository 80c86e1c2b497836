import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { goldenCase } from '../support/models/golden-cases.ts'
import { type Arguments, wdeltaIn } from '../support/servers/wdelta-process.ts'
import { serve, succeeding } from './serve.ts'
import { tensorsOf } from './tensors.ts'

t.test('what is pushed comes back, and goes', async t => {
  const folder = t.testdir()
  const { wdelta, stop } = await serve(join(folder, 'data'))
  t.teardown(stop)
  const run = succeeding(t, wdelta)
  const { base, tuned, deltas } = goldenCase('int4-bf16')

  const baseId = await run('push', base, 'acme/base', { message: 'the base' })
  t.match(baseId, /^[0-9a-f]{40}$/)
  const deltaId = await run('push', deltas[0]!, 'acme/tuned@v1')
  const how = { parent: 'acme/base', strategy: 'int4', json: true }
  const encoded = await run('push', tuned[0]!, 'acme/tuned', how)
  t.match(JSON.parse(encoded), {
    kind: 'delta',
    strategy: 'int4',
    parent: baseId,
    revision: 'main',
  })

  const listed = JSON.parse(await run('ls', { json: true }))
  t.strictSame(new Set(listed.map(({ id }: { id: string }) => id)).size, 3)
  const lineage = JSON.parse(await run('lineage', 'acme/tuned@v1', { json: true }))
  t.match(lineage, [{ id: baseId, message: 'the base' }, { id: deltaId }])

  await run('pull', 'acme/base', { out: join(folder, 'base') })
  for (const name of readdirSync(base)) {
    t.ok(readFileSync(join(folder, 'base', name)).equals(readFileSync(join(base, name))), name)
  }
  await run('pull', deltaId, { out: join(folder, 'pulled') })
  await run('load', deltas[0]!, { base, out: join(folder, 'loaded') })
  const pulled = tensorsOf(join(folder, 'pulled', 'model.safetensors'))
  t.strictSame(pulled, tensorsOf(join(folder, 'loaded', 'model.safetensors')))

  const kept = await wdelta('rm', 'acme/base')
  t.match(kept, { code: 1, stdout: '', stderr: /^wdelta: has-children: / })
  await run('rm', 'acme/tuned@v1')
  t.match(await run('sweep', { dryRun: true }), /would delete \d+ blobs/)
  t.match(await run('sweep'), /deleted \d+ blobs/)
  const gone = await wdelta('lineage', 'acme/tuned@v1')
  t.match(gone, { code: 1, stderr: /^wdelta: model-not-found: / })

  await run('push', tuned[0]!, 'acme/x', { parent: 'acme/base' })
  t.match(await run('ls'), /acme\/x +main +delta +lossless/)
  t.equal(await stop(), 0)
})

t.test('tokens open a registry that wants them', async t => {
  const adminToken = 'x'.repeat(32)
  const { url, stop } = await serve(t.testdir(), { AUTH: 'tokens', ADMIN_TOKEN: adminToken })
  t.teardown(stop)
  const ask = (token: string, ...args: Arguments) =>
    wdeltaIn({ WDELTA_REGISTRY: url, WDELTA_TOKEN: token })(...args)
  t.match(await ask('', 'ls'), { code: 1, stderr: /^wdelta: unauthorized: / })
  const created = await ask(adminToken, 'token', 'create', 'reader', { scope: 'read' })
  t.match(created, { code: 0, stderr: '' })
  const token = created.stdout.trim()
  t.match(await ask(token, 'ls'), { code: 0 })
  t.match(await ask(token, 'sweep'), { code: 1, stderr: /^wdelta: forbidden: / })
  const listed = JSON.parse((await ask(adminToken, 'token', 'list', { json: true })).stdout)
  t.match(listed, [{ name: 'reader', scope: 'read' }])
  t.match(await ask(adminToken, 'token', 'revoke', listed[0].id), { code: 0 })
  t.match(await ask(token, 'ls'), { code: 1, stderr: /^wdelta: unauthorized: / })
  t.equal(await stop(), 0)
})
