/** Every number that comes from the wire is hostile until it was compared with one of these caps. */
export const LIMITS = {
  /** JSON header of a safetensors shard or a `.wdelta`, bytes: ten times what a 500,000-tensor model needs per tensor name. */
  headerBytes: 25_000_000,
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

/** Elements per cell: rank samples of a delta's index stand at its multiples. */
export const CELL = 65_536
/** Most bytes that one frame may produce. */
export const FRAME_BYTES = 2 * 1024 * 1024
/** Most elements that one frame may hold: {@link FRAME_BYTES} of the narrowest float dtype. */
export const FRAME_ELEMENTS = FRAME_BYTES / 2
