import { copyFileSync, cpSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { goldenCase, goldenCases } from '../support/models/golden-cases.ts'
import { indexDelta } from '../support/models/wdelta-files.ts'
import { type Options, wdelta } from '../support/servers/wdelta-process.ts'
import { tensorsOf } from './tensors.ts'

const output = (folder: string) => join(folder, 'model.safetensors')

t.test('load gives what the reference loads, bit for bit', async t => {
  t.jobs = 4
  for (const { name, base, deltas, expected } of goldenCases()) {
    t.test(name, async t => {
      const out = t.testdir()
      const ran = await wdelta('load', ...deltas, { base, out, dtype: 'float32' })
      t.match(ran, { code: 0, stdout: `${output(out)}\n`, stderr: '' })
      t.strictSame(tensorsOf(output(out)), tensorsOf(expected))
      t.strictSame(readdirSync(out), ['model.safetensors'], 'nothing else stays behind')
    })
  }
})

t.test('without verification the values are the same', async t => {
  const { base, deltas, expected } = goldenCase('chain-sparse-bf16')
  const out = t.testdir()
  const ran = await wdelta('load', ...deltas, { base, out, dtype: 'float32', verify: false })
  t.equal(ran.code, 0)
  t.strictSame(tensorsOf(output(out)), tensorsOf(expected))
})

t.test("the dtypes default to the base's, in a folder that is made", async t => {
  const { base, deltas } = goldenCase('int4-bf16')
  const out = join(t.testdir(), 'not', 'there', 'yet')
  t.equal((await wdelta('load', ...deltas, { base, out })).code, 0)
  for (const { dtype } of Object.values(tensorsOf(output(out)))) t.equal(dtype, 'BF16')
})

/** A load that fails for `reason` leaves what was in the folder. */
function refused(t: Test, deltas: readonly string[], options: Options, reason: RegExp) {
  return t.test(`${deltas.length} deltas: ${reason}`, async t => {
    const out = t.testdir({ 'model.safetensors': 'what was there' })
    const ran = await wdelta('load', ...deltas, { ...options, out })
    t.match(ran, { code: 1, stdout: '', stderr: reason })
    t.equal(ran.stderr.split('\n').length, 2, 'one line')
    t.strictSame(readdirSync(out), ['model.safetensors'])
    t.equal(readFileSync(output(out), 'utf8'), 'what was there')
  })
}

t.test('a chain in the wrong order is refused', async t => {
  const { base, deltas } = goldenCase('chain-int4-bf16')
  const [first, second, third] = deltas as [string, string, string]
  const wrong =
    /^wdelta: parent-mismatch: .*expected a parent with hash [0-9a-f]{64}, but .*[0-9a-f]{64}/
  await refused(t, [second, first, third], { base }, wrong)
  await refused(t, [first, third], { base }, wrong)
  await refused(t, [first, first], { base }, wrong)
})

t.test('another base is refused, and taken without verification', async t => {
  const { base, deltas, tuned } = goldenCase('int4-bf16')
  const other = join(tuned[0]!)
  await refused(t, deltas, { base: other }, /^wdelta: parent-mismatch: /)
  const out = t.testdir()
  const ran = await wdelta('load', ...deltas, { base: other, out, verify: false })
  t.equal(ran.code, 0, ran.stderr)
  t.not(base, other)
})

t.test('a damaged delta is refused', async t => {
  const { base, deltas } = goldenCase('int4-bf16')
  const bytes = readFileSync(deltas[0]!)
  const folder = t.testdir()
  const damaged = join(folder, 'damaged.wdelta')
  // A code of a tensor, which any value fits: only the checksum tells.
  const { tensors } = indexDelta(bytes, { update: () => {}, digest: () => bytes.subarray(-32) })
  const tensor = tensors.find(({ name }) => name === 'lm_head.weight')
  if (tensor?.strategy !== 'int4') throw new Error('expected an int4 tensor')
  bytes[tensor.packed.start]! ^= 0x55
  writeFileSync(damaged, bytes)
  await refused(t, [damaged], { base }, /^wdelta: checksum: .*damaged\.wdelta/)
  writeFileSync(damaged, bytes.subarray(0, bytes.length - 100))
  await refused(t, [damaged], { base }, /^wdelta: [a-z-]+: .*damaged\.wdelta/)
  writeFileSync(damaged, '')
  await refused(t, [damaged], { base }, /^wdelta: too-short: .*damaged\.wdelta/)
  await refused(t, [join(folder, 'missing.wdelta')], { base }, /^wdelta: ENOENT/)
})

t.test('structure is checked without verification too', async t => {
  const { base, deltas } = goldenCase('quantized-bf16')
  const cut = join(t.testdir(), 'cut.wdelta')
  writeFileSync(cut, readFileSync(deltas[0]!).subarray(0, 3000))
  await refused(t, [cut], { base, verify: false }, /cut\.wdelta/)
})

t.test('a folder that is no model is refused', async t => {
  const { base, deltas } = goldenCase('sharded-mixed-int4')
  const folder = t.testdir()
  await refused(t, deltas, { base: folder }, /^wdelta: no-shards: /)
  await refused(t, deltas, { base: join(folder, 'missing') }, /^wdelta: ENOENT/)
  const shards = readdirSync(base).filter(name => name.endsWith('.safetensors'))
  t.ok(shards.length > 1, 'a base of several shards')
  const twice = join(folder, 'twice')
  cpSync(base, twice, { recursive: true })
  copyFileSync(join(twice, shards[0]!), join(twice, 'zz.safetensors'))
  await refused(t, deltas, { base: twice }, /^wdelta: duplicate-tensor: /)
  const short = join(folder, 'short')
  mkdirSync(short)
  writeFileSync(output(short), 'abc')
  await refused(t, deltas, { base: short }, /^wdelta: header-too-small: .*short/)
})

t.test('a shard index that does not agree is refused', async t => {
  const { base, deltas } = goldenCase('int4-bf16')
  const folder = join(t.testdir(), 'base')
  cpSync(base, folder, { recursive: true })
  const index = { weight_map: { nothing: 'model.safetensors' } }
  writeFileSync(join(folder, 'model.safetensors.index.json'), JSON.stringify(index))
  await refused(t, deltas, { base: folder }, /^wdelta: shard-index: /)
})
