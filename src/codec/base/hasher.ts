/** Bytes of a SHA-256. */
export const DIGEST_BYTES = 32

/** A SHA-256 that takes bytes in pieces; `digest` ends it and gives its DIGEST_BYTES bytes. */
export interface Hasher {
  update(bytes: Uint8Array): void
  digest(): Uint8Array
}
