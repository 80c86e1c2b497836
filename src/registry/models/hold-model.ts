import type { Catalog } from '../../catalog/catalog.ts'
import { RegistryError } from '../../errors.ts'
import type { Pins } from '../holds/holds.ts'
import type { Content } from '../registry.ts'
import type { OpenedModel, OpenedModels } from './opened-models.ts'

/**
 * Keeps the blobs of a model until the result is disposed of, even if the model is deleted meanwhile. They are pinned first, and the model is looked
 * up after that, so that no sweep comes in between. Rejects `model-not-found` for a deleted model.
 */
export async function holdModel(
  { catalog, pins }: { catalog: Catalog; pins: Pins },
  { record: { id }, sums }: OpenedModel,
): Promise<AsyncDisposable> {
  await using held = new AsyncDisposableStack()
  held.use(await pins.hold(sums.keys()))
  if (await catalog.hasModel(id)) return held.move()
  throw new RegistryError('model-not-found', `model ${id} was deleted`)
}

/** A content whose blobs stay until they have been read, even if the model is deleted meanwhile. */
export function pinnedContent<T extends Content>(
  stores: { catalog: Catalog; pins: Pins; models: OpenedModels },
  model: OpenedModel,
  content: T,
): T {
  return {
    ...content,
    async *open(range, signal) {
      using _open = stores.models.hold(model)
      await using _held = await holdModel(stores, model)
      yield* content.open(range, signal)
    },
  }
}
