import t from 'tap'
import type { Dtype } from '../../../../src/codec/base/dtypes.ts'
import type { CodecError } from '../../../../src/codec/base/errors.ts'
import type { ByteRange } from '../../../../src/codec/base/ranges.ts'
import type { RecordDelta, RecordTensor } from '../../../../src/codec/wdelta/delta-index.ts'
import {
  type PlanTensor,
  planRecordDelta,
  type RecordDeltaOptions,
  type RecordDeltaPlan,
} from '../../../../src/codec/wdelta/v1/writer.ts'
import {
  goldenDeltas,
  PARENT,
  readDelta,
  writeDelta,
  zeroDelta,
} from '../../../support/models/wdelta-files.ts'

/** Where the array of a field lies, by the reference's name of the field. */
function rangeOf(tensor: RecordTensor, field: string): ByteRange | null {
  const key = field.replace(/_(.)/g, (_, letter: string) => letter.toUpperCase())
  const range = (tensor as unknown as Record<string, unknown>)[key]
  return range !== null && typeof range === 'object' ? (range as ByteRange) : null
}

/** int4's scalars are values in the index; in the file they stand between the outliers and the nibbles. */
function arrayBytes(file: Uint8Array, tensor: RecordTensor, field: string): Uint8Array {
  const range = rangeOf(tensor, field)
  if (range) return file.subarray(range.start, range.end)
  if (tensor.strategy !== 'int4') throw new Error(`no array ${field}`)
  const value = field === 'scale' ? tensor.scale : tensor.zeroPoint
  return new Uint8Array(Float16Array.of(value).buffer)
}

function planOf(index: RecordDelta): RecordDeltaPlan {
  const [first] = index.tensors
  return planRecordDelta({
    strategy: index.strategy,
    parentHash: index.parentHash,
    outlierFraction: first?.strategy === 'int4' ? first.outlierFraction : undefined,
    sparsity: first?.strategy === 'sparse' ? first.sparsity : undefined,
    tensors: index.tensors.map(({ name, shape, count }) => ({
      name,
      shape,
      count,
      dtype: null,
      changed: true,
    })),
  })
}

t.test('golden files are written again byte for byte', async t => {
  for (const [path, file] of goldenDeltas()) {
    const index = readDelta(file)
    const byName = new Map(index.tensors.map(tensor => [tensor.name, tensor]))
    const plan = planOf(index)
    const written = writeDelta(plan, (name, field) => arrayBytes(file, byName.get(name)!, field))
    t.equal(plan.size, file.length, `${path}: size`)
    t.ok(Buffer.from(file).equals(written), path)
  }
})

const tensor = (
  name: string,
  shape: number[],
  dtype: Dtype | null = 'BF16',
  changed = true,
): PlanTensor => ({ name, shape, count: shape.reduce((a, b) => a * b, 1), dtype, changed })

const plan = (options: Partial<RecordDeltaOptions>): RecordDeltaPlan =>
  planRecordDelta({ strategy: 'int4', parentHash: PARENT, tensors: [tensor('w', [4])], ...options })

const headerOf = ({ header }: RecordDeltaPlan): string => new TextDecoder().decode(header)

t.test('what a strategy cannot hold becomes sparse, and every planned file reads back', async t => {
  const tensors = [
    tensor('scalar', []),
    tensor('one', [1, 1], 'F32'),
    tensor('two', [2], 'F16'),
    tensor('empty', [0, 5]),
    tensor('matrix', [3, 7], 'F64'),
    tensor('ids', [6], 'I64', false),
    tensor('mask', [0], 'BOOL', false),
  ]
  const expected = {
    int4: ['sparse', 'sparse', 'int4', 'sparse', 'int4', 'sparse', 'sparse'],
    sparse: ['sparse', 'sparse', 'sparse', 'sparse', 'sparse', 'sparse', 'sparse'],
    quantized: ['quantized', 'quantized', 'quantized', 'sparse', 'quantized', 'sparse', 'sparse'],
  } as const
  const kept = { int4: [1, 1, 1, 0, 1, 0, 0], sparse: [1, 1, 1, 0, 2, 0, 0] }
  for (const strategy of ['int4', 'sparse', 'quantized'] as const) {
    const planned = plan({ strategy, tensors })
    t.strictSame(
      planned.tensors.map(({ entry }) => entry.strategy),
      expected[strategy],
    )
    if (strategy !== 'quantized') {
      t.strictSame(
        planned.tensors.map(one => one.kept),
        kept[strategy],
      )
    }
    const file = zeroDelta(planned)
    t.equal(file.length, planned.size)
    const index = readDelta(file)
    t.strictSame(
      index.tensors.map(({ name, tunedDtype, shape }) => ({ name, tunedDtype, shape })),
      tensors.map(({ name, dtype, shape }) => ({ name, tunedDtype: dtype, shape })),
    )
    t.ok(index.tensors.every(({ zero }) => zero))
    for (const one of index.tensors) {
      if (one.name === 'ids') t.match(one, { kept: 0, sparsity: 0, ranks: [0, 0] })
    }
  }
})

