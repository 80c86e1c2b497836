import { RegistryError } from '../errors.ts'

const FULL = new Set(['ENOSPC', 'EDQUOT', 'EFBIG'])

/**
 * An error of the file system as a RegistryError: by a closed set of codes, `storage-failed` for all others, with the cause kept.
 * A RegistryError passes as it is.
 */
export function translateStorageError(error: unknown, what: string): RegistryError {
  if (error instanceof RegistryError) return error
  const { code, message } = error as NodeJS.ErrnoException
  if (code === 'ENOENT') {
    return new RegistryError('blob-missing', `${what} is not in the store`, { cause: error })
  }
  if (code !== undefined && FULL.has(code)) {
    return new RegistryError('storage-full', `no space left to write ${what}`, { cause: error })
  }
  return new RegistryError('storage-failed', `${what}: ${message}`, { cause: error })
}
