/** A SHA-256 that takes bytes in pieces; `digest` ends it and gives its 32 bytes. */
export interface Hasher {
  update(bytes: Uint8Array): void
  digest(): Uint8Array
}
