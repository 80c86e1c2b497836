import {
  cpSync,
  globSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { weights } from '../../support/models/weights.ts'
import { bytesOf, openTestRegistry, part, publish } from '../../support/servers/test-registry.ts'

const FILE = 'model.safetensors'
const SIDE = 'tokenizer.json'
const BASE = weights(1)
const TUNED = weights(2, BASE)
const TOKENIZER = Buffer.alloc(150_000, 'tokens ')

type Opened = Awaited<ReturnType<typeof openTestRegistry>>

function scratch(t: Test): string {
  const folder = mkdtempSync(join(tmpdir(), 'wdelta-restored-'))
  t.teardown(() => rmSync(folder, { recursive: true }))
  return folder
}

async function readBack(t: Test, { registry }: Opened, id: string, bytes: Buffer): Promise<void> {
  t.ok((await bytesOf(await registry.models.openFile(id, FILE))).equals(bytes))
  t.ok((await bytesOf(await registry.models.openFile(id, SIDE))).equals(TOKENIZER))
}

const publishBase = ({ registry }: Opened, name: string) =>
  publish(registry, [part(FILE, BASE), part(SIDE, TOKENIZER)], { name })

const publishTuned = (
  { registry }: Opened,
  name: string,
  parent: string,
  strategy: 'lossless' | 'sparse',
) => publish(registry, [part(FILE, TUNED), part(SIDE, TOKENIZER)], { name, parent, strategy })

const HARMS: Readonly<Record<string, (path: string) => void>> = {
  'is gone': path => rmSync(path),
  'is cut': path => truncateSync(path, 100),
  'has a bad byte': path => {
    const bytes = readFileSync(path)
    bytes[bytes.length - 2]! ^= 1
    writeFileSync(path, bytes)
  },
}

for (const [what, harm] of Object.entries(HARMS)) {
  t.test(`content whose stored blob ${what} is stored anew`, async t => {
    const opened = await openTestRegistry(t, scratch(t))
    const { registry, catalog, folder } = opened
    const first = await publishBase(opened, 'acme/first')
    for (const { blob } of await catalog.files(first.id)) harm(join(folder, 'store', blob!))
    const again = await publishBase(opened, 'acme/again')
    await readBack(t, opened, again.id, BASE)
    // The copy stands in for what it is a copy of.
    await readBack(t, opened, first.id, BASE)
    for (const strategy of ['lossless', 'sparse'] as const) {
      const tuned = await publishTuned(opened, `acme/${strategy}`, again.id, strategy)
      const { delta } = (await catalog.model(tuned.id))!
      harm(join(folder, 'store', delta!))
      const anew = await publishTuned(opened, `acme/${strategy}-anew`, again.id, strategy)
      t.not((await catalog.model(anew.id))!.delta, delta)
      const bytes = await bytesOf(await registry.models.openFile(anew.id, FILE))
      if (strategy === 'lossless') t.ok(bytes.equals(TUNED))
    }
    t.equal((await registry.models.list({ limit: 10 })).models.length, 6)
  })
}

t.test('sound content is stored once, and read before it is shared', async t => {
  const opened = await openTestRegistry(t, scratch(t))
  await publishBase(opened, 'acme/first')
  const blobs = () => globSync('blobs/*/*', { cwd: join(opened.folder, 'store') }).length
  t.equal(blobs(), 2)
  await publishBase(opened, 'acme/again')
  t.equal(blobs(), 2)
  t.equal(opened.registry.figures().badBlocks, 0)
})

t.test('an older catalog is put back: what was deleted since can be published again', async t => {
  const folder = scratch(t)
  const first = await openTestRegistry(t, folder)
  const base = await publishBase(first, 'acme/base')
  const gone = await publish(first.registry, [part(FILE, weights(5)), part(SIDE, TOKENIZER)], {
    name: 'acme/gone',
  })
  const child = await publish(first.registry, [part(FILE, weights(6, weights(5)))], {
    name: 'acme/child',
    parent: gone.id,
  })
  const copy = join(folder, 'copy.sqlite')
  await first.catalog.backup(copy)
  await first.registry.models.remove(child.id)
  await first.registry.models.remove(gone.id)
  await first.registry.care.sweep({ dryRun: false })
  const later = await publishTuned(first, 'acme/later', base.id, 'lossless')
  await first.close()
  for (const path of globSync(join(folder, 'registry.sqlite*'))) rmSync(path)
  cpSync(copy, join(folder, 'registry.sqlite'))

  const opened = await openTestRegistry(t, folder)
  const { registry } = opened
  for (const { id } of [gone, child]) t.ok((await registry.models.find(id)).damaged, 'it is marked')
  for (const { id } of [base, later]) t.equal((await registry.models.find(id)).damaged, null)
  await registry.care.sweep({ dryRun: false })
  const again = await publish(registry, [part(FILE, weights(5)), part(SIDE, TOKENIZER)], {
    name: 'acme/again',
  })
  await readBack(t, opened, again.id, weights(5))
  await readBack(t, opened, later.id, TUNED)
  await registry.models.remove(child.id)
  await registry.models.remove(gone.id)
  await registry.care.sweep({ dryRun: false })
  await readBack(t, opened, again.id, weights(5))
  t.strictSame((await registry.care.scrub({ signal: new AbortController().signal })).damaged, [])
})

t.test('an older store is put back: the models that it lacks are marked', async t => {
  const folder = scratch(t)
  const first = await openTestRegistry(t, folder)
  const base = await publishBase(first, 'acme/base')
  cpSync(join(folder, 'store'), join(folder, 'older'), { recursive: true })
  const later = await publishTuned(first, 'acme/later', base.id, 'lossless')
  await first.close()
  rmSync(join(folder, 'store'), { recursive: true })
  cpSync(join(folder, 'older'), join(folder, 'store'), { recursive: true })
  rmSync(join(folder, 'store/owners'), { recursive: true })

  const opened = await openTestRegistry(t, folder)
  t.ok((await opened.registry.models.find(later.id)).damaged)
  t.equal((await opened.registry.models.find(base.id)).damaged, null)
  await t.rejects(
    opened.registry.models.openReconstruct(later.id).then(bytes => bytesOf(bytes)),
    {
      code: 'damaged',
    },
  )
  const again = await publishTuned(opened, 'acme/again', base.id, 'lossless')
  await readBack(t, opened, again.id, TUNED)
  await opened.registry.models.remove(later.id)
  await opened.registry.care.sweep({ dryRun: false })
  await readBack(t, opened, again.id, TUNED)
})
