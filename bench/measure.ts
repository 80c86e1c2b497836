import { execFile, spawn } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { peakMemory } from '../test/support/servers/server-process.ts'

const run = promisify(execFile)

export interface Measured {
  readonly seconds: number
  /** From the start of the process to its end. */
  readonly processSeconds: number
  readonly peakBytes: number
}

export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b)
  return sorted[Math.floor(sorted.length / 2)]!
}

/** Largest resident set of a process since its start or the last {@link resetPeak}. */
export function peakOf(pid: number): number {
  return peakMemory(readFileSync(`/proc/${pid}/status`, 'utf8'))
}

/** Source: proc(5), `clear_refs`. */
export function resetPeak(pid: number): void {
  writeFileSync(`/proc/${pid}/clear_refs`, '5')
}

/** Runs `wdelta` from its start to its end, and watches its memory. Rejects if it fails. */
export async function timeWdelta(...args: string[]): Promise<Measured> {
  const cli = join(import.meta.dirname, '../src/cli/wdelta.ts')
  const began = performance.now()
  const child = spawn(process.execPath, [cli, ...args], { stdio: ['ignore', 'ignore', 'inherit'] })
  let peakBytes = 0
  const watch = setInterval(() => {
    try {
      peakBytes = Math.max(peakBytes, peakOf(child.pid!))
    } catch {
      // It has just ended: the last look was a few milliseconds ago.
    }
  }, 5)
  const [code] = await once(child, 'exit')
  clearInterval(watch)
  if (code !== 0) throw new Error(`wdelta ${args[0]} ended with ${code}`)
  const seconds = (performance.now() - began) / 1000
  return { seconds, processSeconds: seconds, peakBytes }
}

/** Runs the reference in the Python that INTEROP_PYTHON names. */
export async function timeReference(...args: string[]): Promise<Measured> {
  const { INTEROP_PYTHON } = process.env
  if (!INTEROP_PYTHON) throw new Error('INTEROP_PYTHON names no Python: see test/interop/setup.sh')
  const script = join(import.meta.dirname, 'reference.py')
  const began = performance.now()
  const { stdout } = await run(INTEROP_PYTHON, [script, ...args])
  const processSeconds = (performance.now() - began) / 1000
  return { ...(JSON.parse(stdout) as Measured), processSeconds }
}

export interface Download {
  readonly bytes: number
  readonly seconds: number
  readonly firstByteSeconds: number
}

/** Downloads with curl to nowhere; `options` are more of curl's own. */
export async function download(url: string, ...options: string[]): Promise<Download> {
  const format = '%{size_download} %{time_total} %{time_starttransfer}'
  const args = ['-sSf', '-o', '/dev/null', '-w', format, ...options, url]
  const { stdout } = await run('curl', args)
  const [bytes, seconds, firstByteSeconds] = stdout.split(' ').map(Number)
  return { bytes: bytes!, seconds: seconds!, firstByteSeconds: firstByteSeconds! }
}

/** Runs each of `things` in turn, so many times, and gives their results in the order of the runs: what slows the machine slows all. */
export async function inTurn<T>(
  runs: number,
  things: readonly (() => Promise<T>)[],
): Promise<T[][]> {
  const results: T[][] = things.map(() => [])
  for (let i = 0; i < runs; i++) {
    for (const [at, thing] of things.entries()) results[at]!.push(await thing())
  }
  return results
}

export function megabytes(bytes: number): string {
  return `${Math.round(bytes / 1e6)} MB`
}

export function line(...cells: readonly string[]): void {
  const [first, ...rest] = cells
  process.stdout.write(`${first!.padEnd(44)}${rest.map(cell => cell.padStart(18)).join('')}\n`)
}
