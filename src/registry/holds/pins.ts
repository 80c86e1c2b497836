import type { Catalog } from '../../catalog/catalog.ts'
import { RegistryError } from '../../errors.ts'
import type { OpenedModel } from '../models/opened-models.ts'

/** Keys that a publication or a download under way needs: whether or not a row refers to them, the sweep must leave them alone. */
export class Pins {
  readonly #counts = new Map<string, number>()

  /** Pins `keys` until it is disposed of. */
  hold(keys: Iterable<string>): Disposable {
    const held = [...keys]
    for (const key of held) this.#counts.set(key, (this.#counts.get(key) ?? 0) + 1)
    return {
      [Symbol.dispose]: () => {
        for (const key of held) this.#remove(key)
      },
    }
  }

  has(key: string): boolean {
    return this.#counts.has(key)
  }

  #remove(key: string): void {
    const count = this.#counts.get(key)!
    if (count > 1) this.#counts.set(key, count - 1)
    else this.#counts.delete(key)
  }
}

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
