/** Strings that were read before, found by their bytes. The keys and dtypes of a header come once per tensor, and decoding is slow. */
export class SeenStrings {
  readonly #bytes: Uint8Array
  readonly #slots: ({ start: number; text: string } | undefined)[] = Array(SEEN_SLOTS)

  constructor(bytes: Uint8Array) {
    this.#bytes = bytes
  }

  /** The text of the ASCII bytes `[start, end)`, if equal bytes are remembered. */
  find(hash: number, start: number, end: number): string | undefined {
    const slot = this.#slots[hash & (SEEN_SLOTS - 1)]
    if (slot?.text.length !== end - start) return undefined
    for (let i = 0; i < end - start; i++) {
      if (this.#bytes[slot.start + i] !== this.#bytes[start + i]) return undefined
    }
    return slot.text
  }

  add(hash: number, start: number, text: string): void {
    this.#slots[hash & (SEEN_SLOTS - 1)] = { start, text }
  }
}

/** Bytes of the longest string that is remembered. */
export const SEEN_BYTES = 16

/** Strings that are remembered; a power of two. */
const SEEN_SLOTS = 64
