import t from 'tap'
import { CodecError } from '../../../src/codec/base/errors.ts'
import { LIMITS } from '../../../src/codec/base/limits.ts'
import { checkName, compareUtf8, utf8 } from '../../../src/codec/base/utf8.ts'
import type { Shard } from '../../../src/codec/safetensors/layout.ts'
import {
  assembleTensors,
  checkPath,
  checkShardIndex,
  nameOrder,
  shardOrder,
} from '../../../src/codec/safetensors/model-folder.ts'
import { buildLayout } from '../../../src/codec/safetensors/write-header.ts'
import { Random } from '../../support/random.ts'

function shard(path: string, ...names: string[]): Shard {
  const tensors = names.map(name => ({ name, dtype: 'U8' as const, shape: [1] }))
  return { path, layout: buildLayout(tensors, null) }
}

const A = 'model-00001-of-00002.safetensors'
const B = 'model-00002-of-00002.safetensors'

function ruleOf(run: () => unknown): string {
  try {
    run()
    return 'accepted'
  } catch (error) {
    if (error instanceof CodecError) return error.rule
    throw error
  }
}

t.test('the tensors of several shards are one model, each name once', async t => {
  const shards = [shard(A, 'l.0', 'l.2'), shard(B, 'l.1')]
  const tensors = assembleTensors(shards)
  t.strictSame([...tensors.keys()], ['l.0', 'l.2', 'l.1'])
  t.strictSame(tensors.get('l.2'), { shard: 0, tensor: shards[0]!.layout.tensors[1] })
  t.strictSame(tensors.get('l.1'), { shard: 1, tensor: shards[1]!.layout.tensors[0] })
  t.equal(assembleTensors([shard(A)]).size, 0, 'a shard may have no tensors')
  t.throws(() => assembleTensors([]), { name: 'CodecError', kind: 'model', rule: 'no-shards' })
  t.throws(() => assembleTensors([shard(A, 'x', 'y'), shard(B, 'z', 'x')]), {
    name: 'CodecError',
    kind: 'model',
    rule: 'duplicate-tensor',
    message: `tensor "x" stands in ${A} and in ${B}`,
  })
})

t.test('a model has at most as many shards and tensors as the caps say', async t => {
  const empty = Array.from({ length: LIMITS.shards }, (_, i) => shard(`${i}.safetensors`))
  t.equal(assembleTensors(empty).size, 0)
  t.equal(
    ruleOf(() => assembleTensors([...empty, shard(A)])),
    'too-many-shards',
  )
  const half = (first: string): Shard => {
    const { layout } = shard(A, 'w')
    const tensors = Array.from({ length: LIMITS.tensors / 2 }, (_, i) => ({
      ...layout.tensors[0]!,
      name: `${first}${i}`,
    }))
    return { path: first, layout: { ...layout, tensors } }
  }
  const full = [half('a'), half('b')]
  t.equal(assembleTensors(full).size, LIMITS.tensors)
  t.equal(
    ruleOf(() => assembleTensors([...full, shard(A, 'w')])),
    'too-many-tensors',
  )
})

t.test('names go by their UTF-8 bytes, tensors by shard and then by name', async t => {
  t.strictSame(nameOrder(new Set(['b', '😀', '10', '\uff5e', 'a', '2', 'é'])), [
    ...['10', '2', 'a', 'b', 'é', '\uff5e', '😀'],
  ])
  const names = ['l.0', 'l.1', 'l.2', 'l.3', 'l.4', 'l.5']
  const even = shard(A, 'l.4', 'l.0', 'l.2')
  const odd = shard(B, 'l.5', 'l.3', 'l.1')
  const grouped = ['l.0', 'l.2', 'l.4', 'l.1', 'l.3', 'l.5']
  t.strictSame(shardOrder([even, odd], names), grouped)
  t.strictSame(shardOrder([odd, even], names), grouped, 'by first name, not by file')
  t.strictSame(shardOrder([shard(A, ...names.toReversed())], names), names)
  const some = ['l.1', 'l.2', 'l.3']
  t.strictSame(shardOrder([even, odd], some), ['l.1', 'l.3', 'l.2'], 'the first of those asked for')
  t.strictSame(shardOrder([odd], ['l.0', 'l.1', 'l.2', 'l.3']), ['l.0', 'l.2', 'l.1', 'l.3'])
})

