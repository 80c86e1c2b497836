import type { ArrayRange, DeltaTensor } from '../codec/index.ts'
import { RegistryError } from '../errors.ts'
import type { OpenedModel } from './opened-models.ts'
import type { Inspection } from './registry.ts'

/** What a delta holds, tensor by tensor, from its index. Rejects `not-a-delta` for a base. */
export function inspectModel({ record, manifest, recipes }: OpenedModel): Inspection {
  const { delta } = manifest
  if (!delta) throw new RegistryError('not-a-delta', `model ${record.id} is a base`)
  const { index, errors } = delta
  return {
    id: record.id,
    format: index.format,
    strategy: index.strategy,
    parentHash: index.parentHash,
    storedSize: record.storedSize,
    tensors: index.tensors.map(tensor => ({
      name: tensor.name,
      shape: tensor.shape,
      dtype: recipes.get(tensor.name)!.dtype,
      strategy: tensor.strategy,
      storedBytes: arrayBytes(tensor),
      error: errors?.get(tensor.name) ?? null,
      nonFinite: tensor.nonFinite,
    })),
  }
}

/** Bytes of a tensor's arrays in the `.wdelta`, without their record headers. */
function arrayBytes(tensor: DeltaTensor): number {
  return arraysOf(tensor).reduce((sum, { start, end }) => sum + end - start, 0)
}

function arraysOf(tensor: DeltaTensor): ArrayRange[] {
  switch (tensor.strategy) {
    case 'int4':
      return [tensor.outlierIdx, tensor.outlierVals, tensor.packed]
    case 'sparse':
      return [tensor.indices, tensor.values]
    case 'quantized':
      return [tensor.scales, tensor.packedSigns]
  }
}
