/** How a frame delta (version 2) encodes tensors. */
export const FRAME_STRATEGIES = ['lossless'] as const
/** How a record delta (version 1) encodes tensors. */
export const RECORD_STRATEGIES = ['int4', 'sparse', 'quantized'] as const
/** How a delta of either form encodes tensors. */
export const DELTA_STRATEGIES = [...FRAME_STRATEGIES, ...RECORD_STRATEGIES] as const
/** How a model is stored: as a delta, or `whole`. In the order in which messages and the API list them; the catalog's CHECK repeats them. */
export const STRATEGIES = [...DELTA_STRATEGIES, 'whole'] as const

export type FrameStrategy = (typeof FRAME_STRATEGIES)[number]
export type RecordStrategy = (typeof RECORD_STRATEGIES)[number]
export type DeltaStrategy = (typeof DELTA_STRATEGIES)[number]
export type Strategy = (typeof STRATEGIES)[number]
