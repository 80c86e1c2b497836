import { createHash } from 'node:crypto'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { FRAME_BYTES } from '../../../src/codec/base/limits.ts'
import { ENCODINGS } from '../../../src/codec/frames/frame-encodings.ts'
import type { Content, Model, Registry } from '../../../src/registry/registry.ts'
import { FEATURES, type Folder, generateLineage } from '../../support/models/generated-models.ts'
import { layoutOf, rangesOf, tensorsOf, weightsOf } from '../../support/models/generated-ranges.ts'
import {
  bytesOf,
  lineageOf,
  openTestRegistry,
  part,
  publish,
  publishWdelta,
} from '../../support/servers/test-registry.ts'

/** Generated lineages; `FULL=1` takes more. */
const SEEDS = process.env['FULL'] === '1' ? 500 : 60
/** Lineages that share a registry. */
const GROUP = 10
/** One lineage in so many has eight fine-tunes in a row, the others have one. */
const DEEP_EVERY = 8
/** Bytes in which uploads come; a model of several MB comes in none smaller than the last. */
const CHUNKS = [1000, 17, 4096, 65_536]

// All seeds take longer than a file of tests otherwise may.
t.setTimeout(3_600_000)
const seenFeatures = new Set<string>()
const seenEncodings = new Set<string>()

const sha256 = (bytes: Uint8Array) => createHash('sha256').update(bytes).digest('hex')
const same = (a: Uint8Array, b: Uint8Array) => Buffer.compare(a, b) === 0

/** The files of a folder as parts, in an order and in pieces that depend on the seed. */
function partsOf(folder: Folder, seed: number, wanted: (path: string) => boolean = () => true) {
  const size = [...folder.values()].reduce((sum, { length }) => sum + length, 0)
  const chunk = size > 1_000_000 ? CHUNKS.at(-1)! : CHUNKS[seed % CHUNKS.length]!
  const files = [...folder].filter(([path]) => wanted(path))
  if (seed % 2 === 1) files.reverse()
  return files.map(([path, bytes]) => part(path, bytes, 'file', chunk))
}

/** Where a content differs from the bytes that it should have, whole and in the ranges. */
async function differences(
  what: string,
  content: Content,
  expected: Uint8Array,
  ranges: readonly { start: number; end: number }[],
): Promise<string[]> {
  if (content.size !== expected.length) return [`${what}: ${content.size} bytes`]
  const wrong: string[] = []
  if (!same(await bytesOf(content), expected)) wrong.push(what)
  for (const range of ranges) {
    const { start, end } = range
    const bytes = await bytesOf(content, range)
    if (!same(bytes, expected.subarray(start, end))) wrong.push(`${what} ${start}..${end}`)
  }
  return wrong
}

/** Whether a model's files, its tensors and its one stream are those of the folder. */
async function checkContents(
  t: Test,
  registry: Registry,
  model: Model,
  folder: Folder,
  seed: number,
): Promise<void> {
  const wrong: string[] = []
  t.strictSame(
    model.files,
    [...folder]
      .map(([path, bytes]) => ({ path, size: bytes.length, sha256: sha256(bytes) }))
      .sort((a, b) => (a.path < b.path ? -1 : 1)),
  )
  for (const [path, bytes] of folder) {
    const content = await registry.models.openFile(model.id, path)
    wrong.push(...(await differences(path, content, bytes, rangesOf(path, bytes, seed))))
  }
  const tensors = tensorsOf(folder)
  t.equal(model.tensors, tensors.length)
  for (const { name, dtype, shape, bytes } of tensors) {
    const content = await registry.models.openTensor(model.id, name)
    t.match(content, { dtype, shape })
    const middle = { start: bytes.length >> 1, end: bytes.length }
    wrong.push(...(await differences(`tensor ${name}`, content, bytes, [middle])))
  }
  const whole = await bytesOf(await registry.models.openReconstruct(model.id))
  t.equal(whole.length, model.size)
  t.equal(sha256(whole), model.sha256)
  const [[path, file], ...others] = weightsOf(folder) as [[string, Uint8Array]]
  if (others.length === 0) {
    t.ok(same(whole, file), `reconstruct is ${path}`)
  } else {
    const byName = new Map(tensors.map(tensor => [tensor.name, tensor]))
    for (const { name, dtype, shape, begin, end } of layoutOf(whole).tensors) {
      const tensor = byName.get(name)!
      t.match(tensor, { dtype, shape })
      if (!same(whole.subarray(begin, end), tensor.bytes)) wrong.push(`reconstruct ${name}`)
    }
    const content = await registry.models.openReconstruct(model.id)
    wrong.push(...(await differences('reconstruct', content, whole, rangesOf(path, file, seed))))
  }
  t.strictSame(wrong, [])
}

