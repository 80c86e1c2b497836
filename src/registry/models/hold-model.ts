import type { Catalog } from '../../catalog/catalog.ts'
import { RegistryError } from '../../errors.ts'
import type { Pins } from '../holds/pins.ts'
import type { OpenedModel } from './opened-models.ts'

/**
 * Keeps what a model is read from until that is disposed of, also if the model is deleted meanwhile. Pinned first, then seen to be there, so
 * that no sweep can slip between. Rejects `model-not-found` for one that was deleted.
 */
export async function holdModel(
  { catalog, pins }: { catalog: Catalog; pins: Pins },
  { record: { id }, sums }: OpenedModel,
): Promise<Disposable> {
  using held = new DisposableStack()
  held.use(pins.hold(sums.keys()))
  if (await catalog.hasModel(id)) return held.move()
  throw new RegistryError('model-not-found', `model ${id} was deleted`)
}
