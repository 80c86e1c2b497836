/** zstd, which the caller brings, because the codec depends on no library. In Node, `node:zlib` has it. */
export interface Compression {
  /** One zstd frame with its content size in its header. `level`: 1..19. */
  compress(bytes: Uint8Array, level: number): Uint8Array
  /**
   * The content of one zstd frame, which must be `size` bytes; no more than that is allocated.
   * @throws CodecError `zstd` for anything else
   */
  decompress(bytes: Uint8Array, size: number): Uint8Array
}
