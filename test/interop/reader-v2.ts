import { spawnSync } from 'node:child_process'
import { globSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { interopPython } from './reference.ts'

const SCRIPT = join(import.meta.dirname, 'wdelta_v2.py')

/** What `wdelta_v2.py --describe` prints, as far as suites use it. */
export interface Described {
  readonly bytes: number
  readonly shards: readonly { readonly path: string; readonly bytes: number }[]
  readonly tensors: readonly { readonly name: string; readonly source: object | null }[]
  readonly frames: Readonly<Record<string, { readonly frames: number; readonly stored: number }>>
}

/** What the independent reader printed; `refusal` is its line where it refused, null where it did not. */
interface Answer {
  readonly stdout: string
  readonly refusal: string | null
}

function reader(args: readonly string[]): Answer {
  const { status, stdout, stderr, error } = spawnSync(interopPython(), [SCRIPT, ...args], {
    encoding: 'utf8',
    maxBuffer: 2 ** 30,
  })
  if (status === 0) return { stdout, refusal: null }
  const lines = stderr?.trimEnd().split('\n') ?? []
  if (status !== 1 || lines.length !== 1 || !lines[0]) throw new Error(stderr, { cause: error })
  return { stdout, refusal: lines[0] }
}

/**
 * Writes to `out` what the independent reader makes of a delta on the model in `parent`. Its line where it refuses, else null.
 * Throws where it fails in another way.
 */
export function readV2(delta: string, parent: string, out: string): string | null {
  return reader([delta, parent, out]).refusal
}

/** What is in a delta. Throws where the reader refuses it. */
export function describeV2(delta: string): Described {
  const { stdout, refusal } = reader(['--describe', delta])
  if (refusal !== null) throw new Error(refusal)
  return JSON.parse(stdout) as Described
}

/** The safetensors files of a model folder by their path. Throws where there is none: comparing nothing would pass. */
export function shardsOf(folder: string): Map<string, Buffer> {
  const paths = globSync('**/*.safetensors', { cwd: folder }).sort()
  if (paths.length === 0) throw new Error(`no *.safetensors in ${folder}`)
  return new Map(paths.map(path => [path, readFileSync(join(folder, path))]))
}
