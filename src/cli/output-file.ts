import { randomBytes } from 'node:crypto'
import { type FileHandle, mkdir, open, rename, unlink } from 'node:fs/promises'
import { basename, dirname, join } from 'node:path'

/** Writes under way at once: the copy into the page cache is the cost, and it takes more than one thread. */
const IN_FLIGHT = 4

/**
 * A file that appears under its name only when it is complete and durable: until `commit` its bytes are in a
 * hidden file beside it, which disposing of this without a commit removes.
 */
export class OutputFile implements AsyncDisposable {
  readonly #path: string
  /** Where the bytes are until `commit`: who does not append may write there. */
  readonly temporary: string
  readonly #handle: FileHandle
  readonly #writes = new Set<Promise<void>>()
  #position = 0
  #closed = false

  private constructor(path: string, temporary: string, handle: FileHandle) {
    this.#path = path
    this.temporary = temporary
    this.#handle = handle
  }

  /** Begins a file at `path`; its folder is created if missing. */
  static async create(path: string): Promise<OutputFile> {
    const folder = dirname(path)
    await mkdir(folder, { recursive: true })
    const temporary = join(folder, `.${basename(path)}.${randomBytes(6).toString('hex')}.tmp`)
    return new OutputFile(path, temporary, await open(temporary, 'wx'))
  }

  /** Appends. Resolves once few enough writes are under way; a failure may come with a later call. The bytes must not change. */
  async write(bytes: Uint8Array): Promise<void> {
    const write = this.#writeAt(bytes, this.#position)
    this.#position += bytes.length
    // It is awaited by a later call, or by none if the caller stops.
    write.catch(() => {})
    this.#writes.add(write)
    void write.then(
      () => this.#writes.delete(write),
      () => {},
    )
    if (this.#writes.size >= IN_FLIGHT) await Promise.race(this.#writes)
  }

  /** Makes the file durable and gives it its name, in place of one that is there. */
  async commit(): Promise<void> {
    await Promise.all(this.#writes)
    await this.#handle.datasync()
    await this.#close()
    await rename(this.temporary, this.#path)
    await syncFolder(dirname(this.#path))
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#closed) return
    await Promise.allSettled(this.#writes)
    await this.#close()
    await unlink(this.temporary)
  }

  async #close(): Promise<void> {
    this.#closed = true
    await this.#handle.close()
  }

  async #writeAt(bytes: Uint8Array, position: number): Promise<void> {
    let done = 0
    while (done < bytes.length) {
      const rest = bytes.length - done
      done += (await this.#handle.write(bytes, done, rest, position + done)).bytesWritten
    }
  }
}

/** Makes the names in a folder durable. */
export async function syncFolder(path: string): Promise<void> {
  const folder = await open(path)
  try {
    await folder.sync()
  } finally {
    await folder.close()
  }
}
