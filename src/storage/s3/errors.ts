import { RegistryError } from '../../errors.ts'

/** What the SDK throws: errors of the service have a status, all others are of the network or of the SDK itself. */
interface S3Error {
  readonly name: string
  readonly message: string
  readonly $metadata?: { readonly httpStatusCode?: number }
}

/** Codes of servers that have no room. */
const FULL = new Set([
  'XMinioStorageFull',
  'InsufficientStorage',
  'QuotaExceeded',
  'XMinioAdminBucketQuotaExceeded',
  'StorageFull',
])
/** Codes that say that another try may go well, whatever their status. */
const BUSY = new Set(['SlowDown', 'RequestTimeout', 'ServiceUnavailable', 'InternalError'])

/** True if the server says that there is no such object. Any 404 but this is of a bucket that is gone, or of something before the server. */
export function isMissing(error: unknown): boolean {
  return (error as S3Error).name === 'NoSuchKey'
}

/** True for the 404 of a HEAD, which has no body, and so no code: what is not there remains open. */
export function isNotFound(error: unknown): boolean {
  return (error as S3Error).name === 'NotFound'
}

/** True if the server says that there is no such multipart upload. */
export function isUploadGone(error: unknown): boolean {
  return (error as S3Error).name === 'NoSuchUpload'
}

/** True if the server says that a range lies beyond the end of the object. */
export function isBeyondEnd(error: unknown): boolean {
  return (error as S3Error).name === 'InvalidRange' || statusOf(error) === 416
}

/** True if the server says that this operation is none of its own. */
export function isNotImplemented(error: unknown): boolean {
  return (error as S3Error).name === 'NotImplemented' || statusOf(error) === 501
}

/** The HTTP status of what the server answered; null where it did not. */
export function statusOf(error: unknown): number | null {
  return (error as S3Error).$metadata?.httpStatusCode ?? null
}

/**
 * An error of a bucket as a RegistryError: `storage-full` by a closed set of codes, `storage-unavailable` for what may go well later (no answer,
 * a cut or slow connection, 5xx, a success that cannot be understood), `storage-failed` for all others, with the cause kept. A RegistryError
 * passes as it is.
 */
export function translateS3Error(error: unknown, what: string): RegistryError {
  if (error instanceof RegistryError) return error
  const { name, message } = error as S3Error
  const status = statusOf(error)
  const said = status === null ? `${name}: ${message}` : `${status} ${name}: ${message}`
  if (FULL.has(name) || status === 507) {
    return new RegistryError('storage-full', `no space left for ${what} (${said})`, {
      cause: error,
    })
  }
  const isNoRefusal = status === null || status < 300
  const isBusy = BUSY.has(name) || isNoRefusal || status >= 500 || status === 429
  const isLater = isBusy && !isNotImplemented(error)
  const code = isLater ? 'storage-unavailable' : 'storage-failed'
  return new RegistryError(code, `${what}: ${said}`, { cause: error })
}

/** The error for a success that lacks what it must have: a proxy's page, say. */
export function lacking(what: string, member: string): RegistryError {
  return new RegistryError('storage-unavailable', `${what}: the answer has no ${member}`)
}
