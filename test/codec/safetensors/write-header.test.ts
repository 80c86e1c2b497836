import { globSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { DTYPE_BITS, type Dtype, isDtype } from '../../../src/codec/base/dtypes.ts'
import { LIMITS } from '../../../src/codec/base/limits.ts'
import { parseLayout } from '../../../src/codec/safetensors/header.ts'
import { buildLayout } from '../../../src/codec/safetensors/write-header.ts'
import { readLayout as read } from '../../support/models/safetensors-samples.ts'

const FIXTURES = join(import.meta.dirname, '../../fixtures')

t.test('what the reference writes is rebuilt from its tensors, byte for byte', async t => {
  const paths = globSync('**/*.safetensors', { cwd: FIXTURES })
  t.ok(paths.length > 40, `${paths.length} files`)
  for (const path of paths) {
    const file = new Uint8Array(readFileSync(join(FIXTURES, path)))
    const layout = read(file)
    const again = buildLayout(layout.tensors, layout.metadata)
    t.strictSame(again, layout, `${path} is rebuilt from its tensors`)
    const shuffled = buildLayout([...layout.tensors].reverse(), layout.metadata)
    t.strictSame(shuffled.header, layout.header, 'in whatever order they come')
  }
})

t.test('the writer orders, escapes and pads as the reference does', async t => {
  const dtypes = Object.keys(DTYPE_BITS).filter(isDtype)
  const layout = buildLayout(
    dtypes.map(dtype => ({ name: 'a', dtype, shape: [8] })),
    null,
  )
  t.strictSame(
    layout.tensors.map(tensor => tensor.dtype),
    dtypes.toReversed(),
  )
  const names = ['b', 'a', 'Z', 'é', '😀', '\uff5e', '10', '2', 'aa', '__proto__']
  const sorted = [...names].sort((a, b) => Buffer.compare(Buffer.from(a), Buffer.from(b)))
  const tensors = names.map(name => ({ name, dtype: 'U8' as const, shape: [1] }))
  const named = buildLayout(tensors, null)
  t.strictSame(
    named.tensors.map(tensor => tensor.name),
    sorted,
  )
  const odd = '"\\/\b\f\n\r\t\u0001\u001f\u007f\u2028é😀'
  const { header, size } = buildLayout([], new Map([['k', odd]]))
  const text = new TextDecoder().decode(header.subarray(8))
  const escaped = '\\"\\\\/\\b\\f\\n\\r\\t\\u0001\\u001f\u007f\u2028é😀'
  t.equal(text.trimEnd(), `{"__metadata__":{"k":"${escaped}"}}`)
  t.equal(header.length % 8, 0)
  t.equal(size, header.length)
  t.strictSame(parseLayout(header, size).metadata, new Map([['k', odd]]))
  t.equal(buildLayout([], null).size, 16)
  const long = { name: 'w', dtype: 'U8' as Dtype, shape: [1] }
  const huge = new Map([['k', 'x'.repeat(LIMITS.headerBytes)]])
  t.throws(() => buildLayout([long], huge), { name: 'CodecError', rule: 'header-too-large' })
})

t.test('a header of many tensors is read as it was written', async t => {
  const tensors = Array.from({ length: 50_000 }, (_, i) => ({
    name: `model.layers.${i}.weight`,
    dtype: 'BF16' as const,
    shape: [i, 3],
  }))
  const layout = buildLayout(tensors, null)
  t.strictSame(parseLayout(layout.header, layout.size), layout)
})
