import { RegistryError } from '../../errors.ts'

/**
 * An error of SQLite as a RegistryError, with the cause: `storage-full` for a full disk, which the operator can mend, `catalog-failed` for all
 * others. A RegistryError passes unchanged.
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

/** Whether SQLite found no room. */
export function isFull(error: unknown): boolean {
  return (error as { code?: string }).code === 'SQLITE_FULL'
}

/** Whether the system under SQLite failed: how much was written is not known then. */
export function isIoError(error: unknown): boolean {
  return (error as { code?: string }).code?.startsWith('SQLITE_IOERR') ?? false
}
