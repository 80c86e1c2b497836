import { RegistryError } from '../../errors.ts'

/**
 * An error of SQLite as a RegistryError, by closed set: a full disk (`storage-full`) is the operator's to mend, everything else is
 * `catalog-failed`; the cause is kept. A RegistryError passes as it is.
 */
export function translateSqliteError(error: unknown, what: string): RegistryError {
  if (error instanceof RegistryError) return error
  const { code, message } = error as { code?: string; message: string }
  if (isFull(error)) {
    return new RegistryError('storage-full', `no space left for ${what}`, { cause: error })
  }
  if (code?.startsWith('SQLITE_BUSY')) {
    return new RegistryError('catalog-failed', `${what} is in use by another process`, {
      cause: error,
    })
  }
  return new RegistryError('catalog-failed', `${what}: ${message}`, { cause: error })
}

/** True where SQLite found no room. */
export function isFull(error: unknown): boolean {
  return (error as { code?: string }).code === 'SQLITE_FULL'
}

/** True for a failure of the system under SQLite: how far it came is then not known. */
export function isIoError(error: unknown): boolean {
  return (error as { code?: string }).code?.startsWith('SQLITE_IOERR') ?? false
}
