import { globSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { goldenCase } from '../support/models/golden-cases.ts'
import { wdeltaIn } from '../support/servers/wdelta-process.ts'
import { serve, succeeding } from './serve.ts'

/** A registry with a base and a fine-tune of it. */
async function scene(t: Test) {
  const folder = t.testdir()
  const data = join(folder, 'data')
  const server = await serve(data)
  t.teardown(server.stop)
  const run = succeeding(t, server.wdelta)
  const { base, tuned } = goldenCase('int4-bf16')
  const id = await run('push', base, 'acme/base', { message: 'the base' })
  await run('push', tuned[0]!, 'acme/tuned@v1', { parent: 'acme/base' })
  return { ...server, folder, data, run, base, id }
}

/** A file of the blob store that is as long as this one. */
function blobLike(data: string, path: string): string {
  const { size } = statSync(path)
  const found = globSync(join(data, 'blobs/**/*')).find(each => statSync(each).size === size)
  if (!found) throw new Error(`no blob of ${size} bytes`)
  return found
}

t.test('scrub says that all is well, or what is not', async t => {
  const { wdelta, data, run, base, id } = await scene(t)
  t.match(await run('scrub'), /^checked \d+ blobs, [\d.]+ \w+$/)
  const { damaged, cleared } = JSON.parse(await run('scrub', { json: true }))
  t.strictSame([damaged, cleared], [[], []])

  const [file] = readdirSync(base).filter(name => name.endsWith('.safetensors'))
  const blob = blobLike(data, join(base, file!))
  const sound = readFileSync(blob)
  const bad = Buffer.from(sound)
  bad[bad.length - 5]! ^= 1
  writeFileSync(blob, bad)
  const found = await wdelta('scrub')
  t.match(found, { code: 1, stderr: /^wdelta: damaged: 1 places/ })
  t.match(found.stdout, `acme/base@main (${id}) ${file}, `)
  t.match(found.stdout, /: checksum, tensors \S+/)
  const json = await wdelta('scrub', { json: true })
  t.equal(json.code, 1)
  t.match(JSON.parse(json.stdout).damaged, [{ model: id, file, why: 'checksum' }])
  const pulled = await wdelta('pull', 'acme/tuned@v1', { out: join(data, '..', 'out') })
  t.match(pulled, { code: 1 }, 'nor is it given to anybody')

  writeFileSync(blob, sound)
  t.match(await run('scrub'), `${id}: sound again`)
})

t.test(
  'a backup is put in place of a lost catalog, and lacks nothing that the store has',
  async t => {
    const { data, folder, run, stop, base } = await scene(t)
    const copy = join(folder, 'backup.sqlite')
    t.equal(await run('backup', copy), copy)
    await run('push', base, 'acme/later')
    const listed = await run('ls', { json: true })
    t.equal(await stop(), 0)
    for (const path of globSync(join(data, 'registry.sqlite*'))) rmSync(path)
    writeFileSync(join(data, 'registry.sqlite'), readFileSync(copy))
    const again = await serve(data)
    t.teardown(again.stop)
    t.equal(await succeeding(t, again.wdelta)('ls', { json: true }), listed)
    t.match(await again.wdelta('scrub'), { code: 0 })
  },
)

t.test('a backup does not take the place of a file before it is whole', async t => {
  const { folder, wdelta, stop } = await scene(t)
  t.equal(await stop(), 0)
  const out = join(folder, 'backup.sqlite')
  writeFileSync(out, 'the one before')
  t.match(await wdelta('backup', out), { code: 1 })
  t.equal(readFileSync(out, 'utf8'), 'the one before')
})

t.test('a lost catalog is made again from the store', async t => {
  const { data, run, stop } = await scene(t)
  const listed = await run('ls', { json: true })
  const lineage = await run('lineage', 'acme/tuned@v1', { json: true })
  t.equal(await stop(), 0)

  const local = wdeltaIn({ DATA_DIR: data })
  t.match(await local('rebuild'), { code: 1, stderr: /^wdelta: catalog-failed: / })
  for (const path of globSync(join(data, 'registry.sqlite*'))) rmSync(path)
  const rebuilt = await local('rebuild')
  t.match(rebuilt, { code: 0, stderr: '' })
  t.match(rebuilt.stdout, /^[0-9a-f]{40} acme\/base@main base$/m)
  t.match(rebuilt.stdout, /^2 models$/m)

  const again = await serve(data)
  t.teardown(again.stop)
  const told = succeeding(t, again.wdelta)
  t.equal(await told('ls', { json: true }), listed)
  t.equal(await told('lineage', 'acme/tuned@v1', { json: true }), lineage)
  t.match(await again.wdelta('scrub'), { code: 0 })
})

t.test('a manifest that makes no model is named', async t => {
  const { data, stop } = await scene(t)
  t.equal(await stop(), 0)
  const manifests = globSync(join(data, 'manifests/**/*')).filter(path => statSync(path).isFile())
  const bytes = readFileSync(manifests[0]!)
  bytes[40]! ^= 1
  writeFileSync(manifests[0]!, bytes)
  for (const path of globSync(join(data, 'registry.sqlite*'))) rmSync(path)
  const rebuilt = await wdeltaIn({ DATA_DIR: data })('rebuild')
  t.match(rebuilt, {
    code: 1,
    stderr: /^wdelta: not-adopted: [12] manifests make no model: manifests\//,
  })
})
