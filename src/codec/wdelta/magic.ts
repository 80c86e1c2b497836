import { utf8 } from '../base/utf8.ts'

/** The first 7 bytes of a `.wdelta`: `wdelta` and a zero. Source: deltatensors 0.2.0 `format.py`. */
export const MAGIC: Uint8Array = utf8('wdelta\0')
