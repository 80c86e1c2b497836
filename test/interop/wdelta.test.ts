import { execFileSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { writeFileSync } from 'node:fs'
import t from 'tap'
import { CodecError } from '../../src/codec/base/errors.ts'
import type { RecordDelta, RecordTensor } from '../../src/codec/wdelta/delta-index.ts'
import { planRecordDelta } from '../../src/codec/wdelta/v1/writer.ts'
import {
  f16s,
  goldenDeltas,
  PARENT,
  readDelta,
  sealed,
  zeroDelta,
} from '../support/models/wdelta-files.ts'
import { mutate, seedFiles } from '../support/models/wdelta-samples.ts'
import { Random } from '../support/random.ts'

/** A Python that has deltatensors 0.2.0 (without one there is nothing to compare with), and how many files to change. */
const { INTEROP_PYTHON: PYTHON, MUTATIONS = '10000' } = process.env

interface Reading {
  error?: string
  parentHash: string
  strategy: string
  tensors: { [name: string]: TensorReading }
}

interface TensorReading {
  meta: { [key: string]: unknown }
  arrays: { [field: string]: string }
  zero: boolean
}

/** The index in the words of `read_wdelta.py`. */
function reading(index: RecordDelta, file: Uint8Array): Reading {
  const tensors = index.tensors.map(tensor => [tensor.name, tensorReading(tensor, file)] as const)
  const { parentHash, strategy } = index
  return { parentHash, strategy, tensors: Object.fromEntries(tensors) }
}

function tensorReading(tensor: RecordTensor, file: Uint8Array): TensorReading {
  const array = ({ start, end }: { start: number; end: number }): string =>
    digest(file.subarray(start, end))
  const { strategy, shape, zero, count } = tensor
  const meta = { strategy, shape, dtype: 'float32' }
  switch (tensor.strategy) {
    case 'sparse':
      return {
        meta: { ...meta, sparsity: tensor.sparsity },
        arrays: { indices: array(tensor.indices), values: array(tensor.values) },
        zero,
      }
    case 'quantized':
      return {
        meta: { ...meta, n_elements: count, n_cols: tensor.columns },
        arrays: { scales: array(tensor.scales), packed_signs: array(tensor.packedSigns) },
        zero,
      }
    case 'int4':
      return {
        meta: {
          ...meta,
          outlier_fraction: tensor.outlierFraction,
          n_elements: count,
          n_outliers: tensor.outliers,
        },
        arrays: {
          outlier_idx: array(tensor.outlierIdx),
          outlier_vals: array(tensor.outlierVals),
          scale: digest(f16s(tensor.scale)),
          zero_point: digest(f16s(tensor.zeroPoint)),
          packed: array(tensor.packed),
        },
        zero,
      }
  }
}

function digest(bytes: Uint8Array): string {
  return createHash('sha256').update(bytes).digest('hex')
}

/** Files of our own, with every tensor that a strategy cannot hold. */
function planned(): Uint8Array[] {
  const floats = [[], [1, 1], [2], [0, 5], [3, 7]].map((shape, i) => ({
    name: `é"${i}`,
    shape,
    count: shape.reduce((product, size) => product * size, 1),
    dtype: 'BF16' as const,
    changed: true,
  }))
  const ids = { name: 'ids', shape: [6], count: 6, dtype: 'I64' as const, changed: false }
  const tensors = [...floats.toReversed(), ids]
  return (['int4', 'sparse', 'quantized'] as const).map(strategy =>
    zeroDelta(planRecordDelta({ strategy, parentHash: PARENT, tensors })),
  )
}

function accepted(file: Uint8Array): RecordDelta | null {
  try {
    return readDelta(file)
  } catch (error) {
    if (error instanceof CodecError) return null
    throw error
  }
}

t.test(
  'what we accept, the reference reads as the same arrays',
  PYTHON ? {} : { skip: 'INTEROP_PYTHON names no Python' },
  async t => {
    const folder = t.testdir({})
    const files = [...goldenDeltas().values(), ...planned()]
    const seeds = seedFiles()
    const random = Random.fromState(99)
    for (let i = 0; i < Number(MUTATIONS); i++) {
      files.push(sealed(mutate(seeds[i % seeds.length]!.subarray(0, -32), random)))
    }
    const expected: Reading[] = []
    const paths: string[] = []
    for (const file of files) {
      const index = accepted(file)
      if (!index) continue
      const path = `${folder}/${paths.length}.wdelta`
      writeFileSync(path, file)
      paths.push(path)
      expected.push(reading(index, file))
    }
    const script = new URL('read_wdelta.py', import.meta.url).pathname
    const output = execFileSync(PYTHON!, [script], {
      input: paths.map(path => `${path}\n`).join(''),
      encoding: 'utf8',
      maxBuffer: 2 ** 30,
    })
    const answers = output.trimEnd().split('\n')
    t.equal(answers.length, paths.length)
    t.comment(`${paths.length} files compared`)
    answers.forEach((line, i) => {
      const answer = JSON.parse(line) as Reading
      t.match(answer, expected[i]!, paths[i]!)
    })
  },
)
