/** Times of publications: each later than all before it, so that their order can be told from the times alone. */
export class Clock {
  #last: number

  /** `after`: the latest time that was given out before, ISO 8601; null where there is none. */
  constructor(after: string | null) {
    this.#last = after === null ? 0 : Date.parse(after)
  }

  /** Now in ISO 8601, or a millisecond after the last one. */
  next(): string {
    this.#last = Math.max(this.#last + 1, Date.now())
    return new Date(this.#last).toISOString()
  }
}
