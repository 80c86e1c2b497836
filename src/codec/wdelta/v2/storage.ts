import { complete, STEP_ITEMS, type Steps } from '../../base/steps.ts'
import { ENCODINGS, type Encoding } from '../../frames/frame-encodings.ts'
import type { FrameDelta, FrameTensor } from '../delta-index.ts'
import { frameCount, NO_RECORD } from './format.ts'

/** The frames of one encoding, and the bytes that they are stored in. */
export interface EncodingUse {
  readonly encoding: Encoding
  readonly frames: number
  /** A record that several frames share counts once, for the first of them. */
  readonly storedBytes: number
}

/** What the records of one tensor are spent on. */
export interface TensorStorage {
  readonly tensor: FrameTensor
  readonly storedBytes: number
  readonly encodings: readonly EncodingUse[]
}

/** What the records of a frame delta are spent on: in all, and by tensor. Encodings that it does not use are left out. */
export function frameStorage(index: FrameDelta): FrameStorage {
  return complete(frameStorageSteps(index))
}

export interface FrameStorage {
  readonly encodings: readonly EncodingUse[]
  readonly tensors: readonly TensorStorage[]
}

/** {@link frameStorage} in steps. */
export function* frameStorageSteps(index: FrameDelta): Steps<FrameStorage> {
  const { frames, records } = index
  const all = new Tally()
  let next = 0
  const tensors: TensorStorage[] = []
  for (const tensor of index.tensors) {
    if (tensors.length % STEP_ITEMS === 0) yield
    const own = new Tally()
    const end = tensor.firstFrame + frameCount(tensor.bytes)
    for (let frameNumber = tensor.firstFrame; frameNumber < end; frameNumber++) {
      const record = frames.records[frameNumber]!
      const isNew = record !== NO_RECORD && record === next
      if (isNew) next++
      for (const tally of [own, all]) {
        tally.add(frames.encodings[frameNumber]!, isNew ? records.lengths[record]! : 0)
      }
    }
    const encodings = own.uses()
    const storedBytes = encodings.reduce((sum, use) => sum + use.storedBytes, 0)
    tensors.push({ tensor, storedBytes, encodings })
  }
  return { encodings: all.uses(), tensors }
}

class Tally {
  readonly #frames = ENCODINGS.map(() => 0)
  readonly #bytes = ENCODINGS.map(() => 0)

  add(encoding: number, bytes: number): void {
    this.#frames[encoding]!++
    this.#bytes[encoding]! += bytes
  }

  uses(): EncodingUse[] {
    return ENCODINGS.map((encoding, i) => ({
      encoding,
      frames: this.#frames[i]!,
      storedBytes: this.#bytes[i]!,
    })).filter(({ frames }) => frames > 0)
  }
}
