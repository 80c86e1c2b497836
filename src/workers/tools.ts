import { readFileSync } from 'node:fs'
import { constants, zstdCompressSync, zstdDecompressSync } from 'node:zlib'
import { CodecError, type Compression, type LosslessTools, openKernels } from '../codec/index.ts'

/** Longest window that a zstd frame may ask for, as a power of two: it is allocated before a byte is checked. */
const WINDOW_BITS = 23

/** zstd of Node. */
const compression: Compression = {
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
    const { buffer, engine } = inflate(bytes, size)
    if (buffer.length === size && engine.bytesWritten === bytes.length) return buffer
    const came = `got ${buffer.length}, and ${bytes.length - engine.bytesWritten} bytes after it`
    throw new CodecError('delta', 'zstd', `expected a zstd frame of ${size} bytes, ${came}`)
  },
}

let shared: LosslessTools | undefined

/** The tools of this thread, opened when they are first asked for. */
export function tools(): LosslessTools {
  shared ??= { machine: openMachine(), compression }
  return shared
}

function openMachine() {
  return openKernels(readFileSync(new URL('../codec/kernels/kernels.wasm', import.meta.url)))
}

/** What Node gives with `info`, which its types leave out. */
interface Inflated {
  readonly buffer: Uint8Array
  readonly engine: { readonly bytesWritten: number }
}

function inflate(bytes: Uint8Array, size: number): Inflated {
  try {
    const options = {
      params: { [constants.ZSTD_d_windowLogMax]: WINDOW_BITS },
      // Node wants at least 1, and one byte more tells a longer content from an exact one.
      maxOutputLength: size + 1,
      // How much was read: Node passes over what follows a frame.
      info: true,
    }
    return zstdDecompressSync(bytes, options) as unknown as Inflated
  } catch (cause) {
    const message = `expected a zstd frame of ${size} bytes: ${(cause as Error).message}`
    throw new CodecError('delta', 'zstd', message, null, { cause })
  }
}
