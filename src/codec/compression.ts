/** zstd and crc32 as the codec needs them: it does no I/O and has no library of its own. In Node, `node:zlib` has both. */
export interface Compression {
  /** The crc32 of zlib, 0..2^32-1; `before` is that of the bytes before, for bytes that come in pieces. */
  crc32(bytes: Uint8Array, before?: number): number
  /** One zstd frame with its content size in its header. `level`: 1..19. */
  compress(bytes: Uint8Array, level: number): Uint8Array
  /**
   * The content of one zstd frame, which must be `size` bytes: no more than that is allocated for it.
   * @throws CodecError `zstd` for anything else
   */
  decompress(bytes: Uint8Array, size: number): Uint8Array
}
