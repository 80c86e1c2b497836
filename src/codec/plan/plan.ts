import { DTYPE_BITS, type Dtype, type FloatDtype, isFloat, itemBytes } from '../base/dtypes.ts'
import { CodecError, namedTensor } from '../base/errors.ts'
import { CELL, FRAME_BYTES } from '../base/limits.ts'
import type { ByteRange, ElementRun, Span } from '../base/ranges.ts'
import { utf8 } from '../base/utf8.ts'
import type { FrameStep } from '../frames/float-frame.ts'
import { ENCODINGS, isPredicted } from '../frames/frame-encodings.ts'
import type { Layout, LayoutTensor } from '../safetensors/layout.ts'
import { type RecordTensor, rankAt } from '../wdelta/delta-index.ts'
import type { Domain, FrameBytes, Recipe, Recipes } from './recipes.ts'
import type { DeltaFrame, FloatFrameSegment, Prediction, Segment } from './segments.ts'

/**
 * The frames planned so far, by their tensor's frames and their first byte. If the dtype changes with every model of a lineage, a frame needs
 * part of a frame that needs four others: without this memory, every two models would take four times as long to plan.
 */
type PlannedFrames = Map<FrameBytes, Map<number, DeltaFrame>>

/**
 * The segments of bytes `range` of a file with this layout. Lazy: a consumer that stops pays for no more. The dtypes of `layout` are those of
 * the output.
 * @throws CodecError `range` if the range is not within the file.
 */
export function* planRange(recipes: Recipes, layout: Layout, range: ByteRange): Generator<Segment> {
  if (!(range.start >= 0 && range.start <= range.end && range.end <= layout.size)) {
    throw new CodecError(
      'range',
      'range',
      `bytes ${range.start}..${range.end} are not within a file of ${layout.size} bytes`,
    )
  }
  const header = layout.header.subarray(range.start, Math.min(range.end, layout.header.length))
  if (header.length > 0) yield { kind: 'bytes', bytes: header }
  for (let i = firstEndingAfter(layout.tensors, range.start); i < layout.tensors.length; i++) {
    const tensor = layout.tensors[i]!
    if (tensor.begin >= range.end) return
    if (tensor.begin === tensor.end) continue
    const run = {
      start: Math.max(range.start, tensor.begin) - tensor.begin,
      end: Math.min(range.end, tensor.end) - tensor.begin,
    }
    yield* planTensor(recipeOf(recipes, tensor.name), tensor.dtype, run)
  }
}

/**
 * The bytes of a lineage hash: for each of `names` its UTF-8 bytes, then its values, as stored or as unrounded float32.
 * Source: deltatensors 0.2.0 `lineage.py` `hash_state_dict`; the orders are those of `model-folder.ts`.
 */
export function* planHash(
  recipes: Recipes,
  names: Iterable<string>,
  domain: Domain,
): Generator<Segment> {
  for (const name of names) {
    yield { kind: 'bytes', bytes: utf8(name) }
    const recipe = recipeOf(recipes, name)
    const dtype = domain === 'stored' ? recipe.dtype : 'F32'
    const end = domain === 'stored' ? storedBytes(recipe) : recipe.count * 4
    yield* planTensor(recipe, dtype, { start: 0, end })
  }
}

/** Bytes of a tensor in its stored dtype. */
export function storedBytes({ dtype, count }: Recipe): number {
  return (count * DTYPE_BITS[dtype]) / 8
}

/**
 * The segments of bytes `run` of one tensor, cast to `dtype`: its stored dtype, or a float dtype. Frames in `planned` are not planned again;
 * without it, no two segments share a frame.
 */
