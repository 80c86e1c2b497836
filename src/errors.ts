/**
 * All errors of the registry, by code, with HTTP status and title. The code is part of the API and determines the status. `openapi.yaml`
 * is generated from this table.
 */
export const PROBLEMS = {
  'bad-request': { status: 400, title: 'The request is malformed' },
  'bad-multipart': { status: 400, title: 'The multipart body is malformed or incomplete' },
  'upload-aborted': { status: 400, title: 'The upload ended before its body was complete' },
  unauthorized: { status: 401, title: 'A valid token is required' },
  'cross-site': {
    status: 403,
    title: 'The request is for another host, or comes from the page of another site',
  },
  forbidden: { status: 403, title: 'The token does not allow this' },
  'not-found': { status: 404, title: 'There is no such thing here' },
  'model-not-found': { status: 404, title: 'There is no such model' },
  'file-not-found': { status: 404, title: 'The model has no such file' },
  'tensor-not-found': { status: 404, title: 'The model has no such tensor' },
  'not-a-delta': { status: 404, title: 'The model is a base: it has no delta' },
  'token-not-found': { status: 404, title: 'There is no such token' },
  'method-not-allowed': { status: 405, title: 'The method is not allowed here' },
  'upload-too-slow': { status: 408, title: 'The upload was slower than the least accepted rate' },
  'has-children': { status: 409, title: 'Other models are deltas against this one' },
  'parent-deleted': { status: 409, title: 'The parent was deleted while its delta was published' },
  'precondition-failed': { status: 412, title: 'The content is not the one that If-Match names' },
  'upload-too-large': { status: 413, title: 'The upload is larger than the configured limit' },
  'unsupported-media-type': { status: 415, title: 'The content type is not accepted here' },
  'range-not-satisfiable': { status: 416, title: 'The range lies outside the content' },
  'malformed-safetensors': { status: 422, title: 'A safetensors file is malformed' },
  'malformed-delta': { status: 422, title: 'The .wdelta file is malformed' },
  'malformed-model': { status: 422, title: 'The files do not make a model' },
  'not-encodable': { status: 422, title: 'The strategy cannot hold this change' },
  'parent-unknown': { status: 422, title: 'No model matches the parent' },
  'parent-ambiguous': { status: 422, title: 'Several models that differ match the parent' },
  'parent-mismatch': { status: 422, title: 'The delta was not made against this parent' },
  'chain-too-deep': { status: 422, title: 'The lineage would be longer than allowed' },
  'lineage-too-large': { status: 422, title: 'The lineage would take more memory than allowed' },
  'too-many-requests': { status: 429, title: 'Too many requests' },
  'client-closed': { status: 499, title: 'The client went away' },
  internal: { status: 500, title: 'Internal error' },
  damaged: { status: 500, title: 'Stored bytes are damaged' },
  'blob-missing': { status: 500, title: 'Stored bytes are missing' },
  'blob-short': { status: 500, title: 'Stored bytes end too early' },
  'storage-failed': { status: 500, title: 'The storage failed' },
  'catalog-failed': { status: 500, title: 'The catalog failed' },
  'storage-unavailable': { status: 503, title: 'The storage does not answer as it should' },
  'store-in-use': { status: 503, title: 'Another registry uses the blob store' },
  overloaded: { status: 503, title: 'The registry is busy' },
  'shutting-down': { status: 503, title: 'The registry is shutting down' },
  'storage-full': { status: 507, title: 'The storage is full' },
} as const

export type ErrorCode = keyof typeof PROBLEMS

/** Additional members of a problem document, such as `rule`, `offset` or `children`. */
type ProblemDetails = Readonly<Record<string, unknown>>

/** The error class of the registry: a code of {@link PROBLEMS}, and a message that says what was expected, what came and where. */
export class RegistryError extends Error {
  override readonly name = 'RegistryError'
  readonly code: ErrorCode
  readonly details: ProblemDetails

  constructor(
    code: ErrorCode,
    message: string,
    { cause, details = {} }: { cause?: unknown; details?: ProblemDetails } = {},
  ) {
    super(message, cause === undefined ? undefined : { cause })
    this.code = code
    this.details = details
  }
}
