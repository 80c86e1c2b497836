import type { LayoutTensor } from '../../../src/codec/safetensors/layout.ts'
import { buildLayout, type DescribedTensor } from '../../../src/codec/safetensors/write-header.ts'

/** A tensor and its bytes. */
export interface FilledTensor extends DescribedTensor {
  readonly data: Uint8Array
}

/** A safetensors file of these tensors. */
export function modelFile(
  tensors: readonly FilledTensor[],
  metadata: ReadonlyMap<string, string> | null = null,
): Buffer<ArrayBuffer> {
  const data = new Map(tensors.map(tensor => [tensor.name, tensor.data]))
  return modelFileOf(tensors, ({ name }) => data.get(name)!, metadata)
}

/** A safetensors file of these tensors; `data` makes the bytes of each, in the order of the file. */
export function modelFileOf(
  tensors: readonly DescribedTensor[],
  data: (tensor: LayoutTensor) => Uint8Array,
  metadata: ReadonlyMap<string, string> | null = null,
): Buffer<ArrayBuffer> {
  const layout = buildLayout(tensors, metadata)
  const file = Buffer.alloc(layout.size)
  file.set(layout.header)
  for (const tensor of layout.tensors) file.set(data(tensor), tensor.begin)
  return file
}
