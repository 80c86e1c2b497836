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
