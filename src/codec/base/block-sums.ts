import type { ByteRange } from './ranges.ts'

/** Bytes of a block, the unit in which stored bytes are read and checked: long enough for checksums to cost nothing, short enough to read in full. */
export const BLOCK_BYTES = 65_536

/** What the bytes of a blob are checked against: its size, and the xxh64 of each of its blocks. The last block may be shorter. */
export interface BlockSums {
  readonly size: number
  readonly sums: BigUint64Array
}

/** Whole blocks of a blob, bytes `[start, end)`, and their checksums. Plain data: it crosses to a worker as it is. */
export interface CheckedBlocks extends ByteRange {
  readonly sums: BigUint64Array
}

/** The blocks that cover bytes `[start, end)` of a blob; none for an empty range. */
export function coveringBlocks(
  { size, sums }: BlockSums,
  start: number,
  end: number,
): CheckedBlocks {
  if (start >= end) return { start, end: start, sums: new BigUint64Array(0) }
  const first = Math.floor(start / BLOCK_BYTES)
  const last = Math.ceil(end / BLOCK_BYTES)
  return {
    start: first * BLOCK_BYTES,
    end: Math.min(last * BLOCK_BYTES, size),
    // A copy: a view would take the whole list with it to another thread.
    sums: sums.slice(first, last),
  }
}

/** Where the blocks begin, as offsets in the blob, whose bytes do not have their checksum. */
export function* badBlocks(
  checksum: (bytes: Uint8Array) => bigint,
  bytes: Uint8Array,
  { start, sums }: CheckedBlocks,
): Generator<number> {
  for (let i = 0; i < sums.length; i++) {
    const at = i * BLOCK_BYTES
    if (checksum(bytes.subarray(at, at + BLOCK_BYTES)) !== sums[i]) yield start + at
  }
}

/** Takes the checksums of a blob's blocks while its bytes pass, in pieces of any size. */
export class BlockSummer {
  readonly #checksum: (bytes: Uint8Array) => bigint
  readonly #open = new Uint8Array(BLOCK_BYTES)
  #filled = 0
  #size = 0
  readonly #sums: bigint[] = []

  constructor(checksum: (bytes: Uint8Array) => bigint) {
    this.#checksum = checksum
  }

  push(bytes: Uint8Array): void {
    this.#size += bytes.length
    for (let at = 0; at < bytes.length; ) {
      const piece = bytes.subarray(at, at + BLOCK_BYTES - this.#filled)
      at += piece.length
      if (piece.length === BLOCK_BYTES) {
        this.#sums.push(this.#checksum(piece))
        continue
      }
      this.#open.set(piece, this.#filled)
      this.#filled += piece.length
      if (this.#filled === BLOCK_BYTES) this.#close()
    }
  }

  end(): BlockSums {
    if (this.#filled > 0) this.#close()
    return { size: this.#size, sums: BigUint64Array.from(this.#sums) }
  }

  #close(): void {
    this.#sums.push(this.#checksum(this.#open.subarray(0, this.#filled)))
    this.#filled = 0
  }
}
