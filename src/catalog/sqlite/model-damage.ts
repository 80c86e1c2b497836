import { setImmediate as turn } from 'node:timers/promises'
import { CATALOG_FILE, deltaFilename, MANIFEST_FILE } from '../file-names.ts'
import type { Damage } from '../records.ts'
import { digestRow, type ModelRow } from '../rows.ts'
import type { DamagedPart, Statements } from './statements.ts'

/** Most damaged blobs with which each of them is looked up in a model; beyond, each blob of the model is looked up among the damaged. */
const MAX_ASKED_BLOBS = 32
/** Most models whose damage is looked up, or whose digests are taken, in one turn of the event loop: a few milliseconds. */
const MODELS_PER_TURN = 100
/** Most damaged rows of which the time of discovery is remembered. */
const MAX_SEEN_ROWS = 10_000

/** The damage of one model. */
interface Known {
  /** Of its own blobs and of those that it inherits. */
  readonly shown: Damage | null
  /** As far as the deltas against it need the blobs: all but side files. */
  readonly inherited: Damage | null
}

const SOUND: Known = { shown: null, inherited: null }

/** Damage of models, derived from that of blobs when it is asked for: one blob may belong to all models. */
export class ModelDamage {
  readonly #sql: Statements
  /** When a row was first found to have changed since it was inserted, by id. */
  readonly #rows = new Map<string, string>()

  constructor(sql: Statements) {
    this.#sql = sql
  }

  /** The damage of each of `rows`, through the models that they are deltas against. Many models take several turns of the event loop. */
  async of(rows: readonly ModelRow[], areFilesSound: (row: ModelRow) => boolean) {
    const ofRows: (Damage | null)[] = []
    for (const row of rows) {
      ofRows.push(this.#ofRow(row, areFilesSound(row)))
      if (ofRows.length % MODELS_PER_TURN === 0) await turn()
    }
    const { count } = this.#sql.countDamage.get(MAX_ASKED_BLOBS + 1)!
    if (count === 0) return ofRows
    const lookup = new Lookup(this.#sql, count > MAX_ASKED_BLOBS)
    const damages: (Damage | null)[] = []
    for (const [i, row] of rows.entries()) {
      damages.push(ofRows[i] ?? (await lookup.of(row)).shown)
    }
    return damages
  }

  #ofRow(row: ModelRow, areFilesSound: boolean): Damage | null {
    if (areFilesSound && row.digest === digestRow(row) && this.#hasParent(row)) return null
    const at = this.#rows.get(row.id) ?? new Date().toISOString()
    if (this.#rows.size < MAX_SEEN_ROWS) this.#rows.set(row.id, at)
    return { file: CATALOG_FILE, offset: 0, at }
  }

  /** Whether the parent has a row, which it keeps as long as a model names it. */
  #hasParent({ parent, kind }: ModelRow): boolean {
    return parent === null ? kind === 'base' : this.#sql.linkOf.get(parent) !== undefined
  }
}

/** One pass over some models and those that they are deltas against; each is looked up once. */
class Lookup {
  readonly #sql: Statements
  readonly #areMany: boolean
  readonly #known = new Map<string, Known>()
  #looks = 0

  constructor(sql: Statements, areMany: boolean) {
    this.#sql = sql
    this.#areMany = areMany
  }

  async of(model: ModelRow): Promise<Known> {
    // Up from the model to a base or a model that is known already, then down again.
    const chain: ModelRow[] = []
    let known = SOUND
    for (let row: ModelRow | undefined = model; row; ) {
      const found = this.#known.get(row.id)
      if (found) {
        known = found
        break
      }
      chain.push(row)
      this.#known.set(row.id, SOUND)
      row =
        row.kind === 'delta' && row.parent !== null
          ? this.#sql.modelById.get(row.parent)
          : undefined
    }
    for (const row of chain.reverse()) {
      known = this.#under(known, row)
      this.#known.set(row.id, known)
      if (++this.#looks % MODELS_PER_TURN === 0) await turn()
    }
    return known
  }

  /** The damage of a model, whose parent, if it is a delta, has `parent`. */
  #under(parent: Known, row: ModelRow): Known {
    const statement = this.#areMany ? this.#sql.damagedPartsByModel : this.#sql.damagedPartsByBlob
    const parts = statement.all(row.id)
    const above = row.kind === 'delta' ? parent.inherited : null
    const needed = parts.find(part => isNeededByDeltas(part, row))
    return {
      shown: earlier(parts[0] && damageOf(parts[0], row), above),
      inherited: earlier(needed && damageOf(needed, row), above),
    }
  }
}

/** Whether the deltas against a model read this blob of it: its manifest, its delta, or the weights of a base, but not a side file. */
function isNeededByDeltas({ key, file }: DamagedPart, { manifest, delta }: ModelRow): boolean {
  return key === manifest || key === delta || (file?.endsWith('.safetensors') ?? false)
}

function damageOf({ key, offset, at, file }: DamagedPart, { name, delta }: ModelRow): Damage {
  const own = key === delta ? deltaFilename(name) : (file ?? MANIFEST_FILE)
  return { file: own, offset, at }
}

function earlier(own: Damage | undefined, above: Damage | null): Damage | null {
  if (!own || !above) return own ?? above
  return above.at < own.at ? above : own
}
