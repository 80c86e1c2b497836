/** Of one stream, at most so many are made before they are asked for, and no more than have been: many streams end soon. */
const MAX_WINDOW = 3
/** Milliseconds after which a stream that has not asked for what was made stands still. */
const STALLED_MS = 1000

/** What is made before it is asked for. */
interface Prefetched {
  begin(): void
  waitsFor(ms: number): boolean
  drop(): void
}

/** Something that a stream will be asked for: it is made before, or then. */
export class PrefetchItem<T> implements Prefetched {
  readonly #make: () => Promise<T>
  readonly #discard: (made: T) => void
  #made: Promise<T> | null = null
  #madeAt = Number.POSITIVE_INFINITY

  /** `discard` is given what was made and not taken. */
  constructor(make: () => Promise<T>, discard: (made: T) => void) {
    this.#make = make
    this.#discard = discard
  }

  /** Begins to make it. Never throws: how that fails is told to who takes it. */
  begin(): void {
    this.#made = this.#make()
    // Its turn may come after another failure ended the stream: the rejection must not count as unhandled.
    const done = () => {
      this.#madeAt = performance.now()
    }
    this.#made.then(done, done)
  }

  /** What was made, or is made now. Rejects with what making it does. */
  take(): Promise<T> {
    return this.#made ?? this.#make()
  }

  /** True if it was made so many milliseconds ago, and nobody has taken it. */
  waitsFor(ms: number): boolean {
    return performance.now() - this.#madeAt >= ms
  }

  /** Gives up what was made: it is made again when it is asked for. */
  drop(): void {
    this.#made?.then(this.#discard, () => {})
    this.#made = null
    this.#madeAt = Number.POSITIVE_INFINITY
  }
}

/**
 * Bounds what all streams together have made before they are asked for. A stream that stands still gives its places up to one that needs
 * them.
 */
export class PrefetchBudget {
  readonly #most: number
  readonly #stalledMs: number
  /** Those that were begun first come first. */
  readonly #begun = new Set<Prefetched>()

  /** At most `most` items; a stream stands still that has not asked for what was made for `stalledMs` milliseconds. */
  constructor(most: number, stalledMs = STALLED_MS) {
    this.#most = most
    this.#stalledMs = stalledMs
  }

  /** Begins to make an item if there is a place for it. */
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

/** The items of one stream in order, some of them made before they are asked for. */
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

  /** What the next item makes, null at the end. Rejects with what making it does. */
  async next(): Promise<T | null> {
    const item = this.#waiting.shift() ?? this.#advance()
    if (!item) return null
    this.#budget.leave(item)
    const made = item.take()
    // What follows may fail before it is waited for.
    made.catch(() => {})
    this.#asked++
    while (this.#waiting.length < Math.min(MAX_WINDOW, this.#asked) && this.#following) {
      if (!this.#budget.tryBegin(this.#following)) break
      this.#waiting.push(this.#following)
      this.#following = this.#pull()
    }
    return await made
  }

  /** Frees what was made and will not be asked for. */
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
