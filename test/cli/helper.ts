import { type ChildProcess, spawn } from 'node:child_process'
import { globSync, readFileSync } from 'node:fs'
import { basename, dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

/** The entry of the command line. */
export const CLI = fileURLToPath(new URL('../../src/cli/wdelta.ts', import.meta.url))
const GOLDEN = fileURLToPath(new URL('../fixtures/v1', import.meta.url))

export interface Ran {
  readonly code: number | null
  readonly stdout: string
  readonly stderr: string
}

/** Runs `wdelta` with these arguments in a process of its own, which sees no WDELTA_* but those in `env`. */
export function wdelta(
  args: readonly string[],
  env: Record<string, string> = {},
  started: (child: ChildProcess) => void = () => {},
): Promise<Ran> {
  const { WDELTA_REGISTRY, WDELTA_TOKEN, ...inherited } = process.env
  const child = spawn(process.execPath, [CLI, ...args], {
    env: { ...inherited, ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  started(child)
  const collect = (stream: NodeJS.ReadableStream) => {
    const chunks: Buffer[] = []
    stream.on('data', chunk => chunks.push(chunk))
    return () => Buffer.concat(chunks).toString('utf8')
  }
  const stdout = collect(child.stdout)
  const stderr = collect(child.stderr)
  return new Promise((resolve, reject) => {
    child.on('error', reject)
    child.on('close', code => resolve({ code, stdout: stdout(), stderr: stderr() }))
  })
}

export interface Inspected {
  readonly path: string
  readonly parent_hash: string
  readonly n_tensors: number
  readonly [more: string]: unknown
}

/** What the reference wrote, and what it makes of it. */
export interface GoldenCase {
  readonly name: string
  readonly base: string
  /** The fine-tunes, one for each delta. */
  readonly tuned: readonly string[]
  readonly deltas: readonly string[]
  readonly expected: string
  readonly hash: string
  /** What the reference's `inspect` tells of each delta. */
  readonly inspect: readonly Inspected[]
}

/** Every folder of test/fixtures/v1. Throws if there is none: a test over nothing would pass. */
export function goldenCases(): GoldenCase[] {
  const cases = globSync(join(GOLDEN, '*/case.json')).map(path => {
    const folder = dirname(path)
    const { deltas, result_hash, inspect } = JSON.parse(readFileSync(path, 'utf8'))
    const tuned = globSync(join(folder, 'tuned*')).sort()
    return {
      name: basename(folder),
      base: join(folder, 'base'),
      tuned,
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

/** The bytes of each tensor of a safetensors file, with dtype and shape. */
export function tensorsOf(
  path: string,
): Record<string, { dtype: string; shape: number[]; hex: string }> {
  const bytes = readFileSync(path)
  const start = 8 + Number(bytes.readBigUInt64LE(0))
  const { __metadata__, ...entries } = JSON.parse(bytes.subarray(8, start).toString('utf8'))
  return Object.fromEntries(
    Object.entries(
      entries as Record<string, { dtype: string; shape: number[]; data_offsets: [number, number] }>,
    ).map(
      ([
        name,
        {
          dtype,
          shape,
          data_offsets: [begin, end],
        },
      ]) => {
        const hex = bytes.subarray(start + begin, start + end).toString('hex')
        return [name, { dtype, shape, hex }] as const
      },
    ),
  )
}
