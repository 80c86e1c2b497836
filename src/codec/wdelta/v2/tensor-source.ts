import { DTYPE_BITS, isDtype, isFloat } from '../../base/dtypes.ts'
import { namedTensor } from '../../base/errors.ts'
import { LIMITS } from '../../base/limits.ts'
import { checkName } from '../../base/utf8.ts'
import type { FrameTensor, TensorSource } from '../delta-index.ts'
import { refuse } from '../refuse.ts'
import type { ByteReader, ByteWriter } from './bytes.ts'

/** The kinds of a source in an index: see `FORMAT.md`. */
const NO_SOURCE = 0
const SAME_NAME = 1
const OTHER_NAME = 2

/** True if a tensor of the parent can predict one: frames of both begin at the same elements, and its values can be cast. */
export function canPredict(
  source: Pick<TensorSource, 'dtype' | 'shape'>,
  tensor: Pick<FrameTensor, 'dtype' | 'shape'>,
): boolean {
  const alike = source.dtype === tensor.dtype || (isFloat(source.dtype) && isFloat(tensor.dtype))
  if (!alike || source.shape.length !== tensor.shape.length) return false
  return source.shape.every((dimension, i) => i === 0 || dimension === tensor.shape[i])
}

/** Writes the source of the tensor `name`. */
export function writeSource(out: ByteWriter, name: string, source: TensorSource | null): void {
  out.u8(source === null ? NO_SOURCE : source.name === name ? SAME_NAME : OTHER_NAME)
  if (source === null) return
  out.text8(source.dtype)
  out.u8(source.shape.length)
  for (const dimension of source.shape) out.u64(dimension)
  if (source.name !== name) out.text16(source.name)
}

/** Reads the source of the tensor `name`. @throws CodecError `source`, `name`, `index` */
export function readSource(input: ByteReader, name: string): TensorSource | null {
  const kind = input.u8()
  if (kind === NO_SOURCE) return null
  if (kind !== SAME_NAME && kind !== OTHER_NAME) {
    refuse('source', `${namedTensor(name)}: expected a source of kind 0, 1 or 2, got ${kind}`)
  }
  const dtype = input.text(input.u8())
  if (!isDtype(dtype))
    return refuse('source', `${namedTensor(name)}: no dtype ${JSON.stringify(dtype)}`)
  const rank = input.u8()
  if (rank > LIMITS.rank) refuse('source', `${namedTensor(name)}: a source of ${rank} dimensions`)
  const shape = Array.from({ length: rank }, () => input.u64())
  const other = kind === SAME_NAME ? name : input.text(input.u16())
  if (kind === OTHER_NAME) {
    checkName('delta', other, null)
    if (other === name)
      refuse('source', `${namedTensor(name)}: a source of another name has the same`)
  }
  return { name: other, dtype, shape }
}

/** Refuses a source that cannot predict a tensor, or is too large to be one. @throws CodecError `source` */
export function checkSource(tensor: FrameTensor, source: TensorSource): void {
  if (!canPredict(source, tensor)) {
    const came = `${source.dtype} [${source.shape}] for ${tensor.dtype} [${tensor.shape}]`
    refuse('source', `${namedTensor(tensor.name)}: a source cannot be ${came}`)
  }
  let bits = DTYPE_BITS[source.dtype]
  for (const dimension of source.shape) {
    bits *= dimension
    // A source of another first dimension may be larger than its tensor, but no tensor is as large as this.
    if (bits > LIMITS.elements * 64)
      refuse('source', `${namedTensor(tensor.name)}: a source too large`)
  }
  if (bits % 8 !== 0)
    refuse('source', `${namedTensor(tensor.name)}: a source that is no whole bytes`)
}
