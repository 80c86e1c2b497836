import { globSync, readFileSync } from 'node:fs'
import { basename, dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

const GOLDEN = fileURLToPath(new URL('../../fixtures/v1', import.meta.url))

/** What the reference's `inspect` says of a delta. */
export interface Inspected {
  readonly path: string
  readonly parent_hash: string
  readonly n_tensors: number
  readonly [more: string]: unknown
}

/** What the reference wrote, and what it makes of it. Folders and files are given by their paths. */
export interface GoldenCase {
  readonly name: string
  /** The folder of all that follows. */
  readonly folder: string
  /** The folder of the base. */
  readonly base: string
  /** The folders of the fine-tunes, one for each delta. */
  readonly tuned: readonly string[]
  readonly deltas: readonly string[]
  /** The last fine-tune as the reference loads it, in float32. */
  readonly expected: string
  /** `hash_state_dict` of it. */
  readonly hash: string
  readonly inspect: readonly Inspected[]
}

/** Every folder of test/fixtures/v1. Throws if there is none: a test over nothing would pass. */
export function goldenCases(): GoldenCase[] {
  const cases = globSync(join(GOLDEN, '*/case.json')).map(path => {
    const folder = dirname(path)
    const { deltas, result_hash, inspect } = JSON.parse(readFileSync(path, 'utf8'))
    return {
      name: basename(folder),
      folder,
      base: join(folder, 'base'),
      tuned: globSync(join(folder, 'tuned*')).sort(),
      deltas: deltas.map((name: string) => join(folder, name)),
      expected: join(folder, 'expected.safetensors'),
      hash: result_hash,
      inspect,
    }
  })
  if (cases.length === 0) throw new Error(`no golden cases in ${GOLDEN}`)
  return cases
}

/** One golden case by its name. */
export function goldenCase(name: string): GoldenCase {
  const found = goldenCases().find(candidate => candidate.name === name)
  if (!found) throw new Error(`no golden case ${name}`)
  return found
}
