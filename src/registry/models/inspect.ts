import { STEP_ITEMS, type Steps } from '../../codec/base/steps.ts'
import { storedBytes } from '../../codec/plan/plan.ts'
import {
  type FrameDelta,
  type RecordTensor,
  recordTensorBytes,
} from '../../codec/wdelta/delta-index.ts'
import { frameStorageSteps } from '../../codec/wdelta/v2/storage.ts'
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
  if (index.frames) {
    const storage = yield* inspectFrames(index)
    return { ...shown, parentIdentity: index.parentIdentity, ...storage }
  }
  const tensors: InspectedTensor[] = []
  for (const tensor of index.tensors) {
    if (tensors.length % STEP_ITEMS === 0) yield
    tensors.push(inspectTensor(model, tensor))
  }
  return { ...shown, tensors }
}

function inspectTensor({ manifest, recipes }: OpenedModel, tensor: RecordTensor): InspectedTensor {
  const { name, shape, strategy, nonFinite } = tensor
  return {
    name,
    shape,
    dtype: recipes.get(name)!.dtype,
    strategy,
    storedBytes: recordTensorBytes(tensor),
    error: manifest.delta?.errors?.get(name) ?? null,
    nonFinite,
  }
}

function* inspectFrames(index: FrameDelta): Steps<Pick<Inspection, 'tensors' | 'encodings'>> {
  const { encodings, tensors: stored } = yield* frameStorageSteps(index)
  const tensors: InspectedTensor[] = []
  for (const { tensor, ...storage } of stored) {
    if (tensors.length % STEP_ITEMS === 0) yield
    tensors.push({
      name: tensor.name,
      shape: tensor.shape,
      dtype: tensor.dtype,
      strategy: index.strategy,
      source: tensor.source?.name ?? null,
      ...storage,
      error: null,
      nonFinite: 0,
    })
  }
  return { encodings, tensors }
}
