import { type ParseArgsConfig, parseArgs } from 'node:util'

type Options = NonNullable<ParseArgsConfig['options']>

type Values<O extends Options> = ReturnType<
  typeof parseArgs<{ options: O; allowPositionals: true; strict: true }>
>['values']

interface CommandSpec<O extends Options> {
  /** What follows `wdelta` in the usage line. */
  readonly usage: string
  /** What `--help` prints below the usage line. */
  readonly help: string
  readonly options: O
  /** Least and most positional arguments. */
  readonly positionals: readonly [least: number, most: number]
  run(values: Values<O>, positionals: string[], signal: AbortSignal): Promise<void>
}

/** A command of `wdelta`, ready to be run with what follows its name. */
export interface Command {
  readonly usage: string
  readonly help: string
  /** Parses and performs. Rejects with {@link UsageError} for arguments that it does not take. */
  run(args: readonly string[], signal: AbortSignal): Promise<void>
}

/** Arguments that a command does not take: exit code 2. */
export class UsageError extends Error {
  override readonly name = 'UsageError'
}

/** Makes a command of its description. `--help` goes to `help` and never reaches `run`. */
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
    // parseArgs throws nothing but what is wrong with the arguments.
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

/** A decimal number, or undefined where the option is absent. @throws UsageError for other text. */
export function numeric(name: string, text: string | undefined): number | undefined {
  if (text === undefined) return undefined
  const value = Number(text)
  if (text.trim() === '' || !Number.isFinite(value)) {
    throw new UsageError(`--${name}: expected a number, got ${JSON.stringify(text)}`)
  }
  return value
}

/** An option that the command cannot do without. @throws UsageError if it is absent. */
export function required(name: string, text: string | undefined): string {
  if (text === undefined || text === '') throw new UsageError(`--${name} is required`)
  return text
}
