import { createHash } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { RegistryError } from '../../../src/errors.ts'
import { goldenCase, goldenCases } from '../../support/models/golden-cases.ts'
import { modelFile } from '../../support/models/model-file.ts'
import {
  bytesOf,
  folderParts,
  lineageOf,
  openTestRegistry,
  part,
  publish,
  publishWdelta,
} from '../../support/servers/test-registry.ts'

const sha256 = (bytes: Uint8Array) => createHash('sha256').update(bytes).digest('hex')

const f32 = (...values: number[]) => new Uint8Array(new Float32Array(values).buffer)

for (const { name, base, deltas, expected, hash } of goldenCases()) {
  t.test(`${name}: what the reference wrote means what the reference makes of it`, async t => {
    const { registry } = await openTestRegistry(t)
    await publish(registry, folderParts(base))
    let id = ''
    for (const file of deltas) {
      const bytes = readFileSync(file)
      const model = await publishWdelta(registry, bytes)
      t.strictSame(
        await bytesOf(await registry.models.openDelta(model.id)),
        bytes,
        'stored as it came',
      )
      id = model.id
    }
    const model = await registry.models.find(id)
    t.equal(model.hashes.float32, hash)
    const float32 = await registry.models.openReconstruct(id, 'F32')
    t.equal(Buffer.compare(await bytesOf(float32), readFileSync(expected)), 0)
    const stored = await bytesOf(await registry.models.openReconstruct(id))
    t.equal(stored.length, model.size)
    t.equal(sha256(stored), model.sha256)
    t.equal((await lineageOf(registry, id)).length, deltas.length + 1)
  })
}

t.test('a base comes back byte for byte, side files and shards', async t => {
  const { registry } = await openTestRegistry(t)
  const shards = folderParts(goldenCase('sharded-mixed-int4').base)
  const model = await publish(registry, [...shards, part('config.json', Buffer.from('{}'))])
  t.match(model, { kind: 'base', strategy: 'whole', parent: null, revision: 'main' })
  t.strictSame(
    model.files.map(({ path }) => path),
    ['config.json', 'model-00001-of-00002.safetensors', 'model-00002-of-00002.safetensors'],
  )
  for (const { path, sha256: digest, size } of model.files) {
    const bytes = await bytesOf(await registry.models.openFile(model.id, path))
    t.equal(bytes.length, size)
    t.equal(sha256(bytes), digest)
  }
  const whole = await bytesOf(await registry.models.openReconstruct(model.id))
  t.equal(sha256(whole), model.sha256)
  t.equal(whole.length, model.size)
})

for (const strategy of ['int4', 'sparse', 'quantized'] as const) {
  t.test(`a fine-tune published with ${strategy} comes back in its own layout`, async t => {
    const { registry, blobs } = await openTestRegistry(t)
    const golden = goldenCase('int4-bf16')
    const base = await publish(registry, folderParts(golden.base))
    const tuned = folderParts(golden.tuned[0]!)
    const model = await publish(registry, tuned, { parent: base.id, strategy })
    t.match(model, { kind: 'delta', strategy, parent: base.id })
    t.ok(model.error!.nmse >= 0 && model.error!.nmse < 1, `nmse ${model.error!.nmse}`)
    t.ok(model.error!.maxAbs < 1)
    const uploaded = readFileSync(join(golden.tuned[0]!, 'model.safetensors'))
    const back = await bytesOf(await registry.models.openFile(model.id, 'model.safetensors'))
    t.equal(back.length, uploaded.length)
    t.equal(sha256(back), model.sha256)
    const header = Number(uploaded.readBigUInt64LE(0)) + 8
    t.equal(Buffer.compare(back.subarray(0, header), uploaded.subarray(0, header)), 0)
    const inspection = await registry.models.inspect(model.id)
    t.equal(inspection.parentHash, base.hashes.stored)
    t.equal(inspection.tensors.length, model.tensors)
    t.ok(inspection.tensors.every(({ error }) => error !== null))
    let kept = 0
    for await (const { size } of blobs.list('blobs/')) kept += size
    t.ok(kept <= base.storedSize + model.storedSize, 'the uploaded copy is gone')
  })
}

t.test('a delta of a delta is made against unrounded values, at any depth', async t => {
  const { registry } = await openTestRegistry(t)
  const golden = goldenCase('chain-int4-bf16')
  let parent = await publish(registry, folderParts(golden.base))
  for (const [step, tuned] of golden.tuned.entries()) {
    const model = await publish(registry, folderParts(tuned), {
      parent: parent.id,
      strategy: 'int4',
    })
    const expected = step === 0 ? parent.hashes.stored : parent.hashes.float32
    t.equal((await registry.models.inspect(model.id)).parentHash, expected)
    parent = model
  }
  t.equal((await lineageOf(registry, parent.id)).length, 4)
})

