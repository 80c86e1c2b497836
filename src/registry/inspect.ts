import {
  type DeltaTensor,
  deltaTensorBytes,
  type LosslessIndex,
  losslessStorage,
} from '../codec/index.ts'
import { RegistryError } from '../errors.ts'
import type { OpenedModel } from './opened-models.ts'
import type { InspectedTensor, Inspection } from './registry.ts'

/** What a delta holds, tensor by tensor, from its index. Rejects `not-a-delta` for a base. */
export function inspectModel(model: OpenedModel): Inspection {
  const { record, manifest } = model
  const { delta } = manifest
  if (!delta) throw new RegistryError('not-a-delta', `model ${record.id} is a base`)
  const { index } = delta
  const { format, strategy, parentHash } = index
  const shown = { id: record.id, format, strategy, parentHash, storedSize: record.storedSize }
  return index.format === 2
    ? { ...shown, parentIdentity: index.parentIdentity, ...inspectLossless(index) }
    : { ...shown, tensors: index.tensors.map(tensor => inspectTensor(model, tensor)) }
}

function inspectTensor({ manifest, recipes }: OpenedModel, tensor: DeltaTensor): InspectedTensor {
  const { name, shape, strategy, nonFinite } = tensor
  return {
    name,
    shape,
    dtype: recipes.get(name)!.dtype,
    strategy,
    storedBytes: deltaTensorBytes(tensor),
    error: manifest.delta?.errors?.get(name) ?? null,
    nonFinite,
  }
}

function inspectLossless(index: LosslessIndex): Pick<Inspection, 'tensors' | 'encodings'> {
  const { encodings, tensors } = losslessStorage(index)
  return {
    encodings,
    tensors: tensors.map(({ tensor, ...storage }) => ({
      name: tensor.name,
      shape: tensor.shape,
      dtype: tensor.dtype,
      strategy: 'lossless',
      source: tensor.source?.name ?? null,
      ...storage,
      error: null,
      nonFinite: 0,
    })),
  }
}
