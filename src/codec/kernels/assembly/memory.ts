/**
 * The memory, laid out by hand: every area fits a whole frame (1,048,576 elements, at most 8 bytes each), and behind
 * each lie at least 64 bytes that a vector loop may read or write past the end. The host reads the exported addresses.
 */
const KIB = 1024
const MIB = 1024 * 1024
const SLACK = 4 * KIB

/** Elements that a kernel takes at a time: its scratch and its part of the accumulator stay in the L1 and L2 caches. */
export const BLOCK: i32 = 8192

/** The accumulator: float32 values. */
export const ACC: i32 = 64 * KIB
/** Inputs. A: int64 indices, signs, elements of a block. B: values, scales. C: packed nibbles. */
export const A: i32 = ACC + 4 * MIB + SLACK
export const B: i32 = A + 8 * MIB + SLACK
export const C: i32 = B + 4 * MIB + SLACK
/** Output of up to 8 bytes per element. */
export const OUT: i32 = C + MIB + SLACK
/** 4 planes of 16 bytes: byte k of the float32 that nibble q stands for is at PLANES + 16 * k + q. */
export const PLANES: i32 = OUT + 8 * MIB + SLACK
/** Element offsets of a block's listed elements (i32), then their values (float32). */
export const OFFSETS: i32 = PLANES + SLACK
export const VALUES: i32 = OFFSETS + 32 * KIB + SLACK
/** A block's codes, one a byte: as they come, and moved apart to leave room for the outliers. */
export const DENSE: i32 = VALUES + 32 * KIB + SLACK
export const SPREAD: i32 = DENSE + 8 * KIB + SLACK
/** A block of float32 values beside the accumulator's. */
export const OTHER: i32 = SPREAD + 8 * KIB + SLACK
export const ROUNDED: i32 = OTHER + 32 * KIB + SLACK
/** Results of a kernel that has more than one number to tell. */
export const RESULTS: i32 = ROUNDED + 32 * KIB + SLACK

// The lane coder works between two frames, on areas that a frame's steps use otherwise.

/** Prediction and frame: bytes, or 16-bit lanes. */
export const X: i32 = ACC
export const Y: i32 = OUT
/** Another pair: the upper halves of float32, or the blocks of lanes that are coded. */
export const X2: i32 = X + 2 * MIB + KIB
export const Y2: i32 = Y + 2 * MIB + KIB
/** And another: those blocks of the upper halves of float32 that are coded. */
export const X3: i32 = X + 3 * MIB + 2 * KIB
export const Y3: i32 = Y + 3 * MIB + 2 * KIB
/** The two byte planes of the lower halves of float32. */
export const LOWS: i32 = Y + 5 * MIB
export const HIGHER_LOWS: i32 = Y + 6 * MIB
/** Symbols of lanes, one a byte. */
export const SYMBOLS: i32 = C
/** Raw bits. A lane takes at most 14 of them, damaged or not, so that none leads out of this area. */
export const RAW: i32 = A
/** The decoder's words; the encoder's end at WORDS_END. A lane has at most one. */
export const WORDS: i32 = B
export const WORDS_END: i32 = B + 3 * MIB
/** One bit for each block of 32 bytes. */
export const BITMAP: i32 = RESULTS + SLACK
/** Frequencies of [context][symbol], u32, four times over. */
export const COUNTS: i32 = BITMAP + 8 * KIB + SLACK
/** Entries of [table][slot], u32. */
export const DECODING: i32 = COUNTS + 64 * KIB
/** Entries of [table][symbol]: f64 inverse, u32 1024 - frequency, u32 start. */
export const ENCODING: i32 = DECODING + 64 * KIB
/** 16 bytes: the table of each context. */
export const TABLES: i32 = ENCODING + 64 * KIB
/** 16 u32. */
export const STATES: i32 = TABLES + 64
/** 4 u64 of a checksum. */
export const LANES: i32 = STATES + 64

/** A record that is being put together. */
export const RECORD: i32 = STATES + SLACK
/** Parts of frames that the host reads from files. */
export const ARENA: i32 = RECORD + 2 * MIB + SLACK
export const ARENA_BYTES: i32 = 16 * MIB
