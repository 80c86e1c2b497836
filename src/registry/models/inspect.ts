import { STEP_ITEMS, type Steps } from '../../codec/base/steps.ts'
import { storedBytes } from '../../codec/plan/plan.ts'
import {
  type DeltaTensor,
  deltaTensorBytes,
  type LosslessIndex,
} from '../../codec/wdelta/delta-index.ts'
import { losslessStorageSteps } from '../../codec/wdelta/v2/storage.ts'
import { RegistryError } from '../../errors.ts'
import type { InspectedTensor, Inspection, TensorInfo } from '../registry.ts'
import type { OpenedModel } from './opened-models.ts'

/** Names, dtypes, shapes and sizes of a model's tensors. */
export function* listTensors({ recipes }: OpenedModel): Steps<TensorInfo[]> {
  const tensors: TensorInfo[] = []
  for (const recipe of recipes.values()) {
    if (tensors.length % STEP_ITEMS === 0) yield
    const { name, dtype, shape } = recipe
    tensors.push({ name, dtype, shape, size: storedBytes(recipe) })
  }
  return tensors
}

/** What a delta holds, tensor by tensor, from its index. @throws RegistryError `not-a-delta` for a base */
export function* inspectModel(model: OpenedModel): Steps<Inspection> {
  const { record, manifest } = model
  const { delta } = manifest
  if (!delta) throw new RegistryError('not-a-delta', `model ${record.id} is a base`)
  const { index } = delta
  const { format, strategy, parentHash } = index
  const shown = { id: record.id, format, strategy, parentHash, storedSize: record.storedSize }
  if (index.format === 2) {
    const storage = yield* inspectLossless(index)
    return { ...shown, parentIdentity: index.parentIdentity, ...storage }
  }
  const tensors: InspectedTensor[] = []
  for (const tensor of index.tensors) {
    if (tensors.length % STEP_ITEMS === 0) yield
    tensors.push(inspectTensor(model, tensor))
  }
  return { ...shown, tensors }
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

function* inspectLossless(index: LosslessIndex): Steps<Pick<Inspection, 'tensors' | 'encodings'>> {
  const { encodings, tensors: stored } = yield* losslessStorageSteps(index)
  const tensors: InspectedTensor[] = []
  for (const { tensor, ...storage } of stored) {
    if (tensors.length % STEP_ITEMS === 0) yield
    tensors.push({
      name: tensor.name,
      shape: tensor.shape,
      dtype: tensor.dtype,
      strategy: 'lossless',
      source: tensor.source?.name ?? null,
      ...storage,
      error: null,
      nonFinite: 0,
    })
  }
  return { encodings, tensors }
}
