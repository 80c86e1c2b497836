#!/usr/bin/env node
import { enableCompileCache, getCompileCacheDir } from 'node:module'
import { VERSION } from '../version.ts'
import { type Command, UsageError } from './command.ts'
import { describeFailure } from './failure.ts'
import { say } from './terminal.ts'

// Stripping and compiling the sources takes longer than many commands do. Threads find the cache through the environment.
enableCompileCache()
const cache = getCompileCacheDir()
if (cache !== undefined) process.env['NODE_COMPILE_CACHE'] ??= cache

/** All commands. Each is loaded only when used: most need neither the codec nor HTTP. */
const COMMANDS: Readonly<Record<string, () => Promise<Command>>> = {
  serve: async () => (await import('./commands/serve.ts')).serve,
  save: async () => (await import('./commands/save.ts')).save,
  load: async () => (await import('./commands/load.ts')).load,
  inspect: async () => (await import('./commands/inspect.ts')).inspect,
  verify: async () => (await import('./commands/verify.ts')).verify,
  push: async () => (await import('./commands/push.ts')).push,
  pull: async () => (await import('./commands/pull.ts')).pull,
  ls: async () => (await import('./commands/models.ts')).ls,
  lineage: async () => (await import('./commands/models.ts')).lineage,
  rm: async () => (await import('./commands/models.ts')).rm,
  token: async () => (await import('./commands/token.ts')).token,
  sweep: async () => (await import('./commands/sweep.ts')).sweep,
  scrub: async () => (await import('./commands/scrub.ts')).scrub,
  backup: async () => (await import('./commands/backup.ts')).backup,
  rebuild: async () => (await import('./commands/rebuild.ts')).rebuild,
}

const FAILURE = 1
const BAD_USAGE = 2
/** The exit code that shells expect after SIGINT. */
const INTERRUPTED = 130

async function main([name, ...args]: string[], signal: AbortSignal): Promise<void> {
  if (name === undefined) throw new UsageError('expected a command; wdelta --help lists them')
  if (name === 'help' || name === '--help' || name === '-h') return say(await overview())
  if (name === '--version') return say(VERSION)
  const open = Object.hasOwn(COMMANDS, name) ? COMMANDS[name] : undefined
  if (!open) throw new UsageError(`unknown command ${name}; wdelta --help lists them`)
  const command = await open()
  if (args.includes('--help') || args.includes('-h')) {
    return say(`usage: wdelta ${command.usage}\n\n${command.help}`)
  }
  await command.run(args, signal)
}

async function overview(): Promise<string> {
  const commands = await Promise.all(Object.values(COMMANDS).map(load => load()))
  const lines = commands.map(({ usage }) => `  wdelta ${usage}`)
  const version = '  wdelta --version'
  return ['usage:', ...lines, version, '', 'wdelta COMMAND --help explains one.'].join('\n')
}

/** Runs a command and returns its exit code. */
async function perform(args: string[], signal: AbortSignal): Promise<number> {
  try {
    await main(args, signal)
    return 0
  } catch (error) {
    // Whatever failed in an interrupted command, the interruption is the reason.
    const why = signal.aborted ? signal.reason : error
    process.stderr.write(`wdelta: ${describeFailure(why)}\n`)
    if (signal.aborted) return INTERRUPTED
    return error instanceof UsageError ? BAD_USAGE : FAILURE
  }
}

const args = process.argv.slice(2)
const interrupt = new AbortController()
// The server continues after its command has returned, and handles signals itself.
const lasting = args[0] === 'serve'
if (!lasting) {
  // Only once: a second signal ends the process at once, as by default.
  for (const name of ['SIGINT', 'SIGTERM'] as const) {
    process.once(name, () => interrupt.abort(new Error(`ended by ${name}`)))
  }
}
const code = await perform(args, interrupt.signal)
// Not process.exit(): Node would join its compiler threads, one of which may wait for a garbage collection by this thread, for ever.
if (!lasting || code !== 0) process.exitCode = code
