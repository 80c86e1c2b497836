import { execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { createInterface } from 'node:readline'

/** One system call of a traced process. `began` and `ended` are line numbers of the log: what is larger happened later. */
export interface Call {
  readonly thread: string
  readonly name: string
  readonly text: string
  readonly began: number
  readonly ended: number
}

export interface Tracer {
  /** Lets the process go on untraced; resolves when the log is complete. */
  detach(): Promise<void>
}

/** Attaches strace with `options` to every thread of a process; resolves once it sees all of them. Rejects if it may not. */
export async function attach(pid: number, options: readonly string[]): Promise<Tracer> {
  const child = spawn('strace', ['-f', ...options, '-p', String(pid)], {
    stdio: ['ignore', 'ignore', 'pipe'],
  })
  const exited = once(child, 'exit')
  const said: string[] = []
  const { promise, resolve, reject } = Promise.withResolvers<void>()
  createInterface({ input: child.stderr! }).on('line', line => {
    said.push(line)
    if (/attached with \d+ threads/.test(line)) resolve()
  })
  exited.then(
    () => reject(new Error(`strace: ${said.join('\n')}`)),
    error => reject(error),
  )
  await promise
  const detach = async () => {
    child.kill('SIGINT')
    await exited
  }
  return { detach }
}

/** The calls of a log that `strace -f -o` wrote, in the order in which they began. */
export function readCalls(path: string): Call[] {
  const calls: Call[] = []
  const unfinished = new Map<string, { name: string; text: string; began: number }>()
  readFileSync(path, 'utf8')
    .split('\n')
    .forEach((line, at) => {
      const [, thread, rest] = /^(\d+) +(.*)$/.exec(line) ?? []
      if (thread === undefined || rest === undefined) return
      const resumed = /^<\.\.\. (\w+) resumed>(.*)$/.exec(rest)
      if (resumed) {
        const call = unfinished.get(thread)
        unfinished.delete(thread)
        if (call) calls.push({ ...call, thread, text: call.text + resumed[2], ended: at })
        return
      }
      const name = /^(\w+)\(/.exec(rest)?.[1]
      if (name === undefined) return
      if (rest.endsWith('<unfinished ...>')) unfinished.set(thread, { name, text: rest, began: at })
      else calls.push({ thread, name, text: rest, began: at, ended: at })
    })
  return calls.sort((a, b) => a.began - b.began)
}

/** Throws where strace is missing or may not trace: a suite that injects nothing would pass. */
export function requireStrace(): void {
  execFileSync('strace', ['-qq', '-e', 'trace=none', 'true'])
}
