import { DTYPE_BITS, dtypeRank, elementCount } from '../base/dtypes.ts'
import { LIMITS } from '../base/limits.ts'
import { sortSteps } from '../base/sort.ts'
import { complete, STEP_ITEMS, type Steps } from '../base/steps.ts'
import { compareUtf8, utf8 } from '../base/utf8.ts'
import { ALIGNMENT, LENGTH_BYTES, METADATA, refuse } from './header.ts'
import type { Layout, LayoutTensor } from './layout.ts'

/** The JSON of a header in pieces, each of STEP_ITEMS members. */
function* headerTexts(
  tensors: readonly DescribedTensor[],
  metadata: ReadonlyMap<string, string> | null,
): Generator<string> {
  yield '{'
  let separator = ''
  if (metadata) {
    const pairs = [...metadata].map(
      ([key, value]) => `${JSON.stringify(key)}:${JSON.stringify(value)}`,
    )
    yield `"${METADATA}":{${pairs}}`
    separator = ','
  }
  let begin = 0
  for (let i = 0; i < tensors.length; i += STEP_ITEMS) {
    const members = tensors.slice(i, i + STEP_ITEMS).map(tensor => {
      const { name, dtype, shape } = tensor
      const offsets = [begin, begin + dataBytes(tensor)]
      begin = offsets[1]!
      return `${JSON.stringify(name)}:{"dtype":"${dtype}","shape":[${shape}],"data_offsets":[${offsets}]}`
    })
    yield `${separator}${members}`
    separator = ','
  }
  yield '}'
}

/** Length word and header of tensors whose data lies in this order, without holes. */
function* writeHeader(
  tensors: readonly DescribedTensor[],
  metadata: ReadonlyMap<string, string> | null,
): Steps<Uint8Array> {
  const parts: Uint8Array[] = []
  let length = 0
  for (const part of headerTexts(tensors, metadata)) {
    const bytes = utf8(part)
    parts.push(bytes)
    length += bytes.length
    yield
  }
  const padded = Math.ceil(length / ALIGNMENT) * ALIGNMENT
  if (padded > LIMITS.headerBytes) {
    refuse(
      'header-too-large',
      `expected a header of at most ${LIMITS.headerBytes} bytes, got ${padded}`,
      null,
    )
  }
  const header = new Uint8Array(LENGTH_BYTES + padded).fill(0x20)
  new DataView(header.buffer).setBigUint64(0, BigInt(padded), true)
  let at = LENGTH_BYTES
  for (const part of parts) {
    header.set(part, at)
    at += part.length
  }
  return header
}

/** A tensor that a layout is built from. */
export type DescribedTensor = Pick<LayoutTensor, 'name' | 'dtype' | 'shape'>

/** Bytes of a tensor's data. */
export function dataBytes({ dtype, shape }: DescribedTensor): number {
  return (elementCount(shape) * DTYPE_BITS[dtype]) / 8
}

/** {@link buildLayout} in steps. */
export function* buildLayoutSteps(
  tensors: Iterable<DescribedTensor>,
  metadata: ReadonlyMap<string, string> | null,
): Steps<Layout> {
  const sorted = yield* sortSteps(
    tensors,
    (a, b) => dtypeRank(b.dtype) - dtypeRank(a.dtype) || compareUtf8(a.name, b.name),
  )
  const header = yield* writeHeader(sorted, metadata)
  const placed: LayoutTensor[] = []
  let at = header.length
  for (const tensor of sorted) {
    if (placed.length % STEP_ITEMS === 0) yield
    const { name, dtype, shape } = tensor
    const begin = at
    at += dataBytes(tensor)
    placed.push({ name, dtype, shape, begin, end: at })
  }
  return { header, metadata, size: at, tensors: placed }
}

/**
 * The layout that the reference's writer gives these tensors: by dtype, widest alignment first, then by name; data without
 * holes; compact JSON, `__metadata__` first, padded with spaces to a multiple of 8.
 * @throws CodecError `header-too-large`
 */
export function buildLayout(
  tensors: Iterable<DescribedTensor>,
  metadata: ReadonlyMap<string, string> | null,
): Layout {
  return complete(buildLayoutSteps(tensors, metadata))
}
