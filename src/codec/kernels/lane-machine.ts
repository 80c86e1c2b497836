/** How a frame is taken as 16-bit lanes, and where the exponent of a lane begins: see `FORMAT.md`, `coded`. */
export interface LaneKind {
  /** Bits of a lane below its exponent: 1..14. */
  readonly shift: number
  /** True where lanes are the upper halves of 32-bit elements. */
  readonly halves: boolean
}

/** The counts that the tables of a frame are chosen from. */
export interface LaneModel {
  /** Lanes that are coded, a multiple of 16. */
  readonly count: number
  /** The exponent at the top of the window. */
  readonly top: number
  /** How often each symbol comes in each context: [16][256]. Valid until the machine's next use. */
  readonly counts: Uint32Array
  readonly rawBytes: number
}

/** Frequencies of one table: 256 numbers that sum to 1024. */
export type Frequencies = Uint16Array

/** The tables of a frame. */
export interface LaneTables {
  /** The table of each of the 16 contexts. */
  readonly contexts: Uint8Array
  readonly frequencies: readonly Frequencies[]
}

/** Lanes as the coder writes them. A machine gives views that are valid until its next use. */
export interface CodedLanes {
  /** 16 little-endian u32. */
  readonly states: Uint8Array
  /** Little-endian u16. */
  readonly words: Uint8Array
  readonly raw: Uint8Array
}

/** What decoding needs besides the prediction. */
export interface LaneStream extends CodedLanes {
  readonly kind: LaneKind
  readonly top: number
  readonly tables: LaneTables
  /** One bit for each block of 16 lanes, set if the block is coded. Null if all are. */
  readonly bitmap: Uint8Array | null
  /** Of `halves`: the two byte planes of the lower halves XOR the prediction's, one after the other. */
  readonly lows: Uint8Array | null
}

/**
 * The exponent-context coder over one frame. Two implementations: the SIMD kernels (`simd-lanes.ts`) and plain TypeScript
 * (`plain-lanes.ts`), which is the specification and the test oracle: both give the same bytes.
 */
export interface LaneMachine {
  /** FRAME_BYTES of memory to put a record together in, which the machine does not use itself. */
  readonly record: Uint8Array<ArrayBuffer>
  /**
   * Takes a frame of at most FRAME_BYTES bytes and its prediction, of the same length, and counts the blocks of 32 bytes that differ.
   * `differing` has one bit for each block, and is valid until the next use.
   */
  compare(
    prediction: Uint8Array,
    frame: Uint8Array,
  ): { readonly changed: number; readonly differing: Uint8Array }
  /** Models the lanes of the frame that was compared last; with `skip`, only those in blocks that differ. */
  model(kind: LaneKind, skip: boolean): LaneModel
  /** For a frame modelled with `skip`: one bit for each block of 16 lanes. A view. */
  bitmap(): Uint8Array
  /** For a frame modelled as `halves`: see {@link LaneStream}. The caller's to keep. */
  lows(): Uint8Array
  /** Codes the lanes that were modelled; `tables` have a frequency for every symbol that was counted. */
  code(tables: LaneTables): CodedLanes
  /**
   * Turns the prediction in `frame` into the frame.
   * @throws CodecError `coded` if the stream does not come out even
   */
  decode(stream: LaneStream, frame: Uint8Array): void
}

/** What a decoder looks up by slot, 0..1023, in a table: frequency << 21 | slot - start << 8 | symbol. */
export function decodingEntries(frequencies: Frequencies, into: Uint32Array): void {
  let start = 0
  for (let symbol = 0; symbol < 256; symbol++) {
    const frequency = frequencies[symbol]!
    for (let i = 0; i < frequency; i++) into[start + i] = (frequency << 21) | (i << 8) | symbol
    start += frequency
  }
}
