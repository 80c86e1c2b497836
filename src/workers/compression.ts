import { constants, crc32, zstdCompressSync, zstdDecompressSync } from 'node:zlib'
import { CodecError, type Compression } from '../codec/index.ts'

/** Longest window that a zstd frame may ask for, as a power of two: it is allocated before a byte is checked. */
const WINDOW_BITS = 23

/** zstd and crc32 of Node. */
export const zlibCompression: Compression = {
  crc32: bytes => crc32(bytes),
  compress: (bytes, level) =>
    zstdCompressSync(bytes, {
      params: {
        [constants.ZSTD_c_compressionLevel]: level,
        [constants.ZSTD_c_contentSizeFlag]: 1,
      },
      pledgedSrcSize: bytes.length,
      maxOutputLength: bytes.length + (bytes.length >> 7) + 1024,
    }),
  decompress: (bytes, size) => {
    let content: Uint8Array
    try {
      content = zstdDecompressSync(bytes, {
        params: { [constants.ZSTD_d_windowLogMax]: WINDOW_BITS },
        // Node wants at least 1, and one byte more tells a longer content from an exact one.
        maxOutputLength: size + 1,
      })
    } catch (cause) {
      const message = `expected a zstd frame of ${size} bytes: ${(cause as Error).message}`
      throw new CodecError('delta', 'zstd', message, null, { cause })
    }
    if (content.length === size) return content
    const message = `expected a zstd frame of ${size} bytes, got ${content.length}`
    throw new CodecError('delta', 'zstd', message)
  },
}
