import { spawnSync } from 'node:child_process'
import { join } from 'node:path'

/** The root of the repository. */
export const ROOT = join(import.meta.dirname, '..')

/**
 * Runs a program with what this process has for input and output. `npm run` puts those of `node_modules/.bin` first in PATH, its Node
 * among them. Ends this process with the program's exit code unless that is 0.
 */
export function run(program: string, args: readonly string[], env: NodeJS.ProcessEnv = {}): void {
  const options = { cwd: ROOT, stdio: 'inherit', env: { ...process.env, ...env } } as const
  const { status, error } = spawnSync(program, args, options)
  if (error) throw error
  if (status !== 0) process.exit(status ?? 1)
}
