import { CodecError } from '../codec/base/errors.ts'

/** A failure with a stable code: the rule of a codec error, the code of a problem document, or one of the CLI's own. */
export class CliError extends Error {
  override readonly name = 'CliError'
  readonly code: string

  constructor(code: string, message: string, options?: ErrorOptions) {
    super(message, options)
    this.code = code
  }
}

/** An error as one line for a person: `code: message`. */
export function describeFailure(error: unknown): string {
  const line = (text: string) => text.replaceAll(/\s*\n\s*/g, ' ')
  if (error instanceof CliError) return line(`${error.code}: ${error.message}`)
  if (error instanceof CodecError) return line(`${error.rule}: ${error.message}`)
  return line(error instanceof Error ? error.message : String(error))
}

/** An error of the codec as a CliError that names the file; other errors unchanged. */
export function inFile(path: string, error: unknown): unknown {
  if (!(error instanceof CodecError)) return error
  return new CliError(error.rule, `${path}: ${error.message}`, { cause: error })
}
