import t from 'tap'
import { type GoldenCase, goldenCase, goldenCases } from '../support/models/golden-cases.ts'
import { wdelta } from '../support/servers/wdelta-process.ts'

t.test('inspect tells what the reference tells', async t => {
  const cases = goldenCases()
  const ran = await wdelta('inspect', ...cases.flatMap(({ deltas }) => deltas), { json: true })
  t.match(ran, { code: 0, stderr: '' })
  t.strictSame(asReference(JSON.parse(ran.stdout)), cases.flatMap(asTold))
})

t.test('inspect prints one line per delta', async t => {
  const { deltas } = goldenCase('chain-int4-bf16')
  const chain = await wdelta('inspect', ...deltas)
  t.match(chain, { code: 0, stderr: '' })
  const lines = chain.stdout.trimEnd().split('\n')
  t.equal(lines.length, 3)
  t.match(lines[1], /^1: .*2\.wdelta size_mb=0\.01 strategy=int4 n_tensors=9 parent_hash=2744b5de/)
  const one = await wdelta('inspect', deltas[0]!)
  t.match(one.stdout, /^\/.*1\.wdelta size_mb=0\.01 strategy=int4 n_tensors=9 parent_hash=e9e24cb4/)
})

interface Told {
  tensors: Record<string, { shape: number[]; dtype: string }>
}

/** Only what the reference tells too, and without the path, which differs. */
function asReference(told: (Told & Record<string, unknown>)[]) {
  return told.map(({ path, step, tensors, ...rest }) => ({
    ...rest,
    tensors: Object.fromEntries(
      Object.entries(tensors).map(([name, { shape, dtype }]) => [name, { shape, dtype }]),
    ),
  }))
}

function asTold({ inspect }: GoldenCase) {
  return inspect.map(({ path, ...rest }) => rest)
}