/** Whether what is told of a lossless delta adds up. */
async function checkInspection(
  t: Test,
  registry: Registry,
  model: Model,
  parent: Model,
): Promise<void> {
  t.match(model, { kind: 'delta', strategy: 'lossless', parent: parent.id, error: null })
  const inspection = await registry.models.inspect(model.id)
  t.match(inspection, { format: 2, strategy: 'lossless', parentHash: parent.hashes.stored })
  const sizes = new Map(
    (await registry.models.tensors(model.id)).map(({ name, size }) => [name, size]),
  )
  t.strictSame(new Set(inspection.tensors.map(({ name }) => name)), new Set(sizes.keys()))
  let frames = 0
  let stored = 0
  for (const tensor of inspection.tensors) {
    const { encodings } = tensor
    const size = sizes.get(tensor.name)!
    const count = encodings!.reduce((sum, use) => sum + use.frames, 0)
    t.equal(count, Math.ceil(size / FRAME_BYTES))
    const bytes = encodings!.reduce((sum, use) => sum + use.storedBytes, 0)
    t.equal(tensor.storedBytes, bytes)
    t.ok(bytes <= size, 'no tensor is larger than it was')
    frames += count
    stored += bytes
  }
  const { encodings } = inspection
  t.equal(
    encodings!.reduce((sum, use) => sum + use.frames, 0),
    frames,
  )
  t.equal(
    encodings!.reduce((sum, use) => sum + use.storedBytes, 0),
    stored,
  )
  for (const { encoding } of encodings!) seenEncodings.add(encoding)
  const delta = await registry.models.openDelta(model.id)
  t.ok(stored < delta.size && delta.size <= model.storedSize)
  t.equal(sha256(await bytesOf(delta)), delta.sha256)
  if (model.sha256 === parent.sha256) t.equal(stored, 0, 'an equal model stores no frame')
}

for (let first = 0; first < SEEDS; first += GROUP) {
  t.test(`seeds ${first} to ${first + GROUP - 1} come back byte for byte`, async t => {
    const folder = t.testdir({ one: {}, other: {} })
    const { registry } = await openTestRegistry(t, join(folder, 'one'))
    const { registry: other } = await openTestRegistry(t, join(folder, 'other'))
    for (let seed = first; seed < first + GROUP; seed++) {
      const depth = seed % DEEP_EVERY === 3 ? 8 : 1
      const { base, fineTunes, features } = generateLineage(seed, depth)
      for (const feature of features) seenFeatures.add(feature)
      await t.test(`seed ${seed}, depth ${depth}`, async t => {
        const name = `acme/seed-${seed}`
        let parent = await publish(registry, partsOf(base, seed), { name })
        await checkContents(t, registry, parent, base, seed)
        let otherParent = await publish(other, partsOf(base, seed), { name })
        for (const folder of fineTunes) {
          const parts = partsOf(folder, seed)
          const model = await publish(registry, parts, { name, parent: parent.id })
          await checkInspection(t, registry, model, parent)
          await checkContents(t, registry, model, folder, seed)
          const bytes = await bytesOf(await registry.models.openDelta(model.id))
          const sides = partsOf(folder, seed, path => !path.endsWith('.safetensors'))
          const options = seed % 2 === 0 ? { name, parent: otherParent.id } : { name }
          otherParent = await publishWdelta(other, bytes, options, sides)
          for (const member of ['files', 'sha256', 'hashes', 'tensors', 'parameters', 'dtypes']) {
            t.strictSame(Reflect.get(otherParent, member), Reflect.get(model, member), member)
          }
          parent = model
        }
        t.equal((await lineageOf(registry, parent.id)).length, depth + 1)
        await checkContents(t, other, otherParent, fineTunes.at(-1)!, seed)
        await checkWhole(t, other, parent, fineTunes.at(-1)!)
      })
    }
  })
}

/** Whether a lossless model is told of as one stored whole is, and gives the same float32 values. */
async function checkWhole(t: Test, other: Registry, model: Model, folder: Folder): Promise<void> {
  const whole = await publish(other, partsOf(folder, 0), { name: 'acme/whole' })
  for (const member of ['files', 'sha256', 'size', 'tensors', 'parameters', 'dtypes', 'hashes']) {
    t.strictSame(Reflect.get(model, member), Reflect.get(whole, member), member)
  }
}

t.test('the seeds have every feature, and every encoding', async t => {
  t.strictSame(
    FEATURES.filter(feature => !seenFeatures.has(feature)),
    [],
  )
  t.strictSame(
    ENCODINGS.filter(encoding => !seenEncodings.has(encoding)),
    [],
  )
})
