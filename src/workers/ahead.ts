/** Of one stream, at most so many are made before they are asked for, and no more than have been: many streams end soon. */
const WINDOW = 3
/** Milliseconds after which a stream that has not asked for what was made stands still. */
const STILL_MS = 1000

/** What is made before it is asked for. */
interface Made {
  begin(): void
  waitsFor(ms: number): boolean
  drop(): void
}

/** Something that a stream will be asked for: it is made before, or then. */
export class Item<T> implements Made {
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
export class Ahead {
  readonly #most: number
  readonly #stillMs: number
  /** Those that were begun first come first. */
  readonly #begun = new Set<Made>()

  /** At most `most` items; a stream stands still that has not asked for what was made for `stillMs` milliseconds. */
  constructor(most: number, stillMs = STILL_MS) {
    this.#most = most
    this.#stillMs = stillMs
  }

  /** Begins to make an item if there is a place for it. */
  tryBegin(item: Made): boolean {
    if (this.#begun.size >= this.#most && !this.#dropOne()) return false
    this.#begun.add(item)
    item.begin()
    return true
  }

  /** Frees the place of an item, if it has one. */
  leave(item: Made): void {
    this.#begun.delete(item)
  }

  #dropOne(): boolean {
    for (const item of this.#begun) {
      if (!item.waitsFor(this.#stillMs)) continue
      item.drop()
      this.#begun.delete(item)
      return true
    }
    return false
  }
}

/** The items of one stream in order, some of them made before they are asked for. */
export class Window<T> {
  readonly #items: Iterator<Item<T>>
  readonly #ahead: Ahead
  readonly #waiting: Item<T>[] = []
  #following: Item<T> | null
  #asked = 0

  constructor(items: Iterable<Item<T>>, ahead: Ahead) {
    this.#items = items[Symbol.iterator]()
    this.#ahead = ahead
    this.#following = this.#pull()
  }

  /** What the next item makes, null at the end. Rejects with what making it does. */
  async next(): Promise<T | null> {
    const item = this.#waiting.shift() ?? this.#advance()
    if (!item) return null
    this.#ahead.leave(item)
    const made = item.take()
    // What follows may fail before it is waited for.
    made.catch(() => {})
    this.#asked++
    while (this.#waiting.length < Math.min(WINDOW, this.#asked) && this.#following) {
      if (!this.#ahead.tryBegin(this.#following)) break
      this.#waiting.push(this.#following)
      this.#following = this.#pull()
    }
    return await made
  }

  /** Frees what was made and will not be asked for. */
  close(): void {
    for (const item of this.#waiting.splice(0)) {
      this.#ahead.leave(item)
      item.drop()
    }
  }

  #advance(): Item<T> | null {
    const item = this.#following
    this.#following = this.#pull()
    return item
  }

  #pull(): Item<T> | null {
    const { value, done } = this.#items.next()
    return done ? null : value
  }
}
