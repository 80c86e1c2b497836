import type { BadBlobs, Clock, Holds, Locks, Pins } from './holds.ts'

/**
 * What must hold across requests, for a registry that is one process. `newest` is asked once, at the first publication, for the time of
 * the newest one before, ISO 8601, null where there is none; `bad`: keys of blobs that the catalog has marked.
 */
export function processHolds({
  newest,
  bad,
}: {
  readonly newest: () => Promise<string | null>
  readonly bad: Iterable<string>
}): Holds {
  return {
    pins: new ProcessPins(),
    locks: new ProcessLocks(),
    clock: new ProcessClock(newest),
    badBlobs: new ProcessBadBlobs(bad),
  }
}

class ProcessPins implements Pins {
  readonly #counts = new Map<string, number>()

  async hold(keys: Iterable<string>): Promise<AsyncDisposable> {
    const held = [...keys]
    for (const key of held) this.#counts.set(key, (this.#counts.get(key) ?? 0) + 1)
    return {
      [Symbol.asyncDispose]: async () => {
        for (const key of held) this.#remove(key)
      },
    }
  }

  async has(key: string): Promise<boolean> {
    return this.#counts.has(key)
  }

  #remove(key: string): void {
    const count = this.#counts.get(key)!
    if (count > 1) this.#counts.set(key, count - 1)
    else this.#counts.delete(key)
  }
}

class ProcessLocks implements Locks {
  readonly #last = new Map<string, Promise<void>>()

  async acquire(subject: string): Promise<AsyncDisposable> {
    const before = this.#last.get(subject)
    const { promise, resolve } = Promise.withResolvers<void>()
    this.#last.set(subject, promise)
    await before
    return {
      [Symbol.asyncDispose]: async () => {
        if (this.#last.get(subject) === promise) this.#last.delete(subject)
        resolve()
      },
    }
  }
}

class ProcessClock implements Clock {
  readonly #newest: () => Promise<string | null>
  /** Milliseconds; null before the first publication. */
  #last: number | null = null

  constructor(newest: () => Promise<string | null>) {
    this.#newest = newest
  }

  async next(): Promise<string> {
    if (this.#last === null) {
      const newest = await this.#newest()
      // Another publication may have asked as well.
      this.#last ??= newest === null ? 0 : Date.parse(newest)
    }
    this.#last = Math.max(this.#last + 1, Date.now())
    return new Date(this.#last).toISOString()
  }
}

class ProcessBadBlobs implements BadBlobs {
  readonly #bad: Set<string>
  readonly #copies = new Map<string, string>()

  constructor(bad: Iterable<string>) {
    this.#bad = new Set(bad)
  }

  standIn(key: string): string {
    return this.#copies.get(key) ?? key
  }

  async mark(key: string): Promise<void> {
    this.#bad.add(key)
  }

  async replace(key: string, copy: string | null): Promise<void> {
    if (copy === null) this.#copies.delete(key)
    else this.#copies.set(key, copy)
  }

  async has(key: string): Promise<boolean> {
    return this.#bad.has(key)
  }

  async clear(key: string): Promise<void> {
    this.#bad.delete(key)
    this.#copies.delete(key)
  }
}
