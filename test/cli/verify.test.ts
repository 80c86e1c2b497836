import { join } from 'node:path'
import t from 'tap'
import { goldenCase, wdelta } from './helper.ts'

t.test('verify tells what holds', async t => {
  const { base, deltas } = goldenCase('chain-quantized-bf16')
  const alone = await wdelta(['verify', ...deltas])
  t.match(alone, { code: 0, stderr: '' })
  t.strictSame(alone.stdout.split('\n'), [
    ...deltas.map(path => `${path}: ok (structure, checksum)`),
    '',
  ])
  const chained = await wdelta(['verify', ...deltas, '--base', base])
  t.match(chained, { code: 0, stderr: '' })
  t.strictSame(chained.stdout.split('\n'), [
    ...deltas.map(path => `${path}: ok (structure, checksum, parent)`),
    '',
  ])
  const wrong = await wdelta(['verify', deltas[1]!, '--base', base])
  t.match(wrong, { code: 1, stdout: '', stderr: /^wdelta: parent-mismatch: / })
  const none = await wdelta(['verify', join(base, 'model.safetensors')])
  t.match(none, { code: 1, stdout: '', stderr: /^wdelta: magic: / })
})
