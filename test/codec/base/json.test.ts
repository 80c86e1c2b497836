import t from 'tap'
import { CodecError } from '../../../src/codec/base/errors.ts'
import { parseJson } from '../../../src/codec/base/json.ts'
import { isCount, type JsonMember, type JsonValue } from '../../../src/codec/base/json-values.ts'
import { LIMITS } from '../../../src/codec/base/limits.ts'
import { Random } from '../../support/random.ts'

const OFFSET = 100
/** A path that leads nowhere, so that nothing is taken and the whole tree comes back. */
const NOWHERE = ['\u0000']
const encoder = new TextEncoder()

function read(json: string | Uint8Array): JsonValue {
  const bytes = typeof json === 'string' ? encoder.encode(json) : json
  return parseJson(bytes, OFFSET, 'safetensors', NOWHERE, () => t.fail('nothing to take'))
}

/** `rule@offset` of the refusal, offsets counted from the first byte of the JSON; or the value. Other exceptions pass through. */
function outcome(json: string | Uint8Array): string | { value: unknown } {
  try {
    return { value: plain(read(json)) }
  } catch (error) {
    if (!(error instanceof CodecError) || error.kind !== 'safetensors') throw error
    return `${error.rule}@${error.offset! - OFFSET}`
  }
}

/** The value as `JSON.parse` gives it. */
function plain(value: JsonValue): unknown {
  if (value.kind === 'array') return value.items.map(plain)
  if (value.kind === 'null') return null
  if (value.kind !== 'object') return value.value
  const object: Record<string, unknown> = {}
  for (const [key, member] of value.members) {
    // Assigning would set the prototype for one key.
    Object.defineProperty(object, key, { value: plain(member), enumerable: true })
  }
  return object
}

t.test('what JSON.parse reads is read alike', async t => {
  const texts = [
    '{}',
    '[]',
    ' {"a" :\t[1 ,\n-2.5e-3,true,false,null, "x" ] }',
    '{"":{"":{"":0}}}',
    '"\\"\\\\\\/\\b\\f\\n\\r\\t\\u0041\\u00e9\\ud83d\\ude00 é 😀"',
    '[0,-0,-0.0,1e5,1E-5,1.5e+300,123456789012345678901234567890]',
    '{"constructor":1,"toString":2,"hasOwnProperty":3}',
    '["dtype","dtype","dtypf","dtype ","éé","éé"]',
    '9007199254740991',
    '"\u007f\u2028\ufeff"',
  ]
  for (const text of texts) t.strictSame(outcome(text), { value: JSON.parse(text) })
  t.strictSame(outcome('{}   '), { value: {} }, 'spaces may follow')
})

t.test('no key is special, and none is moved', async t => {
  const root = read('{"2":0,"10":0,"b":0,"1":0,"__proto__":{"x":1}}')
  t.equal(root.kind, 'object')
  const keys = root.kind === 'object' ? [...root.members.keys()] : []
  t.strictSame(keys, ['2', '10', 'b', '1', '__proto__'])
  t.equal(({} as { x?: number }).x, undefined)
})

t.test('every value knows where it stands in bytes', async t => {
  const root = read('{"é": [ 1,"a"]}')
  const list = root.kind === 'object' ? root.members.get('é') : undefined
  t.match(list, { kind: 'array', offset: OFFSET + 7 })
  const items = list?.kind === 'array' ? list.items.map(({ offset }) => offset - OFFSET) : []
  t.strictSame(items, [9, 11])
})

t.test('counts are integers written as such', async t => {
  for (const text of ['0', '7', '10', '9007199254740991']) {
    const value = read(text)
    t.ok(isCount(value), text)
    t.match(value, { value: Number(text), text })
  }
  const others = ['2.0', '2e0', '-0', '-2', '1E2', '9007199254740992', '9007199254740993']
  for (const text of [...others, '18446744073709551615', '1'.repeat(300)]) {
    const value = read(text)
    t.notOk(isCount(value), text)
    t.match(value, { kind: 'number', text })
  }
  for (const text of ['"2"', 'true', 'null', '[2]', '{}']) t.notOk(isCount(read(text)), text)
  t.notOk(isCount(undefined))
})

