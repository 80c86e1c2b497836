import type { Test } from 'tap'
import type { Catalog } from '../../../src/catalog/catalog.ts'
import { BLOCK_BYTES } from '../../../src/codec/base/block-sums.ts'
import type { RegistryError } from '../../../src/errors.ts'
import type { Content, Model, Registry } from '../../../src/registry/registry.ts'
import { layoutOf } from '../../support/models/generated-ranges.ts'
import { weights } from '../../support/models/weights.ts'
import { part, publish } from '../../support/servers/test-registry.ts'

const SIGNAL = new AbortController().signal
export const MODEL = 'model.safetensors'
const CONFIG = Buffer.from('{"model_type": "made-up"}')

/** Models of every kind, and all that can be read of them. */
export interface DamageScene {
  readonly models: readonly Model[]
  /** The bytes of everything that can be read, by the names of the model and of what it is. */
  readonly truth: ReadonlyMap<string, Buffer>
  /** The blobs of a model by what they are, with the file that a report names. */
  blobsOf(model: Model): Promise<{ file: string; key: string }[]>
}

/** Publishes the models, and reads everything of them once. */
export async function publishScene(registry: Registry, catalog: Catalog): Promise<DamageScene> {
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
  const blobsOf = async (model: Model) => {
    const { delta, manifest, files, name } = (await catalog.model(model.id))!
    const own = files.flatMap(({ path, blob }) =>
      blob === null ? [] : [{ file: path, key: blob }],
    )
    const file = `${name.replace('/', '--')}.wdelta`
    if (delta !== null) own.push({ file, key: delta })
    return [...own, { file: 'manifest', key: manifest }]
  }
  return { models, truth, blobsOf }
}

/** Everything that can be read of a model, with the bytes that it must give. */
async function contentsOf(registry: Registry, { id }: Model): Promise<Map<string, Content>> {
  const { files, kind } = await registry.models.find(id)
  const contents = new Map<string, Content>()
  contents.set('reconstruct', await registry.models.openReconstruct(id))
  contents.set('as float32', await registry.models.openReconstruct(id, 'F32'))
  for (const { path } of files) contents.set(path, await registry.models.openFile(id, path))
  for (const { name } of await registry.models.tensors(id)) {
    contents.set(`tensor ${name}`, await registry.models.openTensor(id, name))
  }
  if (kind === 'delta') contents.set('delta', await registry.models.openDelta(id))
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
export async function readEverything(
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

/** Offsets in the first, the middle and the last block of so many bytes. */
function places(size: number): number[] {
  return [...new Set([3, size >> 1, size - 2])].filter(at => at >= 0 && at < size)
}

/** Where the blobs of a registry are, to be spoiled. */
export interface SpoiledStore {
  readonly registry: Registry
  readonly catalog: Catalog
  read(key: string): Promise<Buffer>
  /** Puts other bytes into the place of a blob's, and out of the way what is nearer. */
  write(key: string, bytes: Buffer): Promise<void>
}

/** Flips a bit in the first, the middle and the last block of every blob: it is never served, and scrub names it. */
export async function damageMatrix(
  t: Test,
  { registry, catalog, read, write }: SpoiledStore,
): Promise<void> {
  const { models, truth, blobsOf } = await publishScene(registry, catalog)
  const shared = new Set<string>()
  for (const model of models) {
    for (const { file, key } of await blobsOf(model)) {
      // The side file is one blob for all of them.
      if (shared.has(key)) continue
      shared.add(key)
      const sound = await read(key)
      for (const at of places(sound.length)) {
        const what = `${model.name} ${file}, byte ${at}`
        await t.test(what, async t => {
          const bad = Buffer.from(sound)
          bad[at]! ^= 1 << (at % 8)
          await write(key, bad)
          const failed = await readEverything(t, registry, models, truth)
          // What is open needs no manifest any more; scrub looks at what is stored.
          t.equal(failed.length > 0, file !== 'manifest', failed.join())

          const report = await registry.care.scrub({ signal: SIGNAL })
          const owners = (await catalog.modelsOf(key, 100)).map(({ id }) => id)
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
          const { damaged } = await registry.models.find(owners[0]!)
          t.match(damaged, { file, offset: file === 'manifest' ? 0 : block, at: String })
          if (model.kind === 'base' && file === MODEL) {
            for (const { id } of models)
              t.ok((await registry.models.find(id)).damaged, 'and what needs it')
          }

          await write(key, sound)
          const clean = await registry.care.scrub({ signal: SIGNAL })
          t.strictSame(clean.damaged, [])
          t.ok(owners.every(id => clean.cleared.includes(id)))
          for (const { id } of models) t.equal((await registry.models.find(id)).damaged, null)
          t.strictSame(await readEverything(t, registry, models, truth), [])
        })
      }
    }
  }
}
