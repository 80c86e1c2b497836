import { EXPANSION } from '../../../src/codec/base/limits.ts'
import { Random } from '../../support/random.ts'
import { Draws, type HostileForm } from './draws.ts'
import { FrameDeltas } from './frame-deltas.ts'
import type { KnownModel } from './known-model.ts'
import { modelFiles } from './model-files.ts'
import { recordDeltas } from './record-deltas.ts'

/** Makes hostile forms, the same for the same seed and number. */
export class HostileFiles {
  readonly #seed: number
  readonly #base: KnownModel
  readonly #frameDeltas: FrameDeltas

  /** `mostTensors`: of those that one file describes. */
  constructor(seed: number, base: KnownModel, mostTensors: number) {
    this.#seed = seed
    this.#base = base
    this.#frameDeltas = new FrameDeltas(seed, mostTensors)
  }

  /** The form of a number: all kinds in turn. */
  make(i: number): HostileForm {
    const draw = new Draws(new Random(this.#seed + i * 7919), this.#base)
    const makers = Object.entries({
      ...this.#frameDeltas.makers(draw),
      ...recordDeltas(draw),
      ...modelFiles(draw),
    })
    const [kind, make] = makers[i % makers.length]!
    const made = make()
    const logicalBytes = Math.min(made.logicalBytes ?? 0, EXPANSION.floorBytes * 2)
    return { path: '/deltas', fields: {}, tensors: 6, ...made, kind, logicalBytes }
  }
}
