import t from 'tap'
import { DTYPE_BITS, isDtype } from '../../../src/codec/base/dtypes.ts'
import { CodecError } from '../../../src/codec/base/errors.ts'
import { LIMITS } from '../../../src/codec/base/limits.ts'
import { headerBytes, parseLayout } from '../../../src/codec/safetensors/header.ts'
import { readLayout as read, safetensorsFile } from '../../support/models/safetensors-samples.ts'

/** `accepted`, or the rule of the refusal. */
function ruleOf(json: string | object, dataBytes = 0): string {
  try {
    read(safetensorsFile(json, dataBytes))
    return 'accepted'
  } catch (error) {
    if (error instanceof CodecError) return error.rule
    throw error
  }
}

const entry = (dtype: string, shape: unknown, offsets: unknown) => ({
  dtype,
  shape,
  data_offsets: offsets,
})
/** The rule of a file with one tensor `w`. */
const one = (dtype: string, shape: number[], bytes: number) =>
  ruleOf({ w: entry(dtype, shape, [0, bytes]) }, bytes)
/** The same, shape or offsets written as given. */
const shaped = (shape: string, bytes: number) =>
  ruleOf(`{"w":{"dtype":"I32","shape":${shape},"data_offsets":[0,${bytes}]}}`, bytes)
const placed = (offsets: string, bytes = 4) =>
  ruleOf(`{"w":{"dtype":"I32","shape":[1],"data_offsets":${offsets}}}`, bytes)

t.test('a layout says where each tensor lies, in the order of their bytes', async t => {
  const json = {
    __metadata__: { format: 'pt', b: '2', a: '1' },
    late: entry('U8', [3], [16, 19]),
    first: entry('F32', [2, 2], [0, 16]),
    empty: entry('F32', [0], [16, 16]),
  }
  const file = safetensorsFile(json, 19)
  const start = file.length - 19
  const layout = read(file)
  t.equal(layout.size, file.length)
  t.strictSame(layout.header, file.subarray(0, start))
  t.strictSame(
    [...layout.metadata!],
    [
      ['format', 'pt'],
      ['b', '2'],
      ['a', '1'],
    ],
  )
  t.strictSame(layout.tensors, [
    { name: 'first', dtype: 'F32', shape: [2, 2], begin: start, end: start + 16 },
    { name: 'empty', dtype: 'F32', shape: [0], begin: start + 16, end: start + 16 },
    { name: 'late', dtype: 'U8', shape: [3], begin: start + 16, end: start + 19 },
  ])
  t.equal(read(safetensorsFile('{}', 0)).metadata, null)
})

t.test(
  'the length of a header is compared with the cap and the file before it is read',
  async t => {
    const word = (length: bigint) => {
      const bytes = new Uint8Array(8)
      new DataView(bytes.buffer).setBigUint64(0, length, true)
      return bytes
    }
    const refused = (length: bigint, fileSize: number | null, rule: string) =>
      t.throws(() => headerBytes(word(length), fileSize), { name: 'CodecError', rule }, `${length}`)
    for (let length = 0; length < 8; length++) {
      t.throws(() => read(new Uint8Array(length)), { name: 'CodecError', rule: 'header-too-small' })
    }
    const most = BigInt(LIMITS.headerBytes)
    t.equal(headerBytes(word(most), null), LIMITS.headerBytes + 8)
    t.equal(headerBytes(word(most), LIMITS.headerBytes + 8), LIMITS.headerBytes + 8)
    refused(most, LIMITS.headerBytes + 7, 'header-length')
    for (const length of [most + 1n, 2n ** 31n, 2n ** 32n, 2n ** 53n, 2n ** 63n, 2n ** 64n - 1n]) {
      refused(length, null, 'header-too-large')
      refused(length, Number.MAX_SAFE_INTEGER, 'header-too-large')
    }
    refused(2n, 9, 'header-length')
    t.throws(() => read(word(0n)), { name: 'CodecError', rule: 'header-start' })
    const file = safetensorsFile('{}', 0)
    t.throws(() => parseLayout(file.subarray(0, -1), file.length), {
      name: 'CodecError',
      rule: 'header-length',
    })
    const unaligned = new Uint8Array(file.length + 3)
    unaligned.set(file, 3)
    t.equal(parseLayout(unaligned.subarray(3), file.length).size, file.length)
  },
)

