import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import type { Model } from '../../src/registry/registry.ts'
import { startServer } from '../support/servers/server-process.ts'
import { type Arguments, wdelta } from '../support/servers/wdelta-process.ts'

/** PAIRS names a folder with the whole models; without it their cut is used. */
const { PAIRS = join(import.meta.dirname, '../fixtures/pairs') } = process.env
const LONGEST_MS = 600_000

/** What follows the base, each made from the one before it. */
const CHAIN = [
  { from: 'light', strategy: 'lossless' },
  { from: 'sft-300', strategy: 'int4' },
  { from: 'sft-450', strategy: 'lossless' },
  { from: 'light', strategy: 'sparse' },
  { from: 'sft-300', strategy: 'quantized' },
  { from: 'sft-450', strategy: 'lossless' },
] as const

t.setTimeout(LONGEST_MS)
const scratch = t.testdir({})
const server = await startServer(join(scratch, 'data'))
t.teardown(() => server.kill())
const REGISTRY = { registry: server.url }
const BASE = join(PAIRS, 'base')

async function run(t: Test, ...args: Arguments): Promise<string> {
  const { code, stdout, stderr } = await wdelta(...args)
  t.equal(code, 0, `wdelta ${args[0]} ${stderr}`)
  return stdout
}

async function modelOf(ref: string): Promise<Model> {
  const response = await fetch(`${server.url}/models/${encodeURIComponent(ref)}`)
  return (await response.json()) as Model
}

const weights = (folder: string) => readFileSync(join(folder, 'model.safetensors'))

t.test(
  'a chain of both versions is saved, loaded, pushed and pulled',
  { timeout: LONGEST_MS },
  async t => {
    await run(t, 'push', BASE, 'acme/chain', REGISTRY)
    let parent = await modelOf('acme/chain')
    const deltas: string[] = []
    for (const [i, { from, strategy }] of CHAIN.entries()) {
      const tuned = join(PAIRS, from)
      const delta = join(scratch, `${i}.wdelta`)
      const options = { tuned, base: BASE, parentDelta: deltas, strategy }
      const told = JSON.parse(await run(t, 'save', delta, options))
      deltas.push(delta)

      await run(t, 'push', tuned, 'acme/chain', { parent: parent.id, strategy, ...REGISTRY })
      const model = await modelOf('acme/chain')
      t.match(model, { kind: 'delta', strategy, parent: parent.id })
      // What names the values that a delta is added to: of a lossless parent and a base those that are downloaded.
      const lossy = parent.kind === 'delta' && parent.strategy !== 'lossless'
      const stored = strategy === 'lossless' || !lossy
      const parentHash = stored ? parent.hashes.stored : parent.hashes.float32
      t.equal(told.parentHash, parentHash, `${i}: the parent of ${strategy}, saved`)
      const inspected = await fetch(`${server.url}/models/${model.id}/inspect`)
      t.match(await inspected.json(), { parentHash, strategy })

      const out = join(scratch, `loaded-${i}`)
      await run(t, 'load', ...deltas, { base: BASE, out })
      const loaded = weights(out)
      const whole = await (await fetch(`${server.url}/models/${model.id}/reconstruct`)).bytes()
      t.equal(
        Buffer.compare(loaded, whole),
        0,
        `${i}: ${strategy} is the same with and without a server`,
      )
      if (strategy === 'lossless') t.ok(loaded.equals(weights(tuned)), `${i}: byte for byte`)

      // A delta that was saved elsewhere finds its parent by itself: the newest with these values.
      await run(t, 'push', delta, 'acme/pushed', REGISTRY)
      const pushed = await modelOf('acme/pushed')
      t.equal(pushed.sha256, model.sha256)
      t.equal((await modelOf(pushed.parent!)).sha256, parent.sha256)
      parent = model
    }
    await run(t, 'verify', ...deltas, { base: BASE })
    await run(t, 'pull', 'acme/chain', { out: join(scratch, 'pulled'), ...REGISTRY })
    t.ok(weights(join(scratch, 'pulled')).equals(weights(join(PAIRS, 'sft-450'))))
  },
)

t.test('SIGTERM ends it with 0', async t => {
  t.equal(await server.stop(), 0)
})