t.test('what is refused is named with its place in bytes', async t => {
  const nested = (levels: number) => `${'['.repeat(levels)}${']'.repeat(levels)}`
  const cases: [string | Uint8Array, string][] = [
    ['', 'json-syntax@0'],
    ['   ', 'json-syntax@3'],
    ['\ufeff{}', 'json-syntax@0'],
    ['{"a":1}{}', 'json-trailing@7'],
    ['{}\u0000', 'json-trailing@2'],
    ['{}\n', 'json-trailing@2'],
    ['{} \t', 'json-trailing@3'],
    ['{"a":1,"a":1}', 'duplicate-key@7'],
    ['{"a":1,"\\u0061":1}', 'duplicate-key@7'],
    ['{"a":{"b":[{"c":1,"d":2,"c":3}]}}', 'duplicate-key@24'],
    ['{"__proto__":1,"__proto__":1}', 'duplicate-key@15'],
    ['{"a":1,}', 'json-syntax@7'],
    ['{,}', 'json-syntax@1'],
    ['{"a" 1}', 'json-syntax@5'],
    ['{a:1}', 'json-syntax@1'],
    ["{'a':1}", 'json-syntax@1'],
    ['{"a":1 "b":2}', 'json-syntax@7'],
    ['{"a":1', 'json-syntax@6'],
    ['[1,]', 'json-syntax@3'],
    ['[1 2]', 'json-syntax@3'],
    ['[1', 'json-syntax@2'],
    ['{"a":}', 'json-syntax@5'],
    ['/**/{}', 'json-syntax@0'],
    ['NaN', 'json-syntax@0'],
    ['[Infinity]', 'json-syntax@1'],
    ['-Infinity', 'json-number@0'],
    ['nul', 'json-syntax@0'],
    ['True', 'json-syntax@0'],
    ['truefalse', 'json-trailing@4'],
    ['02', 'json-number@0'],
    ['00', 'json-number@0'],
    ['-01', 'json-number@0'],
    ['+1', 'json-syntax@0'],
    ['-', 'json-number@0'],
    ['.5', 'json-syntax@0'],
    ['1.', 'json-number@0'],
    ['1.e5', 'json-number@0'],
    ['1e', 'json-number@0'],
    ['1e+', 'json-number@0'],
    ['1-2', 'json-number@0'],
    ['0x10', 'json-trailing@1'],
    ['1_000', 'json-trailing@1'],
    ['1e999', 'json-number@0'],
    ['[-1e999]', 'json-number@1'],
    ['"a', 'json-string@0'],
    ['"a\\', 'json-string@0'],
    ['"a\\"', 'json-string@0'],
    ['"\t"', 'json-string@1'],
    ['"\u{1f}"', 'json-string@1'],
    ['"ab\u0000"', 'json-string@3'],
    ['"\\x41"', 'json-string@1'],
    ['"\\u12"', 'json-string@1'],
    ['"\\u12g4"', 'json-string@1'],
    ['"\\U0041"', 'json-string@1'],
    ['"\\ud800"', 'json-string@1'],
    ['"\\udc00"', 'json-string@1'],
    ['"\\udc00\\ud800"', 'json-string@1'],
    ['"\\ud83dx\\ude00"', 'json-string@1'],
    ['{"\\ud800":1}', 'json-string@2'],
    [Uint8Array.of(0x22, 0xff, 0x22), 'json-utf8@1'],
    [Uint8Array.of(0x22, 0xc0, 0xaf, 0x22), 'json-utf8@1'],
    [Uint8Array.of(0x22, 0xed, 0xa0, 0x80, 0x22), 'json-utf8@1'],
    [Uint8Array.of(0x22, 0xe2, 0x82, 0x22), 'json-utf8@1'],
    [Uint8Array.of(0xc3, 0xa9), 'json-syntax@0'],
    [nested(LIMITS.jsonDepth + 2), `json-depth@${LIMITS.jsonDepth + 1}`],
    [`[${'0,'.repeat(LIMITS.jsonItems)}0]`, `json-items@${1 + 2 * LIMITS.jsonItems}`],
  ]
  for (const [json, expected] of cases) {
    t.equal(outcome(json), expected, typeof json === 'string' ? json.slice(0, 60) : `${json}`)
  }
  t.type(outcome(nested(LIMITS.jsonDepth + 1)), 'object', 'as deep as may be')
  t.type(outcome(`[${'0,'.repeat(LIMITS.jsonItems - 1)}0]`), 'object', 'as long as may be')
})

t.test('every prefix of a document is refused', async t => {
  const text = '{"a\\n😀":{"b":[1,-2.5e3,true],"c":null},"d":"x"}'
  const bytes = encoder.encode(text)
  for (let length = 0; length < bytes.length; length++) {
    if (typeof outcome(bytes.subarray(0, length)) !== 'string') t.fail(`${length} bytes`)
  }
  t.type(outcome(bytes), 'object')
})

