import { spawnSync } from 'node:child_process'
import { join } from 'node:path'
import t from 'tap'
import {
  DTYPE_BITS,
  type Dtype,
  elementCount,
  isDtype,
  itemBytes,
} from '../../src/codec/base/dtypes.ts'
import { CodecError } from '../../src/codec/base/errors.ts'
import { parseJson } from '../../src/codec/base/json.ts'
import { LIMITS } from '../../src/codec/base/limits.ts'
import { canWiden } from '../../src/codec/base/widen.ts'
import { headerBytes } from '../../src/codec/safetensors/header.ts'
import type { Layout } from '../../src/codec/safetensors/layout.ts'
import { buildLayout } from '../../src/codec/safetensors/write-header.ts'
import {
  changedSafetensors,
  readLayout,
  safetensorsFile,
} from '../support/models/safetensors-samples.ts'
import { Random } from '../support/random.ts'
import { interopPython } from './reference.ts'

const { MUTATIONS = '10000' } = process.env

/** A tensor in the words of `safetensors_differential.py`: name, dtype, shape, data as base64. */
type Reading = readonly [string, string, readonly number[], string]

interface Answer {
  readonly error?: string
  readonly tensors?: readonly Reading[]
  readonly header?: string
}

/** One process answers all requests. */
function ask(requests: readonly object[]): Answer[] {
  const script = join(import.meta.dirname, 'safetensors_differential.py')
  const input = requests.map(request => `${JSON.stringify(request)}\n`).join('')
  const options = { input, encoding: 'utf8', maxBuffer: 2 ** 30 } as const
  const { stdout, stderr, error } = spawnSync(interopPython(), [script], options)
  const answers = stdout?.split('\n').slice(0, -1) ?? []
  if (answers.length !== requests.length) throw new Error(stderr, { cause: error })
  return answers.map(line => JSON.parse(line) as Answer)
}

const base64 = (bytes: Uint8Array) => Buffer.from(bytes).toString('base64')
const byName = ([a]: Reading, [b]: Reading) => (a < b ? -1 : 1)

function readings({ tensors }: Layout, file: Uint8Array): Reading[] {
  return tensors.map(({ name, dtype, shape, begin, end }) => {
    return [name, dtype, shape, base64(file.subarray(begin, end))]
  })
}

/**
 * The rule by which we refuse a file. A key that comes twice counts before a fault in the first of its values, which we see
 * earlier and the reference not at all: it looks at the last value only.
 */
function ruleOf(fault: CodecError, file: Uint8Array): string {
  try {
    parseJson(file.subarray(8, headerBytes(file, file.length)), 8, 'safetensors', [], () => {})
  } catch (error) {
    if (error instanceof CodecError && error.rule === 'duplicate-key') return error.rule
  }
  return fault.rule
}

/**
 * Where `strict-1` refuses what the reference reads, and why. Every entry must be seen, so that the list stays true; nothing else may
 * be refused that the reference reads, and nothing read that it refuses.
 */
const STRICTER: Readonly<Record<string, string>> = {
  'duplicate-key': 'which of two tensors of one name counts, differs between parsers',
  entry: 'a tensor written as a list; fields that nobody knows',
  'header-start': 'white space before the header',
  'json-depth': 'deep values of unknown fields',
  'json-items': 'more dimensions than anything has',
  'json-trailing': 'padding that is not of spaces',
  metadata: 'null; more than 1 MB',
  name: 'empty, long, or with control characters',
  overflow: 'beyond 2^53 bits on the way to no element at all',
  shape: 'more dimensions or longer ones than anything has',
}

const tensor = (shape: string, offsets: string) =>
  `{"dtype":"U8","shape":${shape},"data_offsets":${offsets}}`
const EMPTY = tensor('[0]', '[0,0]')

