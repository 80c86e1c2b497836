import { RegistryError } from '../errors.ts'

const FULL = new Set(['ENOSPC', 'EDQUOT', 'EFBIG'])

/**
 * An error of the file system as a RegistryError: by a closed set of codes, `storage-failed` for all others, with the cause kept.
 * A RegistryError passes as it is.
 */
export function translateStorageError(error: unknown, what: string): RegistryError {
  if (error instanceof RegistryError) return error
  const { code, message } = error as NodeJS.ErrnoException
  if (code !== undefined && FULL.has(code)) {
    return new RegistryError('storage-full', `no space left to write ${what}`, { cause: error })
  }
  return new RegistryError('storage-failed', `${what}: ${message}`, { cause: error })
}

/**
 * An error of opening or asking for a blob: ENOENT is `blob-missing`, as it is nowhere else (a folder of the store that is gone
 * says nothing of any blob).
 */
export function translateReadError(error: unknown, key: string): RegistryError {
  if ((error as NodeJS.ErrnoException).code !== 'ENOENT') return translateStorageError(error, key)
  return new RegistryError('blob-missing', `${key} is not in the store`, { cause: error })
}
