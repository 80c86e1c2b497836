/** Most items of one stream that are made ahead. The window begins at one and grows with every item taken, because many streams end soon. */
const MAX_WINDOW = 3
/** Milliseconds for which a made item waits until its stream counts as stalled. */
const STALLED_MS = 1000

/** An item of any stream, as the budget sees it. */
interface Prefetched {
  begin(): void
  waitsFor(ms: number): boolean
  drop(): void
}

/** An item of a stream, which is made ahead or when it is asked for. */
export class PrefetchItem<T> implements Prefetched {
  readonly #make: () => Promise<T>
  readonly #discard: (made: T) => void
  #made: Promise<T> | null = null
  #madeAt = Number.POSITIVE_INFINITY

  /** `make` makes the item; `discard` gets it back if it is made and not taken. */
  constructor(make: () => Promise<T>, discard: (made: T) => void) {
    this.#make = make
    this.#discard = discard
  }

  /** Begins to make the item. Never throws: a failure is given to the taker. */
  begin(): void {
    this.#made = this.#make()
    // If another failure ends the stream first, nobody awaits this one: it must not count as unhandled.
    const done = () => {
      this.#madeAt = performance.now()
    }
    this.#made.then(done, done)
  }

  /** The item, which is made now if it was not made ahead. Rejects with what `make` does. */
  take(): Promise<T> {
    return this.#made ?? this.#make()
  }

  /** True if the item was made at least `ms` milliseconds ago and is not taken. */
  waitsFor(ms: number): boolean {
    return performance.now() - this.#madeAt >= ms
  }

  /** Discards the item; it is made again when it is asked for. */
  drop(): void {
    this.#made?.then(this.#discard, () => {})
    this.#made = null
    this.#madeAt = Number.POSITIVE_INFINITY
  }
}

/** Bounds the items that all streams together have made ahead. A stalled stream loses its places to streams that need them. */
export class PrefetchBudget {
  readonly #most: number
  readonly #stalledMs: number
  /** Items that were begun, the oldest first. */
  readonly #begun = new Set<Prefetched>()

  /** `most`: items at once. `stalledMs`: milliseconds for which a made item waits until its stream counts as stalled. */
  constructor(most: number, stalledMs = STALLED_MS) {
    this.#most = most
    this.#stalledMs = stalledMs
  }

  /** Begins to make an item if there is a place for it, and says if there was. */
  tryBegin(item: Prefetched): boolean {
    if (this.#begun.size >= this.#most && !this.#dropOne()) return false
    this.#begun.add(item)
    item.begin()
    return true
  }

  /** Frees the place of an item, if it has one. */
  leave(item: Prefetched): void {
    this.#begun.delete(item)
  }

  #dropOne(): boolean {
    for (const item of this.#begun) {
      if (!item.waitsFor(this.#stalledMs)) continue
      item.drop()
      this.#begun.delete(item)
      return true
    }
    return false
  }
}

/** The items of one stream in order, some of them made ahead. The window grows by one with every item taken, up to MAX_WINDOW. */
export class Prefetcher<T> {
  readonly #items: Iterator<PrefetchItem<T>>
  readonly #budget: PrefetchBudget
  readonly #waiting: PrefetchItem<T>[] = []
  #following: PrefetchItem<T> | null
  #asked = 0

  constructor(items: Iterable<PrefetchItem<T>>, budget: PrefetchBudget) {
    this.#items = items[Symbol.iterator]()
    this.#budget = budget
    this.#following = this.#pull()
  }

  /** The next item; null at the end. Rejects with what making it does. */
  async next(): Promise<T | null> {
    const item = this.#waiting.shift() ?? this.#advance()
    if (!item) return null
    this.#budget.leave(item)
    const made = item.take()
    // It is awaited at the end: it may have failed before.
    made.catch(() => {})
    this.#asked++
    while (this.#waiting.length < Math.min(MAX_WINDOW, this.#asked) && this.#following) {
      if (!this.#budget.tryBegin(this.#following)) break
      this.#waiting.push(this.#following)
      this.#following = this.#pull()
    }
    return await made
  }

  /** Discards the items that were made ahead. */
  close(): void {
    for (const item of this.#waiting.splice(0)) {
      this.#budget.leave(item)
      item.drop()
    }
  }

  #advance(): PrefetchItem<T> | null {
    const item = this.#following
    this.#following = this.#pull()
    return item
  }

  #pull(): PrefetchItem<T> | null {
    const { value, done } = this.#items.next()
    return done ? null : value
  }
}