t.test('members are given one by one', async t => {
  const taken: [string, JsonMember][] = []
  const take = (text: string, path: readonly string[]) => {
    taken.length = 0
    return parseJson(encoder.encode(text), OFFSET, 'delta', path, member => {
      const { keyOffset, end } = member
      taken.push([text.slice(keyOffset - OFFSET, end - OFFSET), member])
    })
  }
  t.match(take('{"a":1, "b" : {"a":[2] } }', []), { kind: 'object', members: new Map() })
  t.strictSame(
    taken.map(([text]) => text),
    ['"a":1', '"b" : {"a":[2] }'],
  )
  const root = take('{"x":{"t":1},"t":{"u":{"v":[3]},"w":4},"y":[{"t":{"z":1}}]}', ['t'])
  t.strictSame(plain(root), { x: { t: 1 }, t: {}, y: [{ t: { z: 1 } }] })
  t.strictSame(
    taken.map(([text]) => text),
    ['"u":{"v":[3]}', '"w":4'],
  )
  take('{"t":{"u":{"a":1,"b":2},"a":0},"u":{"c":3}}', ['t', 'u'])
  t.strictSame(
    taken.map(([text]) => text),
    ['"a":1', '"b":2'],
  )
  take('[{"t":{"a":1}}]', ['t'])
  t.equal(taken.length, 0, 'a path leads through objects only')
  const refusal = { name: 'CodecError', kind: 'delta', rule: 'duplicate-key', offset: OFFSET + 12 }
  t.throws(() => take('{"t":{"a":1,"a":1}}', ['t']), refusal)
  t.throws(() => take('{"t":{"a":1},"t":{"b":1}}', ['t']), {
    name: 'CodecError',
    rule: 'duplicate-key',
  })
  const stop = new Error('enough')
  t.throws(
    () =>
      parseJson(encoder.encode('{"a":1,!'), 0, 'delta', [], () => {
        throw stop
      }),
    stop,
  )
})

t.test('a tree has a bounded size; the members that are taken count alone', async t => {
  const members = (count: number) => Array.from({ length: count }, (_, i) => `"${i}":0`).join()
  const most = LIMITS.jsonValues
  t.type(outcome(`{${members(most - 1)}}`), 'object')
  t.match(outcome(`{${members(most)}}`), /^json-values@/)
  let taken = 0
  const count = () => taken++
  parseJson(encoder.encode(`{${members(most + 5)}}`), 0, 'model', [], count)
  t.equal(taken, most + 5)
  const inOne = encoder.encode(`{"a":0,"b":{${members(most)}}}`)
  t.throws(() => parseJson(inOne, 0, 'model', [], count), {
    name: 'CodecError',
    rule: 'json-values',
  })
  t.equal(taken, most + 6)
})

t.test('changed documents: what JSON.parse says, or stricter', async t => {
  const seeds = [
    '{"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},"__metadata__":{"k":"v\\n"}}',
    '{"\\u00e9\\ud83d\\ude00":[1,-2,3.5,1e3,0.1E-2,true,false,null,"\\"\\\\"],"x":{"y":{}}}',
  ]
  const pieces = [
    '"',
    '\\',
    '{',
    '}',
    '[',
    ']',
    ',',
    ':',
    '0',
    '-',
    '1e',
    '.',
    'é',
    '\\u',
    ' ',
    '\n',
  ]
  const stricter = /^(duplicate-key|json-trailing|json-depth|json-string|json-number)@/
  const random = new Random(77)
  let accepted = 0
  for (let i = 0; i < 20_000; i++) {
    let text = seeds[i % seeds.length]!
    for (let change = 0; change <= random.below(3); change++) {
      const at = random.below(text.length + 1)
      text = text.slice(0, at) + random.pick(pieces) + text.slice(at + random.below(3))
    }
    const ours = outcome(text)
    let theirs: unknown
    try {
      theirs = { value: JSON.parse(text) }
    } catch {
      theirs = 'refused'
    }
    if (typeof ours !== 'string') {
      accepted++
      if (JSON.stringify(ours) !== JSON.stringify(theirs)) t.fail(text)
    } else if (theirs !== 'refused' && !stricter.test(ours)) t.fail(`${ours}: ${text}`)
  }
  t.ok(accepted > 500, `${accepted} are still JSON`)
})
