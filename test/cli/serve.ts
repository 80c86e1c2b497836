import { spawn } from 'node:child_process'
import { createInterface } from 'node:readline'
import type { Test } from 'tap'
import { type Arguments, CLI, wdeltaIn } from '../support/servers/wdelta-process.ts'

/** `wdelta serve` on a free port, with a folder of its own; `wdelta` runs commands against it, `stop` sends SIGTERM and gives the exit code. */
export async function serve(folder: string, env: Record<string, string> = {}) {
  const child = spawn(process.execPath, [CLI, 'serve'], {
    env: { ...process.env, PORT: '0', HOST: '127.0.0.1', DATA_DIR: folder, ...env },
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  const ended = new Promise<number | null>(resolve => child.on('close', resolve))
  const url = await new Promise<string>((resolve, reject) => {
    createInterface(child.stdout).on('line', line => {
      const found = /"url":"(http[^"]+)"/.exec(line)
      if (found) resolve(found[1]!)
    })
    void ended.then(code => reject(new Error(`wdelta serve ended with ${code}`)))
  })
  const stop = () => {
    child.kill('SIGTERM')
    return ended
  }
  return { url, stop, wdelta: wdeltaIn({ WDELTA_REGISTRY: url }) }
}

/** Runs commands that must succeed; each gives what it printed, without the last newline. */
export function succeeding(t: Test, wdelta: ReturnType<typeof wdeltaIn>) {
  return async (...args: Arguments): Promise<string> => {
    const ran = await wdelta(...args)
    t.match(ran, { code: 0, stderr: '' }, JSON.stringify(args))
    return ran.stdout.trimEnd()
  }
}
