import { type FileHandle, open } from 'node:fs/promises'
import type { ByteSource } from '../../workers/byte-source.ts'
import { CliError } from '../failure.ts'

/** Local files as blobs, whose names are their paths. Files stay open until disposal. */
export class LocalFiles implements AsyncDisposable {
  readonly #handles = new Map<string, Promise<FileHandle>>()

  /** Reads a span into a new buffer. Rejects as {@link readInto}. */
  readonly read: ByteSource['read'] = async ({ blob, start, end }, signal) => {
    // Not pooled, as it may be transferred to another thread, and not zeroed.
    const bytes = Buffer.allocUnsafeSlow(end - start)
    signal?.throwIfAborted()
    await this.readInto(blob, bytes, start)
    return bytes
  }

  /** Fills `into` from byte `start` on. Rejects with CliError `file-short` if the file ends too early, or with the error of the file system. */
  async readInto(path: string, into: Uint8Array, start: number): Promise<void> {
    const handle = await this.#open(path)
    let filled = 0
    while (filled < into.length) {
      const rest = into.length - filled
      const { bytesRead } = await handle.read(into, filled, rest, start + filled)
      if (bytesRead === 0) {
        const came = `it ends at ${start + filled}`
        throw new CliError('file-short', `${path}: expected ${start + into.length} bytes, ${came}`)
      }
      filled += bytesRead
    }
  }

  /** Bytes of a file. */
  async size(path: string): Promise<number> {
    return (await (await this.#open(path)).stat()).size
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const opened = await Promise.allSettled(this.#handles.values())
    for (const result of opened) if (result.status === 'fulfilled') await result.value.close()
  }

  #open(path: string): Promise<FileHandle> {
    const known = this.#handles.get(path)
    if (known) return known
    const handle = open(path)
    this.#handles.set(path, handle)
    return handle
  }
}