export function* planTensor(
  recipe: Recipe,
  dtype: Dtype,
  run: ByteRange,
  planned?: PlannedFrames,
): Generator<Segment> {
  if (recipe.steps.length === 0 && dtype === recipe.dtype) {
    yield* planSource(recipe.source, run, planned)
    return
  }
  if (!isFloat(dtype)) {
    throw new CodecError(
      'model',
      'cast',
      `${namedTensor(recipe.name)}: ${recipe.dtype} cannot be cast to ${dtype}`,
    )
  }
  const item = itemBytes(dtype)
  const grid = FRAME_BYTES / item
  let at = run.start
  while (at < run.end) {
    const first = Math.floor(at / item)
    const frameEnd = Math.min((Math.floor(first / grid) + 1) * grid, recipe.count)
    const from = first - (first % CELL)
    const lastByte = Math.min(run.end, frameEnd * item)
    const to = Math.min(Math.ceil(Math.ceil(lastByte / item) / CELL) * CELL, frameEnd)
    const slice = { start: at - from * item, end: lastByte - from * item }
    const frame = planFrame(recipe, dtype, { first: from, count: to - from }, planned)
    yield { kind: 'frame', ...frame, slice }
    at = lastByte
  }
}

/** The segments of bytes `run` of a tensor before any step. */
function planSource(
  source: Recipe['source'],
  run: ByteRange,
  planned?: PlannedFrames,
): Generator<Segment> {
  return source.kind === 'stored' ? planCopy(source.span, run) : planFrames(source, run, planned)
}

/** The segments of bytes `run` of a tensor of a frame delta. A frame is decoded as a whole, whichever part of it is wanted. */
function* planFrames(
  source: FrameBytes,
  run: ByteRange,
  planned?: PlannedFrames,
): Generator<Segment> {
  const { dtype, tensor, parent } = source
  for (let at = run.start; at < run.end; ) {
    const start = at - (at % FRAME_BYTES)
    const end = Math.min(start + FRAME_BYTES, tensor.bytes)
    const until = Math.min(run.end, end)
    // Before a prediction is planned: planning a parent twice at each level would take time 2^depth.
    if (parent && copies(source, start) && until <= storedBytes(parent)) {
      yield* planTensor(parent, dtype, { start: at, end: until }, planned)
    } else {
      const frame = plannedFrame(source, start, end, planned ?? new Map())
      yield { kind: 'lossless', frame, slice: { start: at - start, end: until - start } }
    }
    at = until
  }
}

function plannedFrame(
  source: FrameBytes,
  start: number,
  end: number,
  planned: PlannedFrames,
): DeltaFrame {
  const frames = planned.get(source) ?? new Map<number, DeltaFrame>()
  planned.set(source, frames)
  const frame = frames.get(start) ?? deltaFrame(source, start, end, planned)
  frames.set(start, frame)
  return frame
}

/** True if the frame that begins at byte `start` is its parent's bytes, as far as the parent goes. */
function copies({ dtype, index, tensor, parent }: FrameBytes, start: number): boolean {
  if (parent?.dtype !== dtype) return false
  const frameNumber = tensor.firstFrame + start / FRAME_BYTES
  return ENCODINGS[index.frames.encodings[frameNumber]!] === 'copy'
}

function deltaFrame(
  { dtype, blob, index, tensor, parent }: FrameBytes,
  start: number,
  end: number,
  planned: PlannedFrames,
): DeltaFrame {
  const { frames, records } = index
  const frameNumber = tensor.firstFrame + start / FRAME_BYTES
  const encoding = ENCODINGS[frames.encodings[frameNumber]!]!
  const record = frames.records[frameNumber]!
  const from = records.starts[record]
  return {
    dtype,
    encoding,
    span: from === undefined ? null : { blob, start: from, end: from + records.lengths[record]! },
    size: end - start,
    checksum: frames.checksums[frameNumber]!,
    prediction:
      parent && isPredicted(encoding)
        ? planPrediction(parent, dtype, { start, end }, planned)
        : null,
  }
}

/**
 * What predicts bytes `run` of a tensor of `dtype`: the same bytes of `parent`, or the same elements if its dtype is another. Frames in
 * `planned` are not planned again.
 */
