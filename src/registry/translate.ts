import { CodecError } from '../codec/base/errors.ts'
import { type ErrorCode, RegistryError } from '../errors.ts'
import { BlockError, BuffersOutError, FileError } from '../workers/errors.ts'

const CODES: Readonly<Record<CodecError['kind'], ErrorCode>> = {
  safetensors: 'malformed-safetensors',
  delta: 'malformed-delta',
  model: 'malformed-model',
  encode: 'not-encodable',
  range: 'range-not-satisfiable',
}

/** Turns errors of the layers below into RegistryErrors. A CodecError keeps its `rule` and `offset`; anything unknown is `internal`. */
export function translateErrors(error: unknown): RegistryError {
  if (error instanceof RegistryError) return error
  if (error instanceof CodecError) {
    const { kind, rule, offset, message } = error
    const details = offset === null ? { rule } : { rule, offset }
    return new RegistryError(CODES[kind], message, { cause: error, details })
  }
  if (error instanceof BlockError) {
    return new RegistryError('damaged', error.message, { cause: error })
  }
  if (error instanceof FileError) return translateFileError(error)
  if (error instanceof BuffersOutError) {
    return new RegistryError('overloaded', error.message, { cause: error })
  }
  if (error instanceof Error && error.name === 'AbortError') {
    return new RegistryError('client-closed', 'the client went away', { cause: error })
  }
  return new RegistryError('internal', 'an unexpected error', { cause: error })
}

/** A blob that a worker could not read, with the codes of the blob store. */
function translateFileError(cause: FileError): RegistryError {
  const code =
    cause.code === 'ENOENT'
      ? 'blob-missing'
      : cause.code === 'short'
        ? 'blob-short'
        : 'storage-failed'
  return new RegistryError(code, cause.message, { cause })
}

/** Runs `work` and translates its errors. */
export async function translated<T>(work: () => Promise<T>): Promise<T> {
  try {
    return await work()
  } catch (error) {
    throw translateErrors(error)
  }
}

/** The same methods with translated errors. */
export function translateAll<T extends { [K in keyof T]: (...args: never[]) => Promise<unknown> }>(
  methods: T,
): T {
  const wrapped = { ...methods }
  for (const name of Object.keys(methods) as (keyof T)[]) {
    const method = methods[name]
    wrapped[name] = ((...args: never[]) => translated(() => method(...args))) as T[keyof T]
  }
  return wrapped
}
