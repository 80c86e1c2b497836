import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { readdirSync, readFileSync, readlinkSync } from 'node:fs'
import { join } from 'node:path'
import { createInterface } from 'node:readline'

const ROOT = join(import.meta.dirname, '../../..')
const { scripts } = JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8'))
/** What `npm start` sets for node, and what it gives to it. */
const [settings, args] = (scripts.start as string).split(/\bnode /) as [string, string]
const START = args.split(' ')
const START_ENV = Object.fromEntries(
  settings
    .trim()
    .split(' ')
    .map(setting => setting.split('=')),
)
/** Far more than a start takes, with a sweep of a large folder. */
const START_MS = 30_000

/** A registry in a process of its own, on a port that the system chose. */
export interface ServerProcess {
  readonly url: string
  readonly pid: number
  /** What it logged so far, one JSON line each. */
  readonly log: readonly string[]
  /** Resolves with the exit code, or null after a signal. */
  readonly exited: Promise<number | null>
  /** Ends it with SIGTERM, as an operator does, and resolves with its exit code. */
  stop(): Promise<number | null>
  /** Ends it with SIGKILL. */
  kill(): Promise<void>
}

/** Starts what `npm start` does over `dataDir`; resolves once it listens. Rejects with its output if it ends before. */
export async function startServer(
  dataDir: string,
  env: Readonly<Record<string, string>> = {},
): Promise<ServerProcess> {
  const { PATH } = process.env
  const child = spawn(process.execPath, START, {
    cwd: ROOT,
    env: { ...START_ENV, PATH, HOST: '127.0.0.1', PORT: '0', DATA_DIR: dataDir, ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  const exited = once(child, 'exit').then(([code]) => code as number | null)
  const log: string[] = []
  const url = await listening(child, log, exited)
  const end = async (signal: NodeJS.Signals) => {
    child.kill(signal)
    return exited
  }
  return {
    url,
    pid: child.pid!,
    log,
    exited,
    stop: () => end('SIGTERM'),
    kill: async () => void (await end('SIGKILL')),
  }
}

function listening(
  child: ChildProcess,
  log: string[],
  exited: Promise<number | null>,
): Promise<string> {
  const { promise, resolve, reject } = Promise.withResolvers<string>()
  const fail = (why: string) => {
    child.kill('SIGKILL')
    reject(new Error(`${why}:\n${log.slice(-20).join('\n')}`))
  }
  const timer = setTimeout(() => fail(`the server did not listen within ${START_MS} ms`), START_MS)
  for (const stream of [child.stdout!, child.stderr!]) {
    createInterface({ input: stream }).on('line', line => {
      log.push(line)
      const url = /listening/.test(line) && /http:\/\/[\w.:[\]-]+/.exec(line)?.[0]
      if (url) resolve(url)
    })
  }
  exited.then(code => fail(`the server ended with ${code}`))
  return promise.finally(() => clearTimeout(timer))
}

/** Largest resident set of a process so far, in bytes. Source: proc(5), `VmHWM`. */
export function peakMemory(status: string): number {
  return Number(/^VmHWM:\s+(\d+) kB$/m.exec(status)![1]) * 1024
}

/** What a process has open: paths, and `socket:[…]` and the like. */
export function openFiles(pid: number | 'self' = 'self'): string[] {
  const folder = `/proc/${pid}/fd`
  return readdirSync(folder).flatMap(fd => {
    try {
      return [readlinkSync(join(folder, fd))]
    } catch {
      // Closed since, as that of this listing is.
      return []
    }
  })
}