t.test('a header begins with a brace, and blanks alone may follow it', async t => {
  const cases: [string, string][] = [
    ['{}', 'accepted'],
    ['{}     ', 'accepted'],
    ['{"__metadata__":{}}', 'accepted'],
    ['{ \n\t}', 'accepted'],
    [' {}', 'header-start'],
    ['\n{}', 'header-start'],
    ['\ufeff{}', 'header-start'],
    ['[]', 'header-start'],
    ['"{}"', 'header-start'],
    ['null', 'header-start'],
    ['{}\n', 'json-trailing'],
    ['{}\t', 'json-trailing'],
    ['{}\u0000', 'json-trailing'],
    ['{}{}', 'json-trailing'],
    ['{', 'json-syntax'],
    ['{"a":NaN}', 'json-syntax'],
    ['{"\u0001":1}', 'json-string'],
    ['{"\\ud800":1}', 'json-string'],
    [`{"a":${'['.repeat(200)}`, 'json-depth'],
    ['{"__metadata__":{"a":"1","a":"2"}}', 'duplicate-key'],
    ['{"__metadata__":{},"__metadata__":{}}', 'duplicate-key'],
    ['{"__metadata__":{},"\\u005f_metadata__":{}}', 'duplicate-key'],
  ]
  for (const [json, rule] of cases) t.equal(ruleOf(json), rule, JSON.stringify(json).slice(0, 60))
  const bad = safetensorsFile('{"a":1}', 0)
  bad[10] = 0xff
  t.throws(() => read(bad), { name: 'CodecError', rule: 'json-utf8', offset: 10 })
  const tensor = '{"dtype":"U8","shape":[0],"data_offsets":[0,0]}'
  t.equal(ruleOf(`{"w":${tensor},"w":${tensor}}`), 'duplicate-key')
  t.equal(ruleOf(`{"w":${tensor},"\\u0077":${tensor}}`), 'duplicate-key')
})

t.test('metadata maps text to text, and has a longest length in bytes', async t => {
  const text = (value: string) => ruleOf(`{"__metadata__":${value}}`)
  for (const value of ['null', '[]', '"x"', '1', 'true', '{"a":1}', '{"a":null}', '{"a":{}}']) {
    t.equal(text(value), 'metadata', value)
  }
  const most = 'x'.repeat(LIMITS.metadataBytes - '{"a":""}'.length)
  t.equal(text(`{"a":"${most}"}`), 'accepted')
  t.equal(text(`{"a":"${most}x"}`), 'metadata')
  t.equal(text(`{"a":"${'é'.repeat(LIMITS.metadataBytes / 2)}"}`), 'metadata', 'counted in bytes')
  const { metadata } = read(
    safetensorsFile('{"\\u005f_metadata__":{"__proto__":"p","1":"","0":""}}', 0),
  )
  t.strictSame([...metadata!.keys()], ['__proto__', '1', '0'])
})

t.test('a tensor may have any name of a bounded length without control characters', async t => {
  const named = (name: string) => ruleOf({ [name]: entry('U8', [0], [0, 0]) })
  const good = [
    'a',
    'é',
    '😀',
    '../x',
    'a b',
    '"\\',
    'x'.repeat(LIMITS.nameBytes),
    '__metadata',
    '0',
  ]
  for (const name of good) t.equal(named(name), 'accepted', name.slice(0, 20))
  t.equal(ruleOf('{"__proto__":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}'), 'accepted')
  const bad = ['', '\u0000', 'a\nb', '\u007f', '\u0085', 'x'.repeat(LIMITS.nameBytes + 1)]
  for (const name of bad) t.equal(named(name), 'name', JSON.stringify(name).slice(0, 20))
  t.equal(named('é'.repeat(LIMITS.nameBytes / 2 + 1)), 'name', 'counted in bytes')
})