export function planPrediction(
  parent: Recipe,
  dtype: Dtype,
  run: ByteRange,
  planned: PlannedFrames = new Map(),
): Prediction<Segment> {
  const scale = parent.dtype === dtype ? 1 : itemBytes(parent.dtype) / itemBytes(dtype)
  const all = storedBytes(parent)
  const from = { start: Math.min(run.start * scale, all), end: Math.min(run.end * scale, all) }
  const source = [...planTensor(parent, parent.dtype, from, planned)]
  return { source, size: from.end - from.start, dtype: parent.dtype }
}

/**
 * The frame that gives elements `[first, first + count)` of a tensor in dtype `store`, and where its parts are: see {@link FloatFrameSegment}.
 * `first` is a multiple of CELL, and so is the end unless it is the tensor's.
 */
export function planFrame(
  recipe: Recipe,
  store: FloatDtype,
  { first, count }: ElementRun,
  planned: PlannedFrames = new Map(),
): Pick<FloatFrameSegment, 'frame' | 'source' | 'spans'> {
  const { dtype: load } = recipe.source
  const item = itemBytes(load)
  const run = { start: first * item, end: (first + count) * item }
  const source = [...planSource(recipe.source, run, planned)]
  const spans: Span[] = []
  const steps = recipe.steps.map((step): FrameStep => {
    if (step.op === 'round') return step
    return planAdd(step.tensor, first, count, (start, end) =>
      spans.push({ blob: step.blob, start, end }),
    )
  })
  return { frame: { first, count, load, steps, store }, source, spans }
}

function planAdd(
  tensor: RecordTensor,
  first: number,
  count: number,
  part: (start: number, end: number) => number,
): FrameStep {
  const end = first + count
  if (tensor.strategy === 'quantized') {
    const { columns, packedSigns, scales } = tensor
    const row = Math.floor(first / columns)
    return {
      op: 'quantized',
      bit: first % 8,
      column: first % columns,
      columns,
      signs: part(
        packedSigns.start + Math.floor(first / 8),
        packedSigns.start + Math.ceil(end / 8),
      ),
      scales: part(scales.start + row * 2, scales.start + Math.ceil(end / columns) * 2),
    }
  }
  const before = rankAt(tensor, first / CELL)
  const until = rankAt(tensor, Math.ceil(end / CELL))
  if (tensor.strategy === 'sparse') {
    return {
      op: 'sparse',
      indices: part(tensor.indices.start + before * 8, tensor.indices.start + until * 8),
      values: part(tensor.values.start + before * 4, tensor.values.start + until * 4),
    }
  }
  // Outliers take no nibble, so element e stands at nibble e minus the outliers before it.
  const nibble = first - before
  return {
    op: 'int4',
    scale: tensor.scale,
    zeroPoint: tensor.zeroPoint,
    nibble: nibble % 2 === 0 ? 0 : 1,
    indices: part(tensor.outlierIdx.start + before * 8, tensor.outlierIdx.start + until * 8),
    values: part(tensor.outlierVals.start + before * 2, tensor.outlierVals.start + until * 2),
    packed: part(
      tensor.packed.start + Math.floor(nibble / 2),
      tensor.packed.start + Math.ceil((end - until) / 2),
    ),
  }
}

/** Copies of bytes `run` of a span, in pieces of at most FRAME_BYTES. */
export function* planCopy(span: Span, run: ByteRange): Generator<Segment> {
  for (let at = run.start; at < run.end; at += FRAME_BYTES) {
    const end = Math.min(at + FRAME_BYTES, run.end)
    yield {
      kind: 'copy',
      span: { blob: span.blob, start: span.start + at, end: span.start + end },
    }
  }
}

function recipeOf(recipes: Recipes, name: string): Recipe {
  const recipe = recipes.get(name)
  if (recipe) return recipe
  throw new CodecError('model', 'tensor-unknown', `no ${namedTensor(name)} in this model`)
}

/** The number of the first tensor that ends after `offset`; tensors are in file order. */
function firstEndingAfter(tensors: readonly LayoutTensor[], offset: number): number {
  let low = 0
  let high = tensors.length
  while (low < high) {
    const middle = (low + high) >>> 1
    if (tensors[middle]!.end <= offset) low = middle + 1
    else high = middle
  }
  return low
}
