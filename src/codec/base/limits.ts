/** Caps on what a file says of itself. A number from outside is hostile until it has been compared with one of them. */
export const LIMITS = {
  /** Bytes of the JSON header of a safetensors shard or of a `.wdelta`: 50 for each of 500,000 tensors, or 250 for each of 100,000. */
  headerBytes: 25_000_000,
  /** Bytes of the headers of all shards of one frame delta: four of the longest. */
  totalHeaderBytes: 100_000_000,
  /** Bytes of the JSON text of one shard's `__metadata__`: every file that is given out carries it. */
  metadataBytes: 1_000_000,
  /** Levels of nested JSON in a header: the deepest valid one is tensors -> entry -> `{"_ref": …}`. */
  jsonDepth: 5,
  /** Items of one JSON list: the longest valid list is a shape. */
  jsonItems: 64,
  /** Values of one JSON tree: enough for the longest `__metadata__`, and below 100 MB of memory. Longer objects are read member by member. */
  jsonValues: 2 ** 18,
  /** Tensors of a model: the largest published mixture of experts has under 100,000. */
  tensors: 500_000,
  /** Shards of a model. */
  shards: 10_000,
  /** Frames of a frame delta, and so its records: 4 TiB of large tensors, or four small ones for each tensor that a model may have. */
  frames: 2 ** 21,
  /** Bytes of the stored index of a frame delta: a model with `tensors` tensors of one frame each needs less than half. */
  storedIndexBytes: 64 * 1024 * 1024,
  /** UTF-8 bytes of a tensor's name: it must fit a path segment of a URL. */
  nameBytes: 1024,
  /** Dimensions of a tensor: numpy stops at 32, real models at 5. */
  rank: 16,
  /** Size of one dimension. */
  dimension: 2 ** 32,
  /** Elements of one tensor. */
  elements: 2 ** 40,
  /** Bytes of the field string and of the dtype string of an array record in a `.wdelta`. */
  fieldBytes: 64,
  dtypeBytes: 16,
  /** Deltas between a model and its base: each costs one more read per frame. */
  chainDepth: 64,
} as const

/**
 * Bounds the bytes of a model that a delta gives: at most `factor` times those of its parent and of the delta's file together, or
 * `floorBytes` if that is more. Without a bound, a file of a few hundred bytes could name any number of frames of zeros or copies, each of
 * which costs a decode. The factor is that of the largest honest model: a dense one made into sixteen experts and widened to float32.
 */
export const EXPANSION = { factor: 32, floorBytes: 64 * 1024 * 1024 } as const

/** Most bytes of a model that a delta of `fileBytes` bytes may give against a parent of `parentBytes`: see {@link EXPANSION}. */
export function mostExpandedBytes(parentBytes: number, fileBytes: number): number {
  return Math.max(EXPANSION.floorBytes, EXPANSION.factor * (parentBytes + fileBytes))
}

/** Elements of a cell: the index of a record delta holds a rank for each of its multiples. */
export const CELL = 65_536
/** Most bytes that one frame may produce. */
export const FRAME_BYTES = 2 * 1024 * 1024
/** Most elements that one frame may hold: {@link FRAME_BYTES} of the narrowest float dtype. */
export const FRAME_ELEMENTS = FRAME_BYTES / 2