t.test('an entry has a dtype, a shape and offsets, and nothing else', async t => {
  const whole = entry('U8', [0], [0, 0])
  const { dtype: _dtype, ...noDtype } = whole
  const { shape: _shape, ...noShape } = whole
  const { data_offsets: _offsets, ...noOffsets } = whole
  const cases: [unknown, string][] = [
    [whole, 'accepted'],
    [{ shape: [0], data_offsets: [0, 0], dtype: 'U8' }, 'accepted'],
    [null, 'entry'],
    [1, 'entry'],
    ['U8', 'entry'],
    [['U8', [0], [0, 0]], 'entry'],
    [{ ...whole, extra: 1 }, 'entry'],
    [{ ...whole, Dtype: 'U8' }, 'entry'],
    [noDtype, 'dtype'],
    [noShape, 'shape'],
    [noOffsets, 'offsets'],
    [{}, 'dtype'],
    [{ ...whole, shape: null }, 'shape'],
    [{ ...whole, shape: 0 }, 'shape'],
    [{ ...whole, shape: '[0]' }, 'shape'],
    [{ ...whole, shape: { 0: 0 } }, 'shape'],
    [{ ...whole, data_offsets: null }, 'offsets'],
    [{ ...whole, data_offsets: '0,0' }, 'offsets'],
  ]
  for (const [value, rule] of cases)
    t.equal(ruleOf({ w: value } as object), rule, JSON.stringify(value))
  const twice = '{"w":{"dtype":"U8","shape":[0],"shape":[0],"data_offsets":[0,0]}}'
  t.equal(ruleOf(twice), 'duplicate-key')
})

t.test('every known dtype has its width, and no other is read', async t => {
  for (const [dtype, bits] of Object.entries(DTYPE_BITS)) {
    t.equal(one(dtype, [4, 2], bits), 'accepted', dtype)
    t.equal(one(dtype, [4, 2], bits + 1), 'size', dtype)
    t.ok(isDtype(dtype))
  }
  const unknown = [
    'f32',
    'F32 ',
    '',
    'FLOAT',
    'E8M0',
    'FP4',
    'UE8',
    'C128',
    '__proto__',
    'toString',
  ]
  for (const dtype of unknown) t.equal(one(dtype, [0], 0), 'dtype', dtype)
  for (const dtype of [1, null, ['U8'], {}, true]) {
    t.equal(ruleOf({ w: { dtype, shape: [0], data_offsets: [0, 0] } }), 'dtype', `${dtype}`)
  }
  t.equal(one('F4', [3], 1), 'misaligned')
  t.equal(one('F4', [], 0), 'misaligned')
  t.equal(one('F6_E2M3', [2], 1), 'misaligned')
  t.equal(one('F6_E3M2', [4], 3), 'accepted')
  t.equal(one('F4', [0], 0), 'accepted')
})

t.test('dimensions are integers written as such, up to the caps', async t => {
  t.equal(shaped('[]', 4), 'accepted', 'a scalar')
  t.equal(shaped('[0,5]', 0), 'accepted')
  t.equal(shaped(`[${Array(LIMITS.rank).fill(1)}]`, 4), 'accepted')
  t.equal(shaped(`[${Array(LIMITS.rank + 1).fill(1)}]`, 4), 'shape')
  t.equal(shaped(`[${Array(1000).fill(1)}]`, 4), 'json-items')
  const dimensions = ['2.0', '2e0', '-0', '-2', '"2"', 'null', 'true', '[2]', '9007199254740992']
  for (const dimension of [...dimensions, '18446744073709551615', '18446744073709551616']) {
    t.equal(shaped(`[${dimension}]`, 8), 'shape', dimension)
  }
  for (const dimension of ['02', '+2', '0x2'])
    t.match(shaped(`[${dimension}]`, 8), /^json-/, dimension)
  t.equal(shaped('[0,4294967296]', 0), 'accepted', 'the longest dimension')
  t.equal(shaped('[0,4294967297]', 0), 'shape')
  t.equal(shaped('[0,4294967296,4294967296]', 0), 'accepted', '0 first: nothing overflows')
  t.equal(shaped('[4294967296,4294967296,0]', 0), 'overflow')
  t.equal(shaped('[4194305,4194305,211106198978564]', 4), 'shape')
  t.equal(shaped('[4294967296,2097152]', 0), 'overflow', '2^53 elements')
  t.equal(shaped('[4294967296,65536]', 0), 'overflow', '2^48 elements of 32 bits')
  t.equal(shaped('[4294967295,65536]', 0), 'size')
})

