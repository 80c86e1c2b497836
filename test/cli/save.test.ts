import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { goldenCase } from '../support/models/golden-cases.ts'
import { type Options, wdelta } from '../support/servers/wdelta-process.ts'
import { tensorsOf } from './tensors.ts'

const STRATEGIES = ['int4', 'sparse', 'quantized'] as const

/** The float32 values of what `load` makes. */
async function loaded(deltas: readonly string[], base: string, out: string) {
  const ran = await wdelta('load', ...deltas, { base, out, dtype: 'float32' })
  if (ran.code !== 0) throw new Error(ran.stderr)
  return tensorsOf(join(out, 'model.safetensors'))
}

t.test('a saved delta names the parent and the dtypes that the reference names', async t => {
  t.jobs = 2
  for (const strategy of STRATEGIES) {
    for (const dtype of ['f32', 'f16', 'bf16']) {
      const name = strategy === 'sparse' ? `sparse-0.9-${dtype}` : `${strategy}-${dtype}`
      t.test(name, async t => {
        const { base, tuned, deltas, inspect } = goldenCase(name)
        const folder = t.testdir()
        const out = join(folder, 'new', 'folder', 'delta.wdelta')
        const saved = await wdelta('save', out, { tuned: tuned[0]!, base, strategy })
        t.match(saved, { code: 0, stderr: '' })
        const { parent_hash: parentHash } = inspect[0]!
        const size = readFileSync(out).length
        const told = { path: out, strategy, size, tensors: inspect[0]!.n_tensors, parentHash }
        t.strictSame(JSON.parse(saved.stdout), told)
        t.strictSame(readdirSync(join(folder, 'new', 'folder')), ['delta.wdelta'])
        // Which of several equal magnitudes are kept is the reference's accident; float32 values have none that are equal.
        if (dtype !== 'f32') return
        const ours = await loaded([out], base, join(folder, 'ours'))
        const theirs = await loaded(deltas, base, join(folder, 'theirs'))
        t.strictSame(ours, theirs)
      })
    }
  }
})

t.test(
  'sparse that drops nothing gives the fine-tune back, and defaults to its dtypes',
  async t => {
    const { base, tuned } = goldenCase('sparse-0-f32')
    const folder = t.testdir()
    const out = join(folder, 'delta.wdelta')
    const options = { tuned: tuned[0]!, base, strategy: 'sparse', sparsity: 0 }
    t.match(await wdelta('save', out, options), { code: 0 })
    t.match(await wdelta('load', out, { base, out: folder }), { code: 0 })
    const ours = tensorsOf(join(folder, 'model.safetensors'))
    const theirs = tensorsOf(join(tuned[0]!, 'model.safetensors'))
    for (const [name, { dtype, shape }] of Object.entries(theirs)) {
      t.match(ours[name], { dtype, shape }, name)
    }
  },
)

t.test('a chain three deep is saved and proven link by link', async t => {
  const { base, tuned } = goldenCase('chain-int4-bf16')
  const folder = t.testdir()
  const deltas: string[] = []
  for (const [i, fineTune] of tuned.entries()) {
    const out = join(folder, `${i}.wdelta`)
    const options = { tuned: fineTune, base, parentDelta: deltas, strategy: STRATEGIES[i]! }
    t.match(await wdelta('save', out, options), { code: 0, stderr: '' })
    deltas.push(out)
  }
  t.equal(deltas.length, 3)
  t.match(await wdelta('verify', ...deltas, { base }), { code: 0, stderr: '' })
  const swapped = [deltas[0]!, deltas[2]!]
  t.match(await wdelta('verify', ...swapped, { base }), {
    code: 1,
    stderr: /parent-mismatch/,
  })
  const wrong = { tuned: tuned[0]!, base, strategy: 'int4', parentDelta: deltas[1]! }
  const ran = await wdelta('save', join(folder, 'x.wdelta'), wrong)
  t.match(ran, { code: 1, stdout: '', stderr: /^wdelta: parent-mismatch: / })
  t.strictSame(readdirSync(folder).sort(), ['0.wdelta', '1.wdelta', '2.wdelta'])
})

t.test('a base of several shards verifies, in the order of the reference', async t => {
  const { base, tuned, inspect } = goldenCase('sharded-mixed-int4')
  const folder = t.testdir()
  const out = join(folder, 'delta.wdelta')
  const saved = await wdelta('save', out, { tuned: tuned[0]!, base, strategy: 'int4' })
  t.match(saved, { code: 0, stderr: '' })
  t.equal(JSON.parse(saved.stdout).tensors, inspect[0]!.n_tensors)
  t.match(await wdelta('verify', out, { base }), { code: 0 })
})

t.test('a save that cannot be made is refused, and leaves nothing', async t => {
  const { base, tuned } = goldenCase('int4-bf16')
  const sharded = goldenCase('sharded-mixed-int4')
  const part = readdirSync(sharded.base).find(name => name.endsWith('.safetensors'))!
  const folder = t.testdir({ [part]: t.fixture('symlink', join(sharded.base, part)) })
  const out = join(folder, 'delta.wdelta')
  const save = (options: Options) => wdelta('save', out, { base, ...options })
  const nowhere = await save({ tuned: join(folder, 'nowhere') })
  t.match(nowhere, {
    code: 1,
    stdout: '',
    stderr: /^wdelta: no-model: .*nowhere: expected a folder/,
  })
  const other = await save({ tuned: sharded.tuned[0]!, base: folder, strategy: 'int4' })
  t.match(other, { code: 1, stdout: '', stderr: /^wdelta: structure-changed: / })
  const none = await save({ tuned: tuned[0]!, strategy: 'sparse', sparsity: 1 })
  t.match(none, { code: 1, stdout: '', stderr: /^wdelta: sparsity: / })
  t.strictSame(readdirSync(folder), [part])
})

t.test('a delta against a downloaded model is added to its rounded values', async t => {
  const { base, tuned } = goldenCase('chain-int4-bf16')
  const folder = t.testdir()
  const at = (name: string) => join(folder, name)
  const save = async (out: string, parent: string, fineTune: string) => {
    const options = { tuned: fineTune, base: parent, strategy: 'int4' }
    t.match(await wdelta('save', out, options), { code: 0, stderr: '' })
  }
  await save(at('1.wdelta'), base, tuned[0]!)
  t.equal((await wdelta('load', at('1.wdelta'), { base, out: at('first') })).code, 0)
  await save(at('2.wdelta'), at('first'), tuned[1]!)
  const chained = await loaded([at('1.wdelta'), at('2.wdelta')], base, at('chained'))
  t.strictSame(chained, await loaded([at('2.wdelta')], at('first'), at('direct')))
  const third = {
    tuned: tuned[2]!,
    base,
    strategy: 'sparse',
    parentDelta: [at('1.wdelta'), at('2.wdelta')],
  }
  t.match(await wdelta('save', at('3.wdelta'), third), { code: 0, stderr: '' })
  const all = [at('1.wdelta'), at('2.wdelta'), at('3.wdelta')]
  t.match(await wdelta('verify', ...all, { base }), { code: 0, stderr: '' })
})
