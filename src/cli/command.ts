import { type ParseArgsConfig, parseArgs } from 'node:util'

type Options = NonNullable<ParseArgsConfig['options']>

type Values<O extends Options> = ReturnType<
  typeof parseArgs<{ options: O; allowPositionals: true; strict: true }>
>['values']

interface CommandSpec<O extends Options> {
  /** The usage line without `wdelta`. */
  readonly usage: string
  /** The text that `--help` prints below the usage line. */
  readonly help: string
  readonly options: O
  /** Least and most positional arguments. */
  readonly positionals: readonly [least: number, most: number]
  run(values: Values<O>, positionals: string[], signal: AbortSignal): Promise<void>
}

/** A command of `wdelta`. */
export interface Command {
  readonly usage: string
  readonly help: string
  /** Runs the command with the arguments after its name. Rejects with {@link UsageError} for arguments that it does not take. */
  run(args: readonly string[], signal: AbortSignal): Promise<void>
}

/** An error in the arguments: exit code 2. */
export class UsageError extends Error {
  override readonly name = 'UsageError'
}

/** Makes a command from its description. The caller handles `--help`, which never reaches `run`. */
export function command<const O extends Options>(spec: CommandSpec<O>): Command {
  const { usage, help } = spec
  return {
    usage,
    help,
    run: async (args, signal) => {
      const { values, positionals } = parse(spec, args)
      const [least, most] = spec.positionals
      if (positionals.length < least || positionals.length > most) {
        throw new UsageError(`expected: wdelta ${usage}`)
      }
      await spec.run(values, positionals, signal)
    },
  }
}

function parse<O extends Options>({ options }: CommandSpec<O>, args: readonly string[]) {
  try {
    return parseArgs({ args: [...args], options, allowPositionals: true, strict: true })
  } catch (error) {
    // parseArgs throws only for faulty arguments.
    throw new UsageError((error as Error).message, { cause: error })
  }
}

/** One of `choices`. @throws UsageError for anything else. */
export function choice<T extends string>(name: string, text: string, choices: readonly T[]): T {
  const found = choices.find(candidate => candidate === text)
  if (found === undefined)
    throw new UsageError(`--${name}: expected ${choices.join(', ')}, got ${text}`)
  return found
}

/** A decimal number; undefined if the option is absent. @throws UsageError for other text. */
export function numeric(name: string, text: string | undefined): number | undefined {
  if (text === undefined) return undefined
  const value = Number(text)
  if (text.trim() === '' || !Number.isFinite(value)) {
    throw new UsageError(`--${name}: expected a number, got ${JSON.stringify(text)}`)
  }
  return value
}

/** A required option. @throws UsageError if it is absent. */
export function required(name: string, text: string | undefined): string {
  if (text === undefined || text === '') throw new UsageError(`--${name} is required`)
  return text
}
