import { readFileSync } from 'node:fs'
import { promisify } from 'node:util'
import {
  constants,
  type ZstdOptions,
  zstdCompress,
  zstdCompressSync,
  zstdDecompress,
  zstdDecompressSync,
} from 'node:zlib'
import { CodecError } from '../codec/base/errors.ts'
import type { Compression } from '../codec/base/zstd.ts'
import type { FrameKernels } from '../codec/frames/frame-kernels.ts'
import { openKernels } from '../codec/kernels/simd.ts'

/** Greatest window of a zstd frame, as a power of two bytes: the window is allocated before a byte is checked. */
const WINDOW_BITS = 23

/** With `info`, Node gives {@link Inflated}, which its types leave out. */
const decompressSync: (bytes: Uint8Array, options: ZstdOptions) => unknown = zstdDecompressSync
const decompressAside: (bytes: Uint8Array, options: ZstdOptions) => Promise<unknown> =
  promisify(zstdDecompress)

/** zstd from `node:zlib`. */
const compression: Compression = {
  compress: (bytes, level) => zstdCompressSync(bytes, frameOptions(bytes.length, level)),
  decompress: (bytes, size) => {
    try {
      return checked(decompressSync(bytes, optionsFor(size)) as Inflated, bytes, size)
    } catch (cause) {
      throw noFrame(cause, size)
    }
  },
}

let shared: FrameKernels | undefined

/** The kernels and the zstd of this thread, opened when they are first asked for. */
export function threadKernels(): FrameKernels {
  shared ??= { machine: openMachine(), compression }
  return shared
}

function openMachine() {
  return openKernels(readFileSync(new URL('../codec/kernels/kernels.wasm', import.meta.url)))
}

/** A zstd frame of `bytes`, as by {@link Compression.compress}, but made in Node's own thread pool. */
export function deflate(bytes: Uint8Array, level: number): Promise<Uint8Array> {
  return zstdCompressAside(bytes, frameOptions(bytes.length, level))
}

function frameOptions(size: number, level: number) {
  return {
    params: { [constants.ZSTD_c_compressionLevel]: level, [constants.ZSTD_c_contentSizeFlag]: 1 },
    pledgedSrcSize: size,
    maxOutputLength: size + (size >> 7) + 1024,
  }
}

const zstdCompressAside = promisify(zstdCompress)

/**
 * The content of one zstd frame, which must be `size` bytes, inflated in Node's own thread pool. All of its memory is taken at once: `size` must
 * have been compared with a limit before. Rejects with CodecError `zstd` for anything else.
 */
export async function inflate(bytes: Uint8Array, size: number): Promise<Uint8Array> {
  try {
    // In one piece: pieces would each pass the event loop, and be copied once more at the end.
    const options = { ...optionsFor(size), chunkSize: Math.max(size + 1, constants.Z_MIN_CHUNK) }
    return checked((await decompressAside(bytes, options)) as Inflated, bytes, size)
  } catch (cause) {
    throw noFrame(cause, size)
  }
}

/** What Node gives with `info`, which its types leave out. */
interface Inflated {
  readonly buffer: Uint8Array
  readonly engine: { readonly bytesWritten: number }
}

function optionsFor(size: number) {
  return {
    params: { [constants.ZSTD_d_windowLogMax]: WINDOW_BITS },
    // Node wants at least 1, and with one byte more a longer content shows.
    maxOutputLength: size + 1,
    // Gives the bytes that were read: Node ignores what follows a frame.
    info: true,
  }
}

function checked({ buffer, engine }: Inflated, bytes: Uint8Array, size: number): Uint8Array {
  if (buffer.length === size && engine.bytesWritten === bytes.length) return buffer
  throw new Error(`got ${buffer.length}, and ${bytes.length - engine.bytesWritten} bytes after it`)
}

function noFrame(cause: unknown, size: number): CodecError {
  const message = `expected a zstd frame of ${size} bytes: ${(cause as Error).message}`
  return new CodecError('delta', 'zstd', message, null, { cause })
}