/** Headers at the borders of the rules, by the kind of fault; all describe a file without data. */
const BORDERS: readonly string[] = [
  ...[
    '',
    '{}',
    '{}    ',
    ' {}',
    '\n{}',
    '{}\n',
    '{}\t',
    '{}\u0000',
    '{}{}',
    '[]',
    'null',
    '{',
    '\ufeff{}',
  ],
  ...['{"a":NaN}', '{"\u0001":1}', '{"\\ud800":1}', '{"a":1}', '{"a":null}', '{"a":[]}'],
  ...[
    '{"__metadata__":null}',
    '{"__metadata__":{}}',
    '{"__metadata__":{"a":"b"}}',
    '{"__metadata__":{"a":1}}',
  ],
  ...['{"__metadata__":{"a":null}}', '{"__metadata__":{"a":{}}}', '{"__metadata__":[]}'],
  ...['{"__metadata__":{"a":"1","a":"2"}}', '{"__metadata__":{},"__metadata__":{}}'],
  `{"__metadata__":{"a":"${'x'.repeat(LIMITS.metadataBytes)}"}}`,
  ...['{"\\u005f_metadata__":{"a":"b"}}', '{"__metadata__":{},"\\u005f_metadata__":{}}'],
  ...[
    'w',
    'é',
    '😀',
    '\\ud83d\\ude00',
    '',
    '\\u0000',
    'a\\nb',
    '\u007f',
    '\u0085',
    '__proto__',
    'x'.repeat(1025),
  ].map(name => `{"${name}":${EMPTY}}`),
  ...[
    `{"w":${EMPTY},"w":${EMPTY}}`,
    `{"w":${EMPTY},"\\u0077":${EMPTY}}`,
    `{"a":${EMPTY},"b":${EMPTY}}`,
  ],
  '{"w":["U8",[0],[0,0]]}',
  ...['"dtype":"U8"', '"extra":1', '"extra":[[[[[[1]]]]]]', '"extra":1e999', '"shape":[0]'].map(
    field => `{"w":${EMPTY.slice(0, -1)},${field}}}`,
  ),
  ...[
    '"dtype":"U8","shape":[0]',
    '"dtype":"U8","data_offsets":[0,0]',
    '"shape":[0],"data_offsets":[0,0]',
  ].map(fields => `{"w":{${fields}}}`),
  ...['u8', 'U8 ', 'E8M0', 'FP4', 'C128', ''].map(dtype => `{"w":${EMPTY.replace('U8', dtype)}}`),
  ...['0.0', '0e0', '-0', '-1', '"0"', 'null', 'true', '00', '18446744073709551616', '[0]'].flatMap(
    number => [
      `{"w":${tensor(`[${number}]`, '[0,0]')}}`,
      `{"w":${tensor('[0]', `[${number},0]`)}}`,
    ],
  ),
  ...['0,9007199254740993', '9007199254740993,0', '0,4294967297', '0,4294967296,4294967296'].map(
    shape => `{"w":${tensor(`[${shape}]`, '[0,0]')}}`,
  ),
  ...['4294967296,4294967296,0', '134217728,134217728,0', '4194305,4194305,211106198978564'].map(
    shape => `{"w":${tensor(`[${shape}]`, '[0,0]')}}`,
  ),
  ...[16, 17, 64, 65, 100].map(rank => `{"w":${tensor(`[${Array(rank).fill(0)}]`, '[0,0]')}}`),
  ...['[]', '[0]', '[0,0,0]', '[1,0]', '[0,1]', '[1,1]', '[0,18446744073709551615]'].map(
    offsets => `{"w":${tensor('[0]', offsets)}}`,
  ),
]

t.test('what the reference reads, we read alike, or refuse for a reason', async t => {
  const random = Random.fromState(20_240_503)
  const changed = Array.from({ length: Number(MUTATIONS) }, () => changedSafetensors(random))
  const borders = BORDERS.map(header => safetensorsFile(header, 0))
  const files = [...borders, ...changed, new Uint8Array(0), new Uint8Array(7)]
  const answers = ask(files.map(file => ({ read: base64(file) })))
  const seen = new Map<string, number>()
  const count = (what: string) => seen.set(what, (seen.get(what) ?? 0) + 1)
  files.forEach((file, i) => {
    const { tensors, error } = answers[i]!
    const shown = Buffer.from(file.subarray(8, 200)).toString()
    try {
      const ours = readings(readLayout(file), file).sort(byName)
      if (!tensors) t.fail(`${error}: ${shown}`)
      else if (JSON.stringify(ours) !== JSON.stringify([...tensors].sort(byName))) t.fail(shown)
      count('read by both')
    } catch (fault) {
      if (!(fault instanceof CodecError)) throw fault
      const rule = ruleOf(fault, file)
      if (!tensors) count('refused by both')
      else if (rule in STRICTER) count(rule)
      else t.fail(`${rule}: ${shown}`)
    }
  })
  const kinds = [...Object.keys(STRICTER), 'read by both', 'refused by both']
  t.strictSame([...seen.keys()].sort(), kinds.sort(), 'every reason is seen')
  t.comment(JSON.stringify(Object.fromEntries(seen)))
})

t.test('what we write is what the reference writes, byte for byte', async t => {
  const random = Random.fromState(20_240_504)
  const pick = (length: number) => Math.floor(random.float() * length)
  // F4 and F6 have no name in the reference's writer.
  const dtypes = Object.keys(DTYPE_BITS).filter(isDtype).filter(canWiden)
  const units = [...'ab."\\/\b\f\n\r\t\u0000\u0001\u001f\u007f\u0080\u2028\uff5eé😀\u{10ffff}']
  const text = () => Array.from({ length: 1 + pick(5) }, () => units[pick(units.length)]).join('')
  const tensor = (dtype: Dtype) => {
    return { name: text(), dtype, shape: Array.from({ length: pick(4) }, () => pick(4)) }
  }
  const models = Array.from({ length: 300 }, (_, i) => {
    const tensors =
      i === 0
        ? dtypes.map(tensor)
        : Array.from({ length: pick(9) }, () => tensor(dtypes[pick(dtypes.length)]!))
    // One pair: the reference writes several in the order of a hash table.
    const metadata = pick(2) ? new Map([[text(), text()]]) : null
    return { tensors: [...new Map(tensors.map(one => [one.name, one])).values()], metadata }
  })
  const answers = ask(
    models.map(({ tensors, metadata }) => ({
      write: tensors.map(({ name, dtype, shape }) => {
        return [name, dtype, shape, elementCount(shape) * itemBytes(dtype)]
      }),
      metadata: metadata && Object.fromEntries(metadata),
    })),
  )
  models.forEach(({ tensors, metadata }, i) => {
    const ours = base64(buildLayout(tensors, metadata).header)
    if (ours !== answers[i]!.header) t.equal(ours, answers[i]!.header ?? answers[i]!.error)
  })
  t.equal(answers.length, 300)
})
