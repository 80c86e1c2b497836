/**
 * One lock per subject. Of several publications of the same content, one commits it and the others find it, so that content is stored once;
 * of several to the same revision, one after the other gets its time and its row.
 */
export class KeyedLocks {
  readonly #last = new Map<string, Promise<void>>()

  /** Waits for the subject's turn, which lasts until it is disposed of: for as long as nothing else is waited for than the store and the catalog. */
  async acquire(subject: string): Promise<Disposable> {
    const before = this.#last.get(subject)
    const { promise, resolve } = Promise.withResolvers<void>()
    this.#last.set(subject, promise)
    await before
    return {
      [Symbol.dispose]: () => {
        if (this.#last.get(subject) === promise) this.#last.delete(subject)
        resolve()
      },
    }
  }
}