t.test('ranges of every kind of content are slices of the whole', async t => {
  const { registry } = await openTestRegistry(t)
  const golden = goldenCase('int4-0.05-bf16')
  const base = await publish(registry, folderParts(golden.base))
  const delta = await publishWdelta(registry, readFileSync(golden.deltas[0]!))
  for (const content of [
    await registry.models.openReconstruct(base.id),
    await registry.models.openReconstruct(delta.id),
    await registry.models.openReconstruct(delta.id, 'F32'),
    await registry.models.openReconstruct(delta.id, 'F16'),
    await registry.models.openFile(delta.id, 'model.safetensors'),
    await registry.models.openTensor(delta.id, 'embed.weight'),
    await registry.models.openDelta(delta.id),
  ]) {
    const whole = await bytesOf(content)
    t.equal(whole.length, content.size)
    for (let i = 0; i < 100; i++) {
      const start = (i * 7919) % content.size
      const end = start + ((i * 104_729) % (content.size - start + 1))
      const slice = await bytesOf(content, { start, end })
      if (Buffer.compare(slice, whole.subarray(start, end)) !== 0) t.fail(`${start}..${end}`)
    }
  }
})

t.test('an integer tensor: copied where it is unchanged, refused where it changed', async t => {
  const { registry } = await openTestRegistry(t)
  const ids = (n: number) => new Uint8Array(new BigInt64Array([1n, BigInt(n)]).buffer)
  const model = (w: number, n: number) =>
    modelFile([
      { name: 'w', dtype: 'F32', shape: [4], data: f32(w, 1, 2, 3) },
      { name: 'ids', dtype: 'I64', shape: [2], data: ids(n) },
      { name: 'one', dtype: 'F32', shape: [], data: f32(w) },
      { name: 'none', dtype: 'F32', shape: [0], data: f32() },
    ])
  const base = await publish(registry, [part('model.safetensors', model(1, 2 ** 40 + 5))])
  for (const strategy of ['int4', 'sparse', 'quantized'] as const) {
    const tuned = [part('model.safetensors', model(1.5, 2 ** 40 + 5))]
    const { id } = await publish(registry, tuned, { parent: base.id, strategy })
    t.strictSame(
      await bytesOf(await registry.models.openTensor(id, 'ids')),
      Buffer.from(ids(2 ** 40 + 5)),
    )
    t.strictSame(await bytesOf(await registry.models.openTensor(id, 'one')), Buffer.from(f32(1.5)))
    const changed = [part('model.safetensors', model(1.5, 7))]
    await t.rejects(publish(registry, changed, { parent: base.id, strategy }), {
      code: 'not-encodable',
      message: /ids.*lossless/s,
    })
  }
})

t.test('a fine-tune of another structure is refused by the lossy strategies', async t => {
  const { registry } = await openTestRegistry(t)
  const model = (name: string, shape: number[]) =>
    modelFile([{ name, dtype: 'F32', shape, data: f32(1, 2, 3, 4) }])
  const base = await publish(registry, [part('model.safetensors', model('w', [4]))])
  for (const [name, shape] of [
    ['v', [4]],
    ['w', [2, 2]],
  ] as const) {
    const tuned = [part('model.safetensors', model(name, [...shape]))]
    await t.rejects(publish(registry, tuned, { parent: base.id, strategy: 'sparse' }), {
      code: 'not-encodable',
    })
  }
})

t.test('what is refused leaves nothing behind', async t => {
  const { registry, blobs } = await openTestRegistry(t)
  const bad = modelFile([{ name: 'w', dtype: 'F32', shape: [2], data: f32(1, 2) }])
  const { base, deltas } = goldenCase('int4-bf16')
  const good = folderParts(base)
  const orphan = readFileSync(deltas[0]!)
  const delta = Buffer.from(orphan)
  delta[15]! ^= 1
  const refused: [() => Promise<unknown>, string][] = [
    [
      () => publish(registry, [part('model.safetensors', bad.subarray(0, 70))]),
      'malformed-safetensors',
    ],
    [() => publish(registry, [part('config.json', Buffer.from('{}'))]), 'malformed-model'],
    [() => publish(registry, [part('../x.safetensors', bad)]), 'bad-request'],
    [
      () => publish(registry, [part('a.safetensors', bad), part('b.safetensors', bad)]),
      'malformed-model',
    ],
    [() => publish(registry, good, { parent: 'acme/none', strategy: 'int4' }), 'parent-unknown'],
    [() => publish(registry, good, { strategy: 'int4' }), 'bad-request'],
    [() => publishWdelta(registry, orphan), 'parent-unknown'],
    [() => publishWdelta(registry, delta), 'malformed-delta'],
  ]
  for (const [publication, code] of refused) await t.rejects(publication(), { code })
  t.strictSame((await registry.models.list({ limit: 10 })).models, [])
  for await (const blob of blobs.list('blobs/')) t.fail(`left behind: ${blob.key}`)
})

t.test('without a strategy, a parent makes a model lossless', async t => {
  const { registry } = await openTestRegistry(t)
  const files = () => folderParts(goldenCase('int4-bf16').base)
  const base = await publish(registry, files())
  const same = await publish(registry, files(), { parent: base.id })
  t.match(same, { kind: 'delta', strategy: 'lossless', parent: base.id, sha256: base.sha256 })
  await t.rejects(publish(registry, files(), { strategy: 'lossless' }), { code: 'bad-request' })
})