t.test('offsets cover the data without a gap or an overlap', async t => {
  t.equal(placed('[0,4]'), 'accepted')
  const lists = [
    '[]',
    '[0]',
    '[0,4,8]',
    '[4,0]',
    '[0,"4"]',
    '[0,4.0]',
    '[-0,4]',
    '[0,4e0]',
    '[null,4]',
  ]
  for (const list of [...lists, '[0,9007199254740992]', '[-4,0]'])
    t.equal(placed(list), 'offsets', list)
  for (const list of ['[0,3]', '[0,5]', '[0,9007199254740991]', '[0,0]'])
    t.equal(placed(list), 'size', list)
  t.equal(placed('[1,5]', 5), 'hole', 'the first begins later')
  t.equal(placed('[4,8]', 8), 'hole')
  t.equal(placed('[9007199254740987,9007199254740991]'), 'hole')
  const two = (first: number[], second: number[], bytes: number) =>
    ruleOf({ a: entry('U8', [4], first), b: entry('U8', [4], second) }, bytes)
  t.equal(two([0, 4], [4, 8], 8), 'accepted')
  t.equal(two([4, 8], [0, 4], 8), 'accepted', 'in any order')
  t.equal(two([0, 4], [5, 9], 9), 'hole')
  t.equal(two([0, 4], [3, 7], 7), 'hole', 'overlap')
  t.equal(two([0, 4], [0, 4], 4), 'hole', 'shared')
  const empty = entry('F32', [0], [0, 0])
  t.equal(ruleOf({ a: empty, b: empty, c: entry('U8', [1], [0, 1]) }, 1), 'accepted')
  t.equal(ruleOf({ c: entry('U8', [2], [0, 2]), a: entry('U8', [0], [1, 1]) }, 2), 'hole')
  t.equal(ruleOf({ u: entry('U8', [1], [0, 1]), f: entry('F32', [1], [1, 5]) }, 5), 'accepted')
})

t.test('data that is too short or too long is refused', async t => {
  const file = safetensorsFile({ w: entry('I32', [2], [0, 8]) }, 8)
  for (const length of [file.length - 1, file.length - 8]) {
    t.throws(() => read(file.subarray(0, length)), { name: 'CodecError', rule: 'file-size' })
  }
  const longer = new Uint8Array(file.length + 1)
  longer.set(file)
  t.throws(() => read(longer), { name: 'CodecError', rule: 'file-size' })
  t.equal(ruleOf('{}', 1), 'file-size')
})

t.test('sums beyond 2^53 are refused, not rounded', async t => {
  const half = 2 ** 49
  const json: Record<string, object> = {}
  for (let i = 0; i < 16; i++) json[i] = entry('U8', [2 ** 32, 2 ** 17], [half * i, half * (i + 1)])
  t.equal(ruleOf(json), 'offsets', 'the last ends at 2^53')
  const last = half - 512
  t.equal(512 * (2 ** 20 - 1) * (2 ** 20 + 1), last)
  const shape = [512, 2 ** 20 - 1, 2 ** 20 + 1]
  json[15] = entry('U8', shape, [half * 15, half * 15 + last])
  t.equal(ruleOf(json), 'overflow', 'data that ends before 2^53, in a file that does not')
  delete json[15]
  t.equal(ruleOf(json), 'file-size')
})

t.test('messages say what was expected, what came and where', async t => {
  const json =
    '{"ok":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},"w":{"dtype":"u8","shape":[1]}}'
  t.throws(() => read(safetensorsFile(json, 0)), {
    name: 'CodecError',
    kind: 'safetensors',
    rule: 'dtype',
    message: '"w": expected a dtype of safetensors, got "u8" (at byte 75)',
    offset: 8 + json.indexOf('"u8"'),
  })
})
