import { RegistryError } from '../../errors.ts'

/** An error of the SDK. One that the service answered has a status; the others come from the network or the SDK. */
interface S3Error {
  readonly name: string
  readonly message: string
  readonly $metadata?: { readonly httpStatusCode?: number }
}

/** Codes of servers that are full. */
const FULL = new Set([
  'XMinioStorageFull',
  'InsufficientStorage',
  'QuotaExceeded',
  'XMinioAdminBucketQuotaExceeded',
  'StorageFull',
])
/** Codes after which another try may go well, whatever their status. */
const BUSY = new Set(['SlowDown', 'RequestTimeout', 'ServiceUnavailable', 'InternalError'])

/** True if the server says that there is no such object. Any other 404 means a missing bucket, or comes from a proxy. */
export function isMissing(error: unknown): boolean {
  return (error as S3Error).name === 'NoSuchKey'
}

/** True for the 404 of a HEAD, which has no body and so no code: it may be the object or the bucket that is missing. */
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

/** True if the server does not have this operation. */
export function isNotImplemented(error: unknown): boolean {
  return (error as S3Error).name === 'NotImplemented' || statusOf(error) === 501
}

/** The HTTP status of the answer; null if there was none. */
export function statusOf(error: unknown): number | null {
  return (error as S3Error).$metadata?.httpStatusCode ?? null
}

/**
 * An error of a bucket as a RegistryError, with the cause: `storage-full` for a closed set of codes, `storage-unavailable` for what may go well
 * later (no answer, a cut or slow connection, 5xx, a success that cannot be understood), `storage-failed` for all others. A RegistryError passes
 * unchanged.
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

/** The error for a successful answer without a required member, such as a proxy's page. */
export function lacking(what: string, member: string): RegistryError {
  return new RegistryError('storage-unavailable', `${what}: the answer has no ${member}`)
}
