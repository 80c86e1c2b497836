import { isFloat } from '../../codec/base/dtypes.ts'
import { CodecError, namedTensor } from '../../codec/base/errors.ts'
import type { Hasher } from '../../codec/base/hasher.ts'
import type { ElementRun } from '../../codec/base/ranges.ts'
import type { RecordStrategy } from '../../codec/base/strategies.ts'
import { encodeProgram } from '../../codec/lossy/encode.ts'
import { runsOf } from '../../codec/lossy/grid.ts'
import type { PassResult } from '../../codec/lossy/passes.ts'
import { FLOAT_GRID, type Stage } from '../../codec/lossy/program.ts'
import { planFrame, planTensor, storedBytes } from '../../codec/plan/plan.ts'
import {
  blobsOf,
  type Recipe,
  type Recipes,
  type StoredRecipe,
  type StoredRecipes,
  sameShape,
} from '../../codec/plan/recipes.ts'
import {
  type PlannedTensor,
  planRecordDelta,
  type RecordDeltaOptions,
  recordDeltaPrefix,
  recordHeader,
} from '../../codec/wdelta/v1/writer.ts'
import type { Engine } from '../engine.ts'
import { mapOrdered } from '../map-ordered.ts'
import type { TaskParts } from '../task-parts.ts'
import type { TunedFrame } from '../tasks.ts'

/** One tensor of a fine-tune and of its parent; they have the same shape. */
export interface TunedPair {
  readonly parent: Recipe
  readonly tuned: StoredRecipe
}

/**
 * The tensors of a fine-tune paired with those of its parent, in `order`, which names tensors of the fine-tune. A record delta cannot hold a tensor
 * that is missing in the parent or has another shape there.
 * @throws CodecError `structure-changed`
 */
export function pairTensors(
  parent: Recipes,
  tuned: StoredRecipes,
  order: readonly string[],
): TunedPair[] {
  return order.map(name => {
    const [before, after] = [parent.get(name), tuned.get(name)!]
    if (before && sameShape(before.shape, after.shape)) return { parent: before, tuned: after }
    const found = before ? `[${before.shape}] in the parent` : 'no such tensor in the parent'
    throw new CodecError(
      'encode',
      'structure-changed',
      `${namedTensor(name)}: got shape [${after.shape}], ${found}; lossless or whole can hold it`,
    )
  })
}

interface EncodeOptions {
  readonly strategy: RecordStrategy
  readonly outlierFraction?: number | undefined
  readonly sparsity?: number | undefined
  /** May be a promise: tensors are encoded until it resolves. */
  readonly parentHash: string | Promise<string>
  /** In the order of the array records. */
  readonly tensors: readonly TunedPair[]
  /** A fresh SHA-256 for the trailer. */
  readonly hasher: Hasher
}

/** Passes over one tensor at once: enough to keep the workers busy while results come back. */
const PASS_WINDOW = 6
/** Tensors at once that are each encoded from beginning to end by one worker … */
const TENSOR_WINDOW = 4
/** … and the most elements, of which the worker holds 4 bytes each, and bytes of arrays that such a tensor has. */
const WHOLE_ELEMENTS = 2 ** 24
const WHOLE_BYTES = 2 ** 25
/** In place of the parent's hash in a plan that is made before the hash is known. */
const NO_HASH = '0'.repeat(64)

/**
 * The bytes of a record delta, from its prefix to its checksum. Memory is bounded by a few frames, whatever the size of a tensor.
 * @throws CodecError what `planRecordDelta` and `encodeProgram` throw; `dtype-changed` for a tensor that is floating point on one side only
 */
export async function* encodeRecordDelta(
  options: EncodeOptions,
  engine: Engine,
  signal?: AbortSignal,
): AsyncGenerator<Uint8Array> {
  const { hasher } = options
  const described = await describe(options, engine, signal)
  const plan = (parentHash: string) => planRecordDelta({ ...described, parentHash })
  const hashed = (bytes: Uint8Array) => {
    hasher.update(bytes)
    return bytes
  }
  const jobs = plan(NO_HASH).tensors.map((planned, i) => ({ planned, pair: options.tensors[i]! }))
  const begin = async (job: Job) => ({
    ...job,
    data: fitsOneTask(job, engine) ? [await encodeInOneTask(job, engine, signal)] : null,
  })
  const encoded = mapOrdered(jobs, TENSOR_WINDOW, begin)
  let next = encoded.next()
  // It may fail while the hash is awaited.
  next.catch(() => {})
  yield hashed(recordDeltaPrefix(plan(await options.parentHash)))
  for (let tensor = await next; !tensor.done; tensor = await next) {
    next = encoded.next()
    next.catch(() => {})
    const { planned, pair, data } = tensor.value
    const chunks = data ?? encodeInStages({ planned, pair }, engine, signal)
    for await (const bytes of records(planned, chunks)) yield hashed(bytes)
  }
  yield hasher.digest()
}

interface Job {
  readonly planned: PlannedTensor
  readonly pair: TunedPair
}

