import { createHash } from 'node:crypto'
import { globSync, mkdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { dirname, join, relative } from 'node:path'
import t, { type Test } from 'tap'
import type { Model } from '../../src/registry/registry.ts'
import { FEATURES, type Folder, generateLineage } from '../support/models/generated-models.ts'
import { rangesOf, tensorsOf, weightsOf } from '../support/models/generated-ranges.ts'
import { startServer } from '../support/servers/server-process.ts'
import { type Arguments, wdelta } from '../support/servers/wdelta-process.ts'

/** PAIRS names a folder with the whole models; without it their cut is used. `FULL=1` takes all seeds. */
const { PAIRS = join(import.meta.dirname, '../fixtures/pairs'), FULL } = process.env
const SEEDS = FULL === '1' ? 500 : 24
/** One lineage in so many has eight fine-tunes in a row, the others have one. */
const DEEP_EVERY = 10
/** Of the pairs: each from its parent, and all in a row. */
const PAIR_LINEAGES = [
  ['base', 'sft-450'],
  ['base', 'light'],
  ['sft-300', 'sft-450'],
  ['base', 'light', 'sft-300', 'sft-450', 'base', 'sft-300', 'sft-450', 'light', 'light'],
]
const LONGEST_MS = 3_600_000

t.setTimeout(LONGEST_MS)
const scratch = t.testdir({})
const server = await startServer(join(scratch, 'data'))
t.teardown(() => server.kill())
const REGISTRY = { registry: server.url }

/** A lineage in folders: a base, and fine-tunes each made from the one before it. */
interface Lineage {
  readonly name: string
  readonly seed: number
  /** Where deltas and results go. */
  readonly scratch: string
  readonly folders: readonly string[]
}

const sha256 = (bytes: Uint8Array) => createHash('sha256').update(bytes).digest('hex')
const same = (a: Uint8Array, b: Uint8Array) => Buffer.compare(a, b) === 0

function writeFolder(path: string, folder: Folder): string {
  for (const [name, bytes] of folder) {
    mkdirSync(dirname(join(path, name)), { recursive: true })
    writeFileSync(join(path, name), bytes)
  }
  return path
}

function readFolder(path: string): Folder {
  const files = globSync(join(path, '**/*')).filter(file => statSync(file).isFile())
  return new Map(files.sort().map(file => [relative(path, file), readFileSync(file)]))
}

/** Runs the command line; what it printed. A failure is one of the test. */
async function run(t: Test, ...args: Arguments): Promise<string> {
  const { code, stdout, stderr } = await wdelta(...args)
  t.equal(code, 0, `wdelta ${args[0]} ${stderr}`)
  return stdout
}

/** Whether a folder holds exactly these files. */
function checkFolder(t: Test, path: string, expected: readonly (readonly [string, Uint8Array])[]) {
  const found = readFolder(path)
  const names = expected.map(([name]) => name)
  t.strictSame([...found.keys()].sort(), names.sort())
  const wrong = expected.filter(([name, bytes]) => !same(found.get(name) ?? Buffer.of(), bytes))
  t.strictSame(
    wrong.map(([name]) => name),
    [],
    'files that differ',
  )
}

/** Saves every link of a lineage without a server, and loads what the deltas give; the paths of the deltas. */
async function checkFiles(t: Test, { scratch, folders }: Lineage): Promise<string[]> {
  const [base, ...tuned] = folders as [string, ...string[]]
  const deltas: string[] = []
  for (const [i, folder] of tuned.entries()) {
    const out = join(scratch, `${i + 1}.wdelta`)
    const told = await run(t, 'save', out, { tuned: folder, base, parentDelta: deltas })
    t.match(JSON.parse(told), { path: out, strategy: 'lossless', size: statSync(out).size })
    deltas.push(out)
    if (i !== 0 && i !== tuned.length - 1) continue
    const loaded = join(scratch, `loaded-${i + 1}`)
    await run(t, 'load', ...deltas, { base, out: loaded })
    checkFolder(t, loaded, weightsOf(readFolder(folder)))
  }
  await run(t, 'verify', ...deltas, { base })
  const inspected = (await run(t, 'inspect', ...deltas, { json: true })).trim()
  t.ok(inspected.includes('lossless'))
  const fast = join(scratch, 'not-verified')
  await run(t, 'load', ...deltas, { base, out: fast, verify: false })
  checkFolder(t, fast, weightsOf(readFolder(tuned.at(-1)!)))
  return deltas
}

/** Publishes a folder, by the command line or as a form, as the seed has it. */
async function upload(
  t: Test,
  name: string,
  folder: string,
  seed: number,
  parent?: Model,
): Promise<Model> {
  if (seed % 2 === 0) {
    const options = parent ? { parent: parent.id } : {}
    await run(t, 'push', folder, name, { ...options, ...REGISTRY })
    const response = await fetch(`${server.url}/models/${encodeURIComponent(name)}`)
    return (await response.json()) as Model
  }
  const form = new FormData()
  form.set('name', name)
  if (parent) form.set('parent', parent.id)
  for (const [path, bytes] of readFolder(folder)) {
    form.append('file', new File([Buffer.from(bytes)], path))
  }
  const response = await fetch(`${server.url}/models`, { method: 'POST', body: form })
  const answer = await response.text()
  if (response.status !== 201) throw new Error(`${folder}: ${answer}`)
  return JSON.parse(answer) as Model
}

const segments = (path: string) => path.split('/').map(encodeURIComponent).join('/')

/** Whether every file comes over HTTP as it was, whole and in ranges, and every tensor and the one stream. */
async function checkDownloads(t: Test, model: Model, folder: Folder, seed: number): Promise<void> {
  const url = `${server.url}/models/${model.id}`
  const wrong: string[] = []
  for (const [path, bytes] of folder) {
    const file = `${url}/files/${segments(path)}`
    const response = await fetch(file)
    t.equal(response.headers.get('content-length'), String(bytes.length))
    if (!same(await response.bytes(), bytes)) wrong.push(path)
    for (const { start, end } of rangesOf(path, bytes, seed)) {
      const range = await fetch(file, { headers: { range: `bytes=${start}-${end - 1}` } })
      const part = await range.bytes()
      if (range.status === 206 && same(part, bytes.subarray(start, end))) continue
      wrong.push(`${path} ${start}..${end}`)
    }
  }
  for (const { name, dtype, bytes } of tensorsOf(folder)) {
    const response = await fetch(`${url}/tensors/${encodeURIComponent(name)}`)
    t.equal(response.headers.get('x-tensor-dtype'), dtype)
    if (!same(await response.bytes(), bytes)) wrong.push(`tensor ${name}`)
  }
  const whole = await (await fetch(`${url}/reconstruct`)).bytes()
  t.equal(sha256(whole), model.sha256)
  const [[path, file], ...others] = weightsOf(folder) as [[string, Uint8Array]]
  if (others.length === 0 && !same(whole, file)) wrong.push(`reconstruct is not ${path}`)
  t.strictSame(wrong, [])
}

/** Publishes a lineage link by link, and takes it back by every way; the models. */
async function checkRegistry(t: Test, lineage: Lineage): Promise<Model[]> {
  const { name, folders, seed, scratch } = lineage
  const models: Model[] = []
  for (const [i, path] of folders.entries()) {
    const model = await upload(t, `acme/${name}`, path, seed, models.at(-1))
    const folder = readFolder(path)
    t.strictSame(
      Object.fromEntries(model.files.map(({ path, sha256 }) => [path, sha256])),
      Object.fromEntries([...folder].map(([path, bytes]) => [path, sha256(bytes)])),
    )
    if (i > 0) t.match(model, { kind: 'delta', strategy: 'lossless', parent: models.at(-1)!.id })
    if (i <= 1 || i === folders.length - 1) await checkDownloads(t, model, folder, seed)
    models.push(model)
  }
  const pulled = join(scratch, 'pulled')
  await run(t, 'pull', `acme/${name}`, { out: pulled, ...REGISTRY })
  checkFolder(t, pulled, [...readFolder(folders.at(-1)!)])
  return models
}

/** Deltas go from the one to the other: what the server made is loaded without it, what was saved without it is pushed. */
async function checkExchange(
  t: Test,
  { name, folders, scratch }: Lineage,
  deltas: readonly string[],
  models: readonly Model[],
): Promise<void> {
  const fetched: string[] = []
  for (const [i, { id }] of models.slice(1).entries()) {
    const response = await fetch(`${server.url}/models/${id}/delta`)
    const path = join(scratch, `fetched-${i + 1}.wdelta`)
    writeFileSync(path, await response.bytes())
    fetched.push(path)
  }
  const loaded = join(scratch, 'loaded-fetched')
  await run(t, 'load', ...fetched, { base: folders[0]!, out: loaded })
  checkFolder(t, loaded, weightsOf(readFolder(folders.at(-1)!)))

  const options = { parent: models[0]!.id, ...REGISTRY }
  const pushed = await run(t, 'push', deltas[0]!, `acme/${name}-pushed`, options)
  const model = (await (await fetch(`${server.url}/models/${pushed.trim()}`)).json()) as Model
  t.strictSame(
    model.files.map(({ path, sha256 }) => [path, sha256]),
    models[1]!.files
      .filter(({ path }) => path.endsWith('.safetensors'))
      .map(({ path, sha256 }) => [path, sha256]),
  )
}

async function checkLineage(t: Test, lineage: Lineage): Promise<void> {
  mkdirSync(lineage.scratch, { recursive: true })
  const deltas = await checkFiles(t, lineage)
  const models = await checkRegistry(t, lineage)
  await checkExchange(t, lineage, deltas, models)
  const tuned = readFolder(lineage.folders[1]!)
  const bytes = weightsOf(tuned).reduce((sum, [, { length }]) => sum + length, 0)
  t.comment(`${lineage.name}: ${(statSync(deltas[0]!).size / bytes).toFixed(4)} of the fine-tune`)
  rmSync(lineage.scratch, { recursive: true })
}

for (const names of PAIR_LINEAGES) {
  const name = names.length > 2 ? 'all-pairs' : names.join('-to-')
  t.test(`${name}: through files and over HTTP`, { timeout: LONGEST_MS }, async t => {
    const folders = names.map(model => join(PAIRS, model))
    await checkLineage(t, { name, seed: names.length, scratch: join(scratch, name), folders })
  })
}

const seen = new Set<string>()
for (let seed = 0; seed < SEEDS; seed++) {
  const depth = seed % DEEP_EVERY === 3 ? 8 : 1
  t.test(`seed ${seed}, depth ${depth}`, { timeout: LONGEST_MS }, async t => {
    const { base, fineTunes, features } = generateLineage(seed, depth)
    for (const feature of features) seen.add(feature)
    const into = join(scratch, `seed-${seed}`)
    const folders = [base, ...fineTunes].map((folder, i) =>
      writeFolder(join(into, `model-${i}`), folder),
    )
    await checkLineage(t, { name: `seed-${seed}`, seed, scratch: into, folders })
  })
}

t.test('the seeds have every feature', async t => {
  t.strictSame(
    FEATURES.filter(feature => !seen.has(feature)),
    [],
  )
})

t.test('SIGTERM ends it with 0', async t => {
  t.equal(await server.stop(), 0)
})