t.test('the largest outlier fraction still leaves a nibble', async t => {
  for (const count of [2, 3, 5, 8, 4097]) {
    const options = { outlierFraction: 1 - 2 ** -53, tensors: [tensor('w', [count])] }
    t.match(plan(options).tensors[0], { entry: { strategy: 'int4' }, kept: count - 1 })
  }
})

t.test("counts follow Python's double arithmetic", async t => {
  for (const [n, k] of [
    [10, 1],
    [100, 9],
    [1000, 99],
    [3, 1],
  ] as const) {
    const planned = plan({ strategy: 'sparse', sparsity: 0.9, tensors: [tensor('w', [n])] })
    t.equal(planned.tensors[0]!.kept, k, `sparsity 0.9 of ${n}`)
  }
  const planned = plan({ outlierFraction: 0.05, tensors: [tensor('w', [24, 37])] })
  t.equal(planned.tensors[0]!.kept, 44)
})

t.test("the header is Python's json.dumps: order, floats, escapes", async t => {
  const names = ['é', '\u{10000}', '\uffee', 'a"\\', 'a.b', 'B', 'del\u007f']
  const header = headerOf(plan({ tensors: names.map(name => tensor(name, [2], null)) }))
  t.strictSame(
    [...header.matchAll(/"((?:[^"\\]|\\.)*)":\{"strategy"/g)].map(match => match[1]),
    ['B', 'a\\"\\\\', 'a.b', 'del\\u007f', '\\u00e9', '\\uffee', '\\ud800\\udc00'],
  )
  const numbers: [number, string][] = [
    [0.01, '0.01'],
    [0.0001, '0.0001'],
    [0.00001, '1e-05'],
    [0.0000123, '1.23e-05'],
    [5e-324, '5e-324'],
    [0.30000000000000004, '0.30000000000000004'],
  ]
  for (const [outlierFraction, text] of numbers) {
    t.match(headerOf(plan({ outlierFraction })), `"outlier_fraction":${text},"n_elements"`)
  }
  for (const [sparsity, text] of [
    [0, '0.0'],
    [-0, '0.0'],
    [0.9, '0.9'],
  ] as const) {
    t.match(headerOf(plan({ strategy: 'sparse', sparsity })), `"sparsity":${text},"indices"`)
  }
  t.equal(
    headerOf(plan({ strategy: 'quantized', tensors: [tensor('w', [2, 3, 4])] })),
    `{"parent_hash":"${PARENT}","strategy":"quantized","tensors":{"w":{"strategy":"quantized",` +
      '"shape":[2,3,4],"dtype":"float32","n_elements":24,"n_cols":12,"scales":{"_ref":"scales"},' +
      '"packed_signs":{"_ref":"packed_signs"},"tuned_dtype":"BF16"}}}',
  )
})

t.test('records keep the given order, the header sorts', async t => {
  const planned = plan({ tensors: [tensor('b', [3]), tensor('a', [3]), tensor('c', [1])] })
  t.strictSame(
    readDelta(zeroDelta(planned)).tensors.map(({ name }) => name),
    ['b', 'a', 'c'],
  )
  t.ok(headerOf(planned).indexOf('"a"') < headerOf(planned).indexOf('"b"'))
})

t.test('refuses what it cannot plan', async t => {
  const refused = (rule: string, options: Partial<RecordDeltaOptions>): void => {
    t.throws(() => plan(options), { name: 'CodecError', kind: 'encode', rule }, rule)
  }
  for (const outlierFraction of [0, 1, -0.5, Number.NaN, Number.POSITIVE_INFINITY]) {
    refused('outlier-fraction', { outlierFraction })
  }
  for (const sparsity of [1, -0.1, Number.NaN, Number.POSITIVE_INFINITY]) {
    refused('sparsity', { sparsity })
  }
  refused('parent-hash', { parentHash: PARENT.toUpperCase() })
  refused('no-tensors', { tensors: [] })
  const changed = [tensor('ids', [3], 'I32')]
  refused('integer-changed', { tensors: changed })
  try {
    plan({ tensors: changed })
  } catch (error) {
    t.match((error as CodecError).message, /ids.*I32.*lossless/)
  }
  const long = Array.from({ length: 26 }, (_, i) => tensor(`${i}${'x'.repeat(1_000_000)}`, [2]))
  refused('header-length', { tensors: long })
})
