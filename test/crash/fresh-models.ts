import { createHash } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { makeModel, makeTuned } from '../../bench/make-model.ts'
import { Random } from '../support/random.ts'
import type { ServerProcess } from '../support/servers/server-process.ts'

const FILE = 'model.safetensors'
/** Contents that are published again and again. */
const REPEATED = 3

/** One model to be published. */
export interface Fresh {
  readonly fields: Readonly<Record<string, string>>
  readonly bytes: Buffer<ArrayBuffer>
  /** Of what must come back; null for a lossy strategy. */
  readonly sha256: string | null
}

/** Models of one file: a base, fine-tunes of it, and others that are like them, drawn from a seed. */
export class FreshModels {
  readonly random: Random
  readonly #base: Buffer
  readonly #tuned: Buffer
  #serial = 0

  private constructor(seed: number, base: Buffer, tuned: Buffer) {
    this.random = new Random(seed)
    this.#base = base
    this.#tuned = tuned
  }

  /** Makes models of `size` bytes below `folder`. */
  static async make(folder: string, size: number, seed: number): Promise<FreshModels> {
    const [base, tuned] = [join(folder, 'base'), join(folder, 'tuned')]
    await makeModel(base, { size, tensors: 4 })
    await makeTuned(tuned, base)
    return new FreshModels(seed, readFileSync(join(base, FILE)), readFileSync(join(tuned, FILE)))
  }

  /** A base: one that nobody has published yet, or one that many publish. */
  base(name: string, repeated = false): Fresh {
    const serial = repeated ? -1 - this.random.below(REPEATED) : this.#serial++
    return fresh({ name }, variant(this.#base, serial))
  }

  /** A fine-tune of `parent`, which any of these models may be. */
  tuned(name: string, parent: string, strategy: 'lossless' | 'int4'): Fresh {
    return fresh({ name, parent, strategy }, variant(this.#tuned, this.#serial++))
  }
}

function fresh(fields: Fresh['fields'], bytes: Buffer<ArrayBuffer>): Fresh {
  const isLossy = fields['strategy'] === 'int4'
  return {
    fields,
    bytes,
    sha256: isLossy ? null : createHash('sha256').update(bytes).digest('hex'),
  }
}

/** The file with other values at its beginning, the same for the same serial number. */
function variant(file: Buffer, serial: number): Buffer<ArrayBuffer> {
  const copy = Buffer.from(file)
  const header = 8 + Number(copy.readBigUInt64LE(0))
  // The lower bits of mantissas: whatever they are, a weight stays a weight.
  for (let bit = 0; bit < 32; bit++) {
    copy[header + 2 * bit] = (copy[header + 2 * bit]! & 0xfe) | ((serial >>> bit) & 1)
  }
  return copy
}

/** Asks for a model to be published. */
export function sendFresh({ url }: ServerProcess, { fields, bytes }: Fresh): Promise<Response> {
  const form = new FormData()
  for (const [name, value] of Object.entries(fields)) form.append(name, value)
  form.append('file', new Blob([bytes]), FILE)
  return fetch(`${url}/models`, { method: 'POST', body: form })
}
