/** Numbers from a seed, by 32-bit integer arithmetic alone: the same everywhere. Source: Tommy Ettinger's mulberry32. */
export class Random {
  #state: number

  constructor(seed: number) {
    this.#state = Math.imul(seed + 1, 0x9e3779b1)
  }

  /** The numbers that follow a state of mulberry32 itself: for suites that need just these to meet every case. */
  static fromState(state: number): Random {
    const random = new Random(0)
    random.#state = state
    return random
  }

  /** 32 random bits as an unsigned integer. */
  next(): number {
    this.#state = (this.#state + 0x6d2b79f5) | 0
    let t = this.#state
    t = Math.imul(t ^ (t >>> 15), t | 1)
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61)
    return (t ^ (t >>> 14)) >>> 0
  }

  /** A multiple of 2^-32 from 0 to below 1. */
  float(): number {
    return this.next() / 2 ** 32
  }

  /** An integer from 0 to below `limit` (1 to 2^32). */
  below(limit: number): number {
    return this.next() % limit
  }

  /** True `percent` times in a hundred. */
  chance(percent: number): boolean {
    return this.below(100) < percent
  }

  /** One of a list that is not empty. */
  pick<T>(list: readonly T[]): T {
    return list[this.below(list.length)]!
  }

  shuffled<T>(list: readonly T[]): T[] {
    const result = [...list]
    for (let i = result.length - 1; i > 0; i--) {
      const j = this.below(i + 1)
      const other = result[j]!
      result[j] = result[i]!
      result[i] = other
    }
    return result
  }

  bytes(length: number): Uint8Array {
    const words = new Uint8Array(Math.ceil(length / 4) * 4)
    const view = new DataView(words.buffer)
    for (let at = 0; at < words.length; at += 4) view.setUint32(at, this.next(), true)
    return words.subarray(0, length)
  }
}

/**
 * Numbers from 0 to below 1 of a 32-bit SplitMix. Models of benchmarks and of the interop suites are made of these, and their figures are compared
 * from one version to the next: everything else takes {@link Random}.
 */
export function splitMix(seed: number): () => number {
  let state = Math.imul(seed, 0x9e3779b1) >>> 0
  return () => {
    state = (state + 0x9e3779b9) >>> 0
    const z = Math.imul(state ^ (state >>> 16), 0x21f0aaad)
    const y = Math.imul(z ^ (z >>> 15), 0x735a2d97)
    return ((y ^ (y >>> 15)) >>> 0) / 2 ** 32
  }
}