t.test('names compare as their UTF-8 bytes do', async t => {
  const units = [
    'a',
    '\u007f',
    '\u0080',
    '\u07ff',
    '\ud7ff',
    '\ue000',
    '\uffff',
    '😀',
    '\u{10ffff}',
  ]
  const random = new Random(5)
  const text = () => Array.from({ length: random.below(4) }, () => random.pick(units)).join('')
  for (let i = 0; i < 5000; i++) {
    const [a, b] = [text(), text()]
    const expected = Buffer.compare(Buffer.from(a), Buffer.from(b))
    if (Math.sign(compareUtf8(a, b)) !== expected) t.fail(JSON.stringify([a, b]))
  }
  t.strictSame(utf8('é😀'), new Uint8Array(Buffer.from('é😀')))
})

t.test('a name is text of a bounded length, without control characters', async t => {
  const rule = (name: string) => ruleOf(() => checkName('delta', name, 7))
  for (const name of ['a', 'é😀', ' ', '__proto__', '\u2028', 'x'.repeat(1024), 'é'.repeat(512)]) {
    t.equal(rule(name), 'accepted')
  }
  const bad = ['', '\u0000', '\u001f', '\u007f', '\u009f', '\ud800', 'x\udc00', '__metadata__']
  for (const name of [...bad, 'x'.repeat(1025), 'é'.repeat(513)]) t.equal(rule(name), 'name')
  t.throws(() => checkName('delta', '', 7), { kind: 'delta', offset: 7, name: 'CodecError' })
})

t.test('the index of a sharded model agrees with its shards', async t => {
  const shards = [shard(A, 'l.0', 'é'), shard(B, 'l.1')]
  const map = { 'l.0': A, 'l.1': B, é: A }
  const check = (json: string | object) =>
    ruleOf(() =>
      checkShardIndex(utf8(typeof json === 'string' ? json : JSON.stringify(json)), shards),
    )
  t.equal(check({ weight_map: map }), 'accepted')
  const index = { metadata: { total_size: 3.0, ratio: 0.5, note: [1, null] }, weight_map: map }
  const pretty = JSON.stringify(index, null, 2)
  t.equal(check(`${pretty}\n`), 'accepted', 'as transformers writes it')
  t.equal(check(pretty.replaceAll('\n', '\r\n').replace('3,', '3e0,')), 'accepted')
  t.equal(check({ weight_map: map, other: { weight_map: {} } }), 'accepted')

  const wrong: object[] = [
    { ...map, 'l.1': A },
    { ...map, 'l.2': A },
    { 'l.0': A, 'l.1': B },
    {},
    { ...map, é: `./${A}` },
    { ...map, é: `../${A}` },
    { ...map, é: `/${A}` },
    { ...map, é: null },
    { ...map, é: [A] },
    { ...map, é: 0 },
  ]
  for (const changed of wrong) t.equal(check({ weight_map: changed }), 'shard-index')
  for (const json of ['{}', '[]', 'null', '"x"', '{"weight_map":null}', '{"weight_map":[]}']) {
    t.equal(check(json), 'shard-index', json)
  }
  t.equal(check(`{"weight_map":{"l.0":"${A}","l.0":"${A}"}}`), 'duplicate-key')
  t.equal(check('{"weight_map":{},"weight_map":{}}'), 'duplicate-key')
  t.equal(check(''), 'json-syntax')
  t.equal(check('\n\n'), 'json-syntax')
  t.equal(check(`${pretty}x`), 'json-trailing')
  t.throws(() => checkShardIndex(utf8('{"weight_map":{"q":"a.safetensors"}}'), shards), {
    name: 'CodecError',
    kind: 'model',
    rule: 'shard-index',
    message: 'weight_map puts "q" into "a.safetensors", but no shard has it (at byte 15)',
  })
})

t.test('a path stays in its folder, on every system', async t => {
  const good = [
    'config.json',
    'a/b/c.txt',
    '.gitattributes',
    '...',
    '..a',
    'a b',
    'é😀',
    'nul',
    'c:d'.slice(2),
    `${'d/'.repeat(384)}${'x'.repeat(255)}`,
    'x'.repeat(255),
  ]
  for (const path of good)
    t.equal(
      ruleOf(() => checkPath(path)),
      'accepted',
      path.slice(0, 30),
    )
  const bad = [
    '',
    '.',
    '..',
    '/',
    '/etc/passwd',
    'a/',
    'a//b',
    './a',
    'a/.',
    'a/../b',
    '../a',
    'a\\b',
    '..\\a',
    'C:',
    'c:/a',
    'C:a',
    'a\u0000',
    'a\nb',
    'a\u007f',
    'a\u0085',
    '\ud800',
    'x'.repeat(256),
    'é'.repeat(128),
    `a/${'x'.repeat(256)}`,
    'd/'.repeat(512).concat('x'),
  ]
  for (const path of bad) {
    t.throws(() => checkPath(path), { name: 'CodecError', kind: 'model', rule: 'path' })
  }
})
