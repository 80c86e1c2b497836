import { CodecError } from '../base/errors.ts'
import type { CodedLanes } from './lane-machine.ts'

/** Least value of a rANS state: every state has it before the first symbol and after the last. */
export const MIN_STATE = 2 ** 15
/** Greatest share of exponents above the window: placed at the maximum, one outlier would spoil it. */
const ABOVE_WINDOW = 0.001

/** Lanes after padding to full vectors of 16. */
export function paddedLanes(lanes: number): number {
  return Math.ceil(lanes / 16) * 16
}

/** The top of the window of exponents, from how often each comes. */
export function windowTop(exponents: Uint32Array): number {
  const total = exponents.reduce((sum, count) => sum + count, 0)
  let top = exponents.length - 1
  let above = exponents[top]!
  while (top > 0 && above < total * ABOVE_WINDOW) above += exponents[--top]!
  return top
}

/** What a decoder has used up at its end. */
interface Used {
  /** Words and raw bits that were taken. */
  readonly taken: number
  readonly bits: number
  readonly states: Uint8Array
}

/** @throws CodecError `coded` unless all words and raw bits were used and all states are back where the encoder began */
export function evenEnd(
  { taken, bits, states }: Used,
  { words, raw }: Pick<CodedLanes, 'words' | 'raw'>,
): void {
  const view = new DataView(states.buffer, states.byteOffset, states.byteLength)
  for (let i = 0; i < 16; i++) {
    const state = view.getUint32(i * 4, true)
    if (state !== MIN_STATE) refuse(`state ${i}: expected ${MIN_STATE} at the end, got ${state}`)
  }
  if (taken * 2 !== words.length) refuse(`expected ${taken} words, got ${words.length / 2}`)
  if (Math.ceil(bits / 8) !== raw.length)
    refuse(`expected ${bits} raw bits, got ${raw.length} bytes`)
  if (bits % 8 !== 0 && raw.at(-1)! >> (bits % 8) !== 0)
    refuse('expected zeros after the last raw bit')
}

function refuse(message: string): never {
  throw new CodecError('delta', 'coded', `lanes of a frame: ${message}`)
}
