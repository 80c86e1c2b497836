import { execFile } from 'node:child_process'
import { promisify } from 'node:util'

const run = promisify(execFile)

/** Runs curl, silent but for errors; an error status of the server is a rejection. Gives what it printed. */
export async function curl(...args: string[]): Promise<string> {
  const { stdout } = await run('curl', ['-sS', '--fail-with-body', '--max-time', '120', ...args])
  return stdout
}
