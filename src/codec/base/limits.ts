/** Every number that comes from the wire is hostile until it was compared with one of these caps. */
export const LIMITS = {
  /** JSON header of a safetensors shard or a `.wdelta`, bytes: ten times what a 500,000-tensor model needs per tensor name. */
  headerBytes: 25_000_000,
  /** Headers of all shards of one lossless delta, bytes: four of the longest. */
  totalHeaderBytes: 100_000_000,
  /** `__metadata__` of one shard, bytes of its JSON text: nobody reads more, and every response carries it. */
  metadataBytes: 1_000_000,
  /** Nesting of header JSON; the deepest valid one is tensors -> entry -> `{"_ref": …}`. */
  jsonDepth: 5,
  /** Items of one JSON list: the longest valid one is a shape. */
  jsonItems: 64,
  /** Values of one JSON tree in memory: above the longest `__metadata__`, below 100 MB. Long objects are read member by member. */
  jsonValues: 2 ** 18,
  /** Tensors per model: the largest published mixture of experts has under 100,000. One header of `headerBytes` cannot hold so many. */
  tensors: 500_000,
  /** Shards per model. */
  shards: 10_000,
  /** Frames of a lossless delta, and so its records: 4 TiB of large tensors, or as many small ones as a model may have. */
  frames: 2 ** 21,
  /** Stored index of a lossless delta, bytes: that of a model with `tensors` tensors and a frame for each takes less than half. */
  storedIndexBytes: 64 * 1024 * 1024,
  /** Tensor name, UTF-8 bytes: fits the path segment of a URL. */
  nameBytes: 1024,
  /** Dimensions per tensor: numpy itself stops at 32, real models at 5. */
  rank: 16,
  /** One dimension. */
  dimension: 2 ** 32,
  /** Elements of one tensor. */
  elements: 2 ** 40,
  /** Array record of a `.wdelta`: field and dtype strings, bytes. */
  fieldBytes: 64,
  dtypeBytes: 16,
  /** Deltas between a model and its base: each costs one more read per frame. */
  chainDepth: 64,
} as const

/**
 * What a delta gives has at most so many times the bytes of its parent and its own file together, or `floorBytes` where that is more. A few
 * hundred bytes may name any number of frames that are zeros or copies, and each costs a decode. Honest ones that are far above their parent
 * repeat it: a dense model made into sixteen experts and widened to float32 has up to 32 times its bytes.
 */
export const EXPANSION = { factor: 32, floorBytes: 64 * 1024 * 1024 } as const

/** Most bytes of what a delta of `fileBytes` may give against a parent of `parentBytes`: see {@link EXPANSION}. */
export function mostExpandedBytes(parentBytes: number, fileBytes: number): number {
  return Math.max(EXPANSION.floorBytes, EXPANSION.factor * (parentBytes + fileBytes))
}

/** Elements per cell: rank samples of a delta's index stand at its multiples. */
export const CELL = 65_536
/** Most bytes that one frame may produce. */
export const FRAME_BYTES = 2 * 1024 * 1024
/** Most elements that one frame may hold: {@link FRAME_BYTES} of the narrowest float dtype. */
export const FRAME_ELEMENTS = FRAME_BYTES / 2
