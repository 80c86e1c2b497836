import { join } from 'node:path'
import t, { type Test } from 'tap'
import { wdelta } from '../support/servers/wdelta-process.ts'
import { Reference } from './reference.ts'
import { sampleBase, sampleTuned, tieless, writeModel } from './sample-models.ts'

const STRATEGIES = ['int4', 'sparse', 'quantized'] as const
const DTYPES = ['BF16', 'F16', 'F32'] as const
/** How base and fine-tune are sharded. */
const SHARDS = [
  [1, 1],
  [3, 3],
  [3, 1],
  [1, 3],
] as const

const OPTIONS = {
  int4: [{}, { outlier_fraction: 0.07 }],
  sparse: [{}, { sparsity: 0.5 }, { sparsity: 0 }],
  quantized: [{}],
} as const

const reference = new Reference()
t.teardown(() => reference[Symbol.asyncDispose]())

async function run(t: Test, args: readonly string[]): Promise<void> {
  const { code, stderr } = await wdelta(...args)
  t.equal(code, 0, `wdelta ${args[0]}: ${stderr}`)
}

/** What the reference makes of our files is bit for bit what we make of them. */
async function loadsAlike(t: Test, deltas: string[], base: string): Promise<void> {
  const out = t.testdirName
  await run(t, ['load', ...deltas, '--base', base, '--out', out, '--dtype', 'float32'])
  const ours = join(out, 'model.safetensors')
  const answer = await reference.ask({ do: 'load', deltas, base, ours })
  t.match(answer, { missing: [], different: [] }, JSON.stringify(answer))
  t.ok(answer.tensors > 0)
}

for (const dtype of DTYPES) {
  for (const [baseShards, tunedShards] of SHARDS) {
    for (const strategy of STRATEGIES) {
      t.test(`${strategy} of ${dtype}, ${baseShards} and ${tunedShards} shards`, async t => {
        const folder = t.testdir({})
        const samples = sampleBase(dtype)
        const base = writeModel(join(folder, 'base'), samples, baseShards)
        const tuned = writeModel(join(folder, 'tuned'), sampleTuned(samples, dtype, 2), tunedShards)
        const delta = join(folder, 'd.wdelta')
        await run(t, ['save', delta, '--tuned', tuned, '--base', base, '--strategy', strategy])
        await loadsAlike(t, [delta], base)
      })
    }
  }
  for (const strategy of STRATEGIES) {
    for (const options of OPTIONS[strategy]) {
      t.test(`${strategy} of ${dtype} without ties, ${JSON.stringify(options)}`, async t => {
        const folder = t.testdir({})
        const samples = tieless(dtype)
        const base = writeModel(join(folder, 'base'), samples.base, 3)
        const tuned = writeModel(join(folder, 'tuned'), samples.tuned, 3)
        const ours = join(folder, 'ours.wdelta')
        const flags = Object.entries(options).flatMap(([key, value]) => [
          `--${key.replace('_', '-')}`,
          String(value),
        ])
        const models = ['--tuned', tuned, '--base', base]
        await run(t, ['save', ours, ...models, '--strategy', strategy, ...flags])
        const out = join(folder, 'theirs.wdelta')
        const answer = await reference.ask({
          do: 'save',
          tuned,
          base,
          strategy,
          options,
          out,
          ours,
        })
        t.match(answer, { missing: [], different: [] }, JSON.stringify(answer))
        t.ok(answer.tensors > 0)
      })
    }
  }
}

for (const baseShards of [1, 3]) {
  t.test(`a chain of three on ${baseShards} shards verifies link by link`, async t => {
    const folder = t.testdir({})
    // In a chain the reference's numpy turns a scalar into a number, which its own hash then refuses.
    let samples = sampleBase('BF16').filter(({ shape }) => shape.length > 0)
    const base = writeModel(join(folder, 'base'), samples, baseShards)
    const chain: string[] = []
    for (const [i, strategy] of STRATEGIES.entries()) {
      samples = sampleTuned(samples, 'BF16', 10 + i)
      const tuned = writeModel(join(folder, `tuned-${i}`), samples, 1)
      const parents = chain.flatMap(path => ['--parent-delta', path])
      const delta = join(folder, `${i}.wdelta`)
      const models = ['--tuned', tuned, '--base', base, ...parents]
      await run(t, ['save', delta, ...models, '--strategy', strategy])
      chain.push(delta)
      await loadsAlike(t, chain, base)
    }
  })
}

t.test('real fine-tunes', async t => {
  const pairs = join(import.meta.dirname, '../fixtures/pairs')
  const base = join(pairs, 'base')
  for (const tuned of ['light', 'sft-300', 'sft-450']) {
    for (const strategy of STRATEGIES) {
      const delta = join(t.testdir({}), 'd.wdelta')
      const models = ['--tuned', join(pairs, tuned), '--base', base]
      await run(t, ['save', delta, ...models, '--strategy', strategy])
      await loadsAlike(t, [delta], base)
    }
  }
})
