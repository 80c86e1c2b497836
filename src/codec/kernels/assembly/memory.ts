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
/** Parts of frames that the host reads from files. */
export const ARENA: i32 = RESULTS + SLACK
export const ARENA_BYTES: i32 = 16 * MIB
