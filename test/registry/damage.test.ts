import { readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { BLOCK_BYTES } from '../../src/codec/index.ts'
import type { RegistryError } from '../../src/errors.ts'
import type { Content, Model, Registry } from '../../src/registry/registry.ts'
import { layoutOf } from '../codec/generated-ranges.ts'
import { openTestRegistry, part, publish } from './helper.ts'
import { weights } from './weights.ts'

const SIGNAL = new AbortController().signal
const MODEL = 'model.safetensors'
const CONFIG = Buffer.from('{"model_type": "made-up"}')

/** Everything that can be read of a model, with the bytes that it must give. */
async function contentsOf(registry: Registry, { id }: Model): Promise<Map<string, Content>> {
  const { files, kind } = await registry.find(id)
  const contents = new Map<string, Content>()
  contents.set('reconstruct', await registry.openReconstruct(id))
  contents.set('as float32', await registry.openReconstruct(id, 'F32'))
  for (const { path } of files) contents.set(path, await registry.openFile(id, path))
  for (const { name } of await registry.tensors(id)) {
    contents.set(`tensor ${name}`, await registry.openTensor(id, name))
  }
  if (kind === 'delta') contents.set('delta', await registry.openDelta(id))
  return contents
}

/** What came before it ended, and whether it ended well. */
async function readAll(content: Content): Promise<{ bytes: Buffer; error: RegistryError | null }> {
  const chunks: Uint8Array[] = []
  try {
    for await (const chunk of content.open({ start: 0, end: content.size }, SIGNAL)) {
      chunks.push(chunk.slice())
    }
    return { bytes: Buffer.concat(chunks), error: null }
  } catch (error) {
    return { bytes: Buffer.concat(chunks), error: error as RegistryError }
  }
}

/** Reads everything of all models: every byte that comes is the true one, whatever ends early says why. The names of what did. */
async function readEverything(
  t: Test,
  registry: Registry,
  models: readonly Model[],
  truth: ReadonlyMap<string, Buffer>,
): Promise<string[]> {
  const failed: string[] = []
  for (const model of models) {
    for (const [name, content] of await contentsOf(registry, model)) {
      const what = `${model.name} ${name}`
      const { bytes, error } = await readAll(content)
      const expected = truth.get(what)!
      if (!expected.subarray(0, bytes.length).equals(bytes)) t.fail(`${what}: wrong bytes`)
      if (!error && bytes.length !== expected.length) t.fail(`${what}: ${bytes.length} bytes`)
      if (error && error.code !== 'damaged') t.fail(`${what}: ${error.code} ${error.message}`)
      if (error) failed.push(what)
    }
  }
  return failed
}

async function scene(t: Test) {
  const opened = await openTestRegistry(t)
  const { registry, catalog } = opened
  const base = weights(1)
  const tuned = weights(2, base)
  const upload = (bytes: Buffer) => [part(MODEL, bytes), part('config.json', CONFIG)]
  const models = [await publish(registry, upload(base), { name: 'acme/base' })]
  for (const strategy of ['lossless', 'int4', 'sparse', 'quantized'] as const) {
    const options = { name: `acme/${strategy}`, parent: models[0]!.id, strategy }
    models.push(await publish(registry, upload(tuned), options))
  }
  const truth = new Map<string, Buffer>()
  for (const model of models) {
    for (const [name, content] of await contentsOf(registry, model)) {
      truth.set(`${model.name} ${name}`, (await readAll(content)).bytes)
    }
  }
  /** The blobs of a model by what they are, with the file that a report names. */
  const blobsOf = async (model: Model) => {
    const { delta, manifest, files, name } = (await catalog.model(model.id))!
    const own = files.flatMap(({ path, blob }) =>
      blob === null ? [] : [{ file: path, key: blob }],
    )
    const file = `${name.replace('/', '--')}.wdelta`
    if (delta !== null) own.push({ file, key: delta })
    return [...own, { file: 'manifest', key: manifest }]
  }
  const path = (key: string) => join(opened.folder, 'store', key)
  return { ...opened, models, truth, blobsOf, path }
}

/** Offsets in the first, the middle and the last block of so many bytes. */
function places(size: number): number[] {
  return [...new Set([3, size >> 1, size - 2])].filter(at => at >= 0 && at < size)
}

t.test('a flipped bit anywhere in a store is never served, and scrub names it', async t => {
  const { registry, models, truth, blobsOf, path, catalog } = await scene(t)
  const shared = new Set<string>()
  for (const model of models) {
    for (const { file, key } of await blobsOf(model)) {
      // The side file is one blob for all of them.
      if (shared.has(key)) continue
      shared.add(key)
      const sound = readFileSync(path(key))
      for (const at of places(sound.length)) {
        const what = `${model.name} ${file}, byte ${at}`
        await t.test(what, async t => {
          const bad = Buffer.from(sound)
          bad[at]! ^= 1 << (at % 8)
          writeFileSync(path(key), bad)
          const failed = await readEverything(t, registry, models, truth)
          // What is open needs no manifest any more; scrub looks at what is stored.
          t.equal(failed.length > 0, file !== 'manifest', failed.join())

          const report = await registry.scrub({ signal: SIGNAL })
          const owners = (await catalog.modelsOf(key)).map(({ id }) => id)
          t.strictSame(
            report.damaged.map(({ model }) => model),
            owners,
          )
          const block = at - (at % BLOCK_BYTES)
          for (const finding of report.damaged) {
            t.match(finding, { file, blob: key, why: 'checksum' })
            const { offset, bytes, tensors } = finding
            t.ok(offset <= at && at < offset + bytes)
            if (file !== 'manifest') t.match(finding, { offset: block })
            if (file === MODEL) {
              const { tensors: placed } = layoutOf(sound)
              const expected = placed.filter(
                ({ begin, end }) => begin < block + BLOCK_BYTES && end > block,
              )
              t.strictSame(
                tensors,
                expected.map(({ name }) => name),
              )
            }
          }
          const { damaged } = await registry.find(owners[0]!)
          t.match(damaged, { file, offset: file === 'manifest' ? 0 : block, at: String })
          if (model.kind === 'base' && file === MODEL) {
            for (const { id } of models)
              t.ok((await registry.find(id)).damaged, 'and what needs it')
          }

          writeFileSync(path(key), sound)
          const clean = await registry.scrub({ signal: SIGNAL })
          t.strictSame(clean.damaged, [])
          t.ok(owners.every(id => clean.cleared.includes(id)))
          for (const { id } of models) t.equal((await registry.find(id)).damaged, null)
          t.strictSame(await readEverything(t, registry, models, truth), [])
        })
      }
    }
  }
})

t.test('a blob that is cut or gone is damage too', async t => {
  const { registry, models, truth, blobsOf, path } = await scene(t)
  const [base] = models
  const { key } = (await blobsOf(base!)).find(({ file }) => file === MODEL)!
  const sound = readFileSync(path(key))
  truncateSync(path(key), sound.length - 1000)
  t.ok((await readEverything(t, registry, models, truth)).length > 0)
  const cut = await registry.scrub({ signal: SIGNAL })
  t.match(cut.damaged, [{ model: base!.id, file: MODEL, why: 'short' }])
  rmSync(path(key))
  // A worker that has it open still reads it: a new process would not.
  const gone = await registry.scrub({ signal: SIGNAL })
  t.ok(gone.damaged.length > 0)
})

t.test('content that is published again takes the place of a bad block', async t => {
  const { registry, models, truth, blobsOf, path, catalog } = await scene(t)
  const [base] = models
  const { key } = (await blobsOf(base!)).find(({ file }) => file === MODEL)!
  const sound = readFileSync(path(key))
  const bad = Buffer.from(sound)
  bad[100_000]! ^= 1
  writeFileSync(path(key), bad)
  t.ok((await readEverything(t, registry, models, truth)).length > 0)
  t.ok((await registry.find(base!.id)).damaged)
  const again = await publish(registry, [part(MODEL, sound)], { name: 'acme/again' })
  const copy = (await catalog.model(again.id))!.files[0]!.blob
  t.not(copy, key, 'a bad blob is not what equal content is taken to be')
  t.strictSame(await readEverything(t, registry, models, truth), [], 'the copy is read')
  t.ok((await registry.find(base!.id)).damaged, 'the bad block is still there')
  t.equal((await registry.find(again.id)).damaged, null)
  t.match((await registry.scrub({ signal: SIGNAL })).damaged, [{ model: base!.id }])
})

t.test('a model is not published over a parent that has a bad block', async t => {
  const { registry, models, blobsOf, path } = await scene(t)
  const [base] = models
  const { key } = (await blobsOf(base!)).find(({ file }) => file === MODEL)!
  const bad = readFileSync(path(key))
  bad[200_000]! ^= 1
  writeFileSync(path(key), bad)
  for (const strategy of ['lossless', 'int4'] as const) {
    const tuned = [part(MODEL, weights(9, weights(1)))]
    await t.rejects(publish(registry, tuned, { parent: base!.id, strategy }), { code: 'damaged' })
  }
  t.match(
    (await registry.find(base!.id)).damaged,
    { file: MODEL },
    'and that is known from then on',
  )
  t.equal((await registry.list({ limit: 100 })).models.length, models.length)
})
