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

/** Longest window that a zstd frame may ask for, as a power of two: it is allocated before a byte is checked. */
const WINDOW_BITS = 23

/** With `info`, Node gives {@link Inflated}, which its types leave out. */
const decompressSync: (bytes: Uint8Array, options: ZstdOptions) => unknown = zstdDecompressSync
const decompressAside: (bytes: Uint8Array, options: ZstdOptions) => Promise<unknown> =
  promisify(zstdDecompress)

/** zstd of Node. */
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

/** The tools of this thread, opened when they are first asked for. */
export function threadKernels(): FrameKernels {
  shared ??= { machine: openMachine(), compression }
  return shared
}

function openMachine() {
  return openKernels(readFileSync(new URL('../codec/kernels/kernels.wasm', import.meta.url)))
}

/** A zstd frame of `bytes`, as {@link Compression.compress}, made beside this thread. */
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
 * The content of one zstd frame, which must be `size` bytes, inflated beside this thread. Its memory is asked for at once: `size` must have
 * been compared with what is stored. Rejects with CodecError `zstd` for anything else.
 */
export async function inflate(bytes: Uint8Array, size: number): Promise<Uint8Array> {
  try {
    // In one piece: of many, each would come through the event loop, and all be copied at the end.
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
    // Node wants at least 1, and one byte more tells a longer content from an exact one.
    maxOutputLength: size + 1,
    // How much was read: Node passes over what follows a frame.
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