t.test('a whole model with a parent needs nobody: the parent may be deleted', async t => {
  const { registry } = await openTestRegistry(t)
  const files = () => folderParts(goldenCase('int4-bf16').base)
  const base = await publish(registry, files())
  const copy = await publish(registry, files(), { parent: base.id, strategy: 'whole' })
  t.match(copy, { kind: 'base', strategy: 'whole', parent: base.id })
  t.strictSame(
    (await lineageOf(registry, copy.id)).map(({ id }) => id),
    [base.id, copy.id],
  )
  await registry.models.remove(base.id)
  t.equal((await registry.models.find(copy.id)).parent, null)
  await registry.care.sweep({ dryRun: false })
  t.equal(sha256(await bytesOf(await registry.models.openReconstruct(copy.id))), copy.sha256)
})

t.test('equal content is stored once, also when it comes at once', async t => {
  const { registry, blobs } = await openTestRegistry(t)
  const files = () => folderParts(goldenCase('int4-bf16').base)
  const models = await Promise.all(
    Array.from({ length: 8 }, (_, i) => publish(registry, files(), { name: `acme/m${i}` })),
  )
  t.equal(new Set(models.map(({ id }) => id)).size, 8)
  let weights = 0
  for await (const { size } of blobs.list('blobs/')) if (size === models[0]!.size) weights++
  t.equal(weights, 1)
})

t.test('deleting: a parent with deltas stays, and bytes go with the sweep', async t => {
  const { registry, blobs } = await openTestRegistry(t)
  const golden = goldenCase('int4-bf16')
  const base = await publish(registry, folderParts(golden.base))
  const delta = await publishWdelta(registry, readFileSync(golden.deltas[0]!))
  await t.rejects(registry.models.remove(base.id), {
    code: 'has-children',
    details: { children: [delta.id] },
  })
  await registry.models.remove('acme/delta@main')
  await t.rejects(registry.models.find(delta.id), { code: 'model-not-found' })
  await registry.models.remove(base.id)
  const dry = await registry.care.sweep({ dryRun: true })
  const swept = await registry.care.sweep({ dryRun: false })
  t.strictSame(
    new Set(dry.deleted.map(({ key }) => key)),
    new Set(swept.deleted.map(({ key }) => key)),
  )
  for await (const blob of blobs.list('blobs/')) t.fail(`left behind: ${blob.key}`)
})

t.test('a registry opened again on its folder has everything', async t => {
  const folder = t.testdir()
  const first = await openTestRegistry(t, folder)
  const golden = goldenCase('int4-bf16')
  await publish(first.registry, folderParts(golden.base))
  const delta = await publishWdelta(first.registry, readFileSync(golden.deltas[0]!))
  await first.close()
  const { registry } = await openTestRegistry(t, folder)
  t.strictSame(await registry.models.find(delta.id), delta)
  t.equal(sha256(await bytesOf(await registry.models.openReconstruct(delta.id))), delta.sha256)
})

t.test(
  'a named parent that is not the one is refused, and a matching one is found by any hash',
  async t => {
    const { registry } = await openTestRegistry(t)
    const { base, deltas } = goldenCase('sharded-mixed-int4')
    const bytes = readFileSync(deltas[0]!)
    const other = modelFile([{ name: 'w', dtype: 'F32', shape: [1], data: f32(1) }])
    const wrong = await publish(registry, [part('model.safetensors', other)], {
      name: 'acme/wrong',
    })
    await t.rejects(publishWdelta(registry, bytes, { parent: wrong.id }), {
      code: 'parent-mismatch',
    })
    const right = await publish(registry, folderParts(base))
    t.equal((await publishWdelta(registry, bytes)).parent, right.id)
    t.equal((await publishWdelta(registry, bytes, { parent: 'acme/model' })).parent, right.id)
  },
)

t.test('who may publish is asked before the manifest and before the row', async t => {
  const { registry, blobs } = await openTestRegistry(t)
  const stored = async () => (await Array.fromAsync(blobs.list(''))).map(({ key }) => key)
  const bytes = modelFile([{ name: 'w', dtype: 'U8', shape: [2], data: Buffer.of(1, 2) }])
  const file = () => part('model.safetensors', bytes)
  const before = await stored()
  for (const allowed of [0, 1]) {
    let asked = 0
    const manifests: string[][] = []
    const authorized = async () => {
      manifests.push((await stored()).filter(key => key.startsWith('manifests/')))
      if (asked++ >= allowed) throw new RegistryError('unauthorized', 'revoked')
    }
    await t.rejects(publish(registry, [file()], { authorized }), { code: 'unauthorized' })
    t.equal(asked, allowed + 1)
    t.strictSame(
      manifests.map(({ length }) => length),
      [0, 1].slice(0, asked),
    )
    t.strictSame(await stored(), before, 'nothing is left that a start could adopt')
    t.match(await registry.models.list({ limit: 10 }), { models: [] })
  }
})
