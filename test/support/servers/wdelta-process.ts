import { type ChildProcess, spawn } from 'node:child_process'
import { fileURLToPath } from 'node:url'

/** The entry of the command line. */
export const CLI = fileURLToPath(new URL('../../../src/cli/wdelta.ts', import.meta.url))

/** How a command ended. */
export interface Ran {
  /** The exit code; null after a signal. */
  readonly code: number | null
  readonly stdout: string
  readonly stderr: string
}

/**
 * Options of a command: `{ parentDelta: 'a' }` is `--parent-delta a`, a list gives the option once for each of its values, true stands for an
 * option without a value, and `{ verify: false }` is `--no-verify`.
 */
export type Options = Readonly<Record<string, string | number | boolean | readonly string[]>>

/** Words of a command line as they are, and options. */
export type Arguments = readonly (string | Options)[]

/** Runs `wdelta` in a process of its own, which sees no WDELTA_* of this one. Resolves when it has ended, whatever its exit code. */
export function wdelta(...args: Arguments): Promise<Ran> {
  return startWdelta(args).ended
}

/** As {@link wdelta}, with these variables in the environment. */
export function wdeltaIn(env: Readonly<Record<string, string>>): typeof wdelta {
  return (...args) => startWdelta(args, env).ended
}

/** As {@link wdelta}, for a test that does something with the process meanwhile. */
export function startWdelta(
  args: Arguments,
  env: Readonly<Record<string, string>> = {},
): { child: ChildProcess; ended: Promise<Ran> } {
  const { WDELTA_REGISTRY, WDELTA_TOKEN, ...inherited } = process.env
  const words = args.flatMap(each => (typeof each === 'string' ? [each] : optionWords(each)))
  const child = spawn(process.execPath, [CLI, ...words], {
    env: { ...inherited, ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  const collect = (stream: NodeJS.ReadableStream) => {
    const chunks: Buffer[] = []
    stream.on('data', chunk => chunks.push(chunk))
    return () => Buffer.concat(chunks).toString('utf8')
  }
  const stdout = collect(child.stdout)
  const stderr = collect(child.stderr)
  const ended = new Promise<Ran>((resolve, reject) => {
    child.on('error', reject)
    child.on('close', code => resolve({ code, stdout: stdout(), stderr: stderr() }))
  })
  return { child, ended }
}

function optionWords(options: Options): string[] {
  return Object.entries(options).flatMap(([key, value]) => {
    const name = key.replace(/[A-Z]/g, letter => `-${letter.toLowerCase()}`)
    if (value === true) return [`--${name}`]
    if (value === false) return [`--no-${name}`]
    const values = typeof value === 'object' ? value : [value]
    return values.flatMap(each => [`--${name}`, String(each)])
  })
}
