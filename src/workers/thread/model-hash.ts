import { createHash, type Hash } from 'node:crypto'
import type { Dtype } from '../../codec/base/dtypes.ts'
import { widenedRuns } from '../../codec/frames/float-frame.ts'
import type { FrameMachine } from '../../codec/kernels/machine.ts'

/**
 * The hashes of a model whose tensors pass in name order: of all names and stored values, of all names and float32 values if asked for, and of the
 * values of each tensor.
 */
export class ModelHash {
  readonly #stored: Hash
  readonly #float32: Hash | null
  /** The tensor that is passing, and the hash of its values. */
  #tensor: { readonly dtype: Dtype; readonly hash: Hash } | null = null

  private constructor(stored: Hash, float32: Hash | null) {
    this.#stored = stored
    this.#float32 = float32
  }

  static start(widens: boolean): ModelHash {
    return new ModelHash(createHash('sha256'), widens ? createHash('sha256') : null)
  }

  /** A copy, which goes on from the same state. */
  copy(): ModelHash {
    const copy = new ModelHash(this.#stored.copy(), this.#float32?.copy() ?? null)
    copy.#tensor = this.#tensor && { ...this.#tensor, hash: this.#tensor.hash.copy() }
    return copy
  }

  /** Begins a tensor. Gives the SHA-256 of the tensor before it; null for the first. */
  begin(name: Uint8Array, dtype: Dtype): Uint8Array | null {
    const ended = this.#end()
    this.#tensor = { dtype, hash: createHash('sha256') }
    this.#stored.update(name)
    this.#float32?.update(name)
    return ended
  }

  /** Takes the next values of the tensor, whole elements as stored. `machine` widens them, and loses what it holds. */
  update(values: Uint8Array, machine: FrameMachine): void {
    const { dtype, hash } = this.#tensor!
    this.#stored.update(values)
    hash.update(values)
    if (!this.#float32) return
    const runs = dtype === 'F32' ? [values] : widenedRuns(machine, dtype, values)
    for (const run of runs) this.#float32.update(run)
  }

  /** The lineage hashes, hex, and the SHA-256 of the last tensor; null if there is none. */
  digest(): { stored: string; float32: string | null; tensor: Uint8Array | null } {
    const tensor = this.#end()
    const float32 = this.#float32?.digest('hex') ?? null
    return { stored: this.#stored.digest('hex'), float32, tensor }
  }

  #end(): Uint8Array | null {
    return this.#tensor?.hash.digest() ?? null
  }
}
