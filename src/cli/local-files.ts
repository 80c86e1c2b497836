import { type FileHandle, open } from 'node:fs/promises'
import type { Span } from '../codec/index.ts'
import type { ReadSpan } from '../workers/execute.ts'
import { CliError } from './failure.ts'

/** Files on disk as blobs: a blob's name is its path. They stay open until this is disposed of. */
export class LocalFiles implements AsyncDisposable {
  readonly #handles = new Map<string, Promise<FileHandle>>()

  /** Reads a span. Rejects with CliError `file-short` if the file ends within it, or the error of the file system. */
  readonly read: ReadSpan = async (span, signal) => {
    const handle = await this.#open(span.blob)
    signal?.throwIfAborted()
    return readExactly(handle, span)
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

async function readExactly(handle: FileHandle, { blob, start, end }: Span) {
  // A buffer of its own, which may be handed to another thread, and not zeroed first.
  const bytes = Buffer.allocUnsafeSlow(end - start)
  let filled = 0
  while (filled < bytes.length) {
    const { bytesRead } = await handle.read(bytes, filled, bytes.length - filled, start + filled)
    if (bytesRead === 0) {
      throw new CliError(
        'file-short',
        `${blob}: expected ${end} bytes, it ends at ${start + filled}`,
      )
    }
    filled += bytesRead
  }
  return bytes
}
