import { RegistryError } from '../errors.ts'

/** Codes for a disk, a quota or a file that can take no more. */
const FULL = new Set(['ENOSPC', 'EDQUOT', 'EFBIG'])

/**
 * An error of the file system as a RegistryError, with the cause: `storage-full` for a closed set of codes, `storage-failed` for all others.
 * A RegistryError passes unchanged.
 */
export function translateStorageError(error: unknown, what: string): RegistryError {
  if (error instanceof RegistryError) return error
  const { code, message } = error as NodeJS.ErrnoException
  if (code !== undefined && FULL.has(code)) {
    return new RegistryError('storage-full', `no space left to write ${what}`, { cause: error })
  }
  return new RegistryError('storage-failed', `${what}: ${message}`, { cause: error })
}

/** As {@link translateStorageError} for the file of a blob, where ENOENT is `blob-missing`. Elsewhere it is a missing folder, not a missing blob. */
export function translateReadError(error: unknown, key: string): RegistryError {
  if ((error as NodeJS.ErrnoException).code !== 'ENOENT') return translateStorageError(error, key)
  return new RegistryError('blob-missing', `${key} is not in the store`, { cause: error })
}
