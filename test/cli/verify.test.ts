import { createHash } from 'node:crypto'
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { FrameDeltaReader } from '../../src/codec/wdelta/v2/reader.ts'
import { writeIndex } from '../../src/codec/wdelta/v2/write-index.ts'
import { threadKernels } from '../../src/workers/kernels.ts'
import { goldenCase } from '../support/models/golden-cases.ts'
import { modelFile } from '../support/models/model-file.ts'
import { sealedV2, xxh64 } from '../support/models/wdelta-v2-files.ts'
import { wdelta } from '../support/servers/wdelta-process.ts'

t.test('verify tells what holds', async t => {
  const { base, deltas } = goldenCase('chain-quantized-bf16')
  const alone = await wdelta('verify', ...deltas)
  t.match(alone, { code: 0, stderr: '' })
  t.strictSame(alone.stdout.split('\n'), [
    ...deltas.map(path => `${path}: ok (structure, checksum)`),
    '',
  ])
  const chained = await wdelta('verify', ...deltas, { base })
  t.match(chained, { code: 0, stderr: '' })
  t.strictSame(chained.stdout.split('\n'), [
    ...deltas.map(path => `${path}: ok (structure, checksum, parent)`),
    '',
  ])
  const wrong = await wdelta('verify', deltas[1]!, { base })
  t.match(wrong, { code: 1, stdout: '', stderr: /^wdelta: parent-mismatch: / })
  const none = await wdelta('verify', join(base, 'model.safetensors'))
  t.match(none, { code: 1, stdout: '', stderr: /^wdelta: magic: / })
})

/** A model folder of one tensor; of each 512 of its values, the first `changed` are not as they were. */
function makeFolder(folder: string, changed: number): string {
  const values = Float32Array.from(
    { length: 4096 },
    (_, i) => Math.sin(i) + (i % 512 < changed ? 1 : 0),
  )
  const data = new Uint8Array(values.buffer)
  const file = modelFile([{ name: 'w', dtype: 'F32', shape: [4096], data }])
  mkdirSync(folder)
  writeFileSync(join(folder, 'model.safetensors'), file)
  return folder
}

/** Writes a lossless delta once more, with other values in its first record, and checksums that are right but for that of the frame. */
function spoil(path: string, spoiled: string): string {
  const bytes = readFileSync(path)
  const reader = new FrameDeltaReader(threadKernels(), createHash('sha256'))
  reader.push(bytes)
  const index = reader.end()
  const { starts, lengths } = index.records
  const records = Array.from(lengths, (length, i) =>
    bytes.subarray(starts[i]!, starts[i]! + length),
  )
  records[0]![lengths[0]! - 1]! ^= 1
  const checksums = BigUint64Array.from(records, xxh64)
  writeFileSync(
    spoiled,
    sealedV2(records, writeIndex({ ...index, records: { ...index.records, checksums } })),
  )
  return spoiled
}

t.test('a lossless delta that does not decode is named, wherever in the chain it is', async t => {
  const folder = t.testdir()
  const at = (name: string) => join(folder, name)
  const models = [0, 1, 2].map(changed => makeFolder(at(`model-${changed}`), changed))
  const [base, tuned, last] = models as [string, string, string]
  const deltas = [at('1.wdelta'), at('2.wdelta')] as const
  t.match(await wdelta('save', deltas[0], { tuned, base }), { code: 0 })
  t.match(await wdelta('save', deltas[1], { tuned: last, base: tuned }), { code: 0 })
  for (const [i, delta] of deltas.entries()) {
    const bad = spoil(delta, at(`bad-${i}.wdelta`))
    const chain = deltas.with(i, bad)
    const failure = { code: 1, stdout: '', stderr: `wdelta: frame-checksum: ${bad}: ` }
    const out = at('out')
    t.match(await wdelta('verify', ...chain, { base }), failure)
    t.match(await wdelta('load', ...chain, { base, out }), failure)
    t.match(await wdelta('load', ...chain, { base, out, dtype: 'float16' }), failure)
    // Without proofs, nobody knows which one it is.
    const trusted = await wdelta('load', ...chain, { base, out, verify: false })
    t.match(trusted, { code: 1, stdout: '', stderr: 'wdelta: frame-checksum: ' })
  }
})