/** What a plan is made from, without the parent's hash. */
async function describe(
  { strategy, outlierFraction, sparsity, tensors }: EncodeOptions,
  engine: Engine,
  signal: AbortSignal | undefined,
): Promise<Omit<RecordDeltaOptions, 'parentHash'>> {
  const described = []
  for (const pair of tensors) {
    const { name, shape, count, dtype } = pair.tuned
    if (isFloat(dtype) !== isFloat(pair.parent.dtype)) throw dtypeChanged(pair)
    const changed = isFloat(dtype) || (await differs(pair, engine, signal))
    described.push({ name, shape, count, dtype, changed })
  }
  return { strategy, outlierFraction, sparsity, tensors: described }
}

function dtypeChanged({ parent, tuned }: TunedPair): CodecError {
  return new CodecError(
    'encode',
    'dtype-changed',
    `${namedTensor(tuned.name)}: ${parent.dtype} in the parent, ${tuned.dtype} in the fine-tune; lossless can hold it`,
  )
}

/** True if two tensors, which are not floating point, have different bytes. */
async function differs(
  { parent, tuned }: TunedPair,
  engine: Engine,
  signal: AbortSignal | undefined,
): Promise<boolean> {
  if (parent.dtype !== tuned.dtype) return true
  const run = { start: 0, end: storedBytes(tuned) }
  const [before, after] = [parent, tuned].map(recipe =>
    engine.stream(planTensor(recipe, recipe.dtype, run), signal),
  )
  try {
    // Both come in the same chunks: they are cut by frames from the tensor's beginning.
    for await (const bytes of after!) {
      const { value } = await before!.next()
      if (!value || Buffer.compare(bytes, value) !== 0) return true
    }
    return false
  } finally {
    await before!.return(undefined)
  }
}

/** Puts the header of each array in front of its data. */
async function* records(
  { entry, arrays }: PlannedTensor,
  data: AsyncIterable<Uint8Array> | Iterable<Uint8Array>,
): AsyncGenerator<Uint8Array> {
  const headers = arrays[Symbol.iterator]()
  let left = 0
  const open = function* (): Generator<Uint8Array> {
    while (left === 0) {
      const { value: array, done } = headers.next()
      if (done) return
      yield recordHeader(entry.name, array.field, array.length)
      left = array.bytes
    }
  }
  yield* open()
  for await (const chunk of data) {
    let at = 0
    while (at < chunk.length) {
      if (left === 0) throw new Error(`the arrays of ${entry.name} are longer than planned`)
      const piece = chunk.subarray(at, at + left)
      yield piece
      at += piece.length
      left -= piece.length
      yield* open()
    }
  }
}

/** True if one worker can take all passes: for more than one run, it must be able to read the tensor itself. */
function fitsOneTask({ planned, pair: { parent, tuned } }: Job, { source }: Engine): boolean {
  const { count } = planned.entry
  if (count <= FLOAT_GRID.run) return true
  const bytes = planned.arrays.reduce((sum, array) => sum + array.bytes, 0)
  if (count > WHOLE_ELEMENTS || bytes > WHOLE_BYTES) return false
  const blobs = [...blobsOf(parent), ...blobsOf(tuned)]
  return blobs.every(blob => source.locate(blob) !== null)
}

async function encodeInOneTask(
  job: Job,
  engine: Engine,
  signal: AbortSignal | undefined,
): Promise<Uint8Array> {
  const { planned } = job
  if (planned.arrays.every(({ bytes }) => bytes === 0)) return new Uint8Array(0)
  const runs = [...runsOf(planned.entry.count, FLOAT_GRID)]
  // There is more than one run only if workers read the tensor themselves.
  return engine.run(
    parts => ({
      kind: 'encode-whole',
      frames: runs.map(run => tunedRun(job, run, parts)),
      tensor: planned,
    }),
    signal,
  )
}

async function* encodeInStages(
  job: Job,
  engine: Engine,
  signal: AbortSignal | undefined,
): AsyncGenerator<Uint8Array> {
  for (const step of encodeProgram(job.planned)) {
    if (step instanceof Uint8Array) {
      yield step
      continue
    }
    const runs = mapOrdered(numbered(step.runs), PASS_WINDOW, async ([i, run]) => ({
      i,
      run,
      result: await passOver(job, step, run, i, engine, signal),
    }))
    for await (const { i, run, result } of runs) {
      const bytes = step.take(result, run, i)
      if (bytes) yield bytes
    }
  }
}

async function passOver(
  job: Job,
  stage: Stage,
  run: ElementRun,
  i: number,
  engine: Engine,
  signal: AbortSignal | undefined,
): Promise<PassResult> {
  const pass = stage.pass(run, i)
  return engine.run(parts => ({ kind: 'encode', ...tunedRun(job, run, parts), pass }), signal)
}

/** The parent's frame over a run, and the fine-tune's values for the same elements. */
function tunedRun(
  { pair: { parent, tuned } }: Job,
  { first, count }: ElementRun,
  parts: TaskParts,
): TunedFrame {
  return parts.tunedFrame(planFrame(parent, 'F32', { first, count }), tuned.source)
}

function* numbered<T>(items: Iterable<T>): Generator<[number, T]> {
  let i = 0
  for (const item of items) yield [i++, item]
}
