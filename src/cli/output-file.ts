import { randomBytes } from 'node:crypto'
import { type FileHandle, mkdir, open, rename, unlink } from 'node:fs/promises'
import { basename, dirname, join } from 'node:path'

/** Most writes under way: copying into the page cache takes more than one thread to be fast. */
const MAX_IN_FLIGHT = 4

/**
 * A file that appears under its name only when it is complete and durable. Until `commit`, its bytes are in a hidden file beside it; disposal
 * without a commit removes that.
 */
export class OutputFile implements AsyncDisposable {
  readonly #path: string
  /** The path of the bytes until `commit`. A caller that does not call `write` may write there itself. */
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

  /** Appends bytes, which must not change afterwards. Resolves once few enough writes are under way, so a failure may come with a later call. */
  async write(bytes: Uint8Array): Promise<void> {
    const write = this.#writeAt(bytes, this.#position)
    this.#position += bytes.length
    // A later call awaits it, or none if the caller stops.
    write.catch(() => {})
    this.#writes.add(write)
    void write.then(
      () => this.#writes.delete(write),
      () => {},
    )
    if (this.#writes.size >= MAX_IN_FLIGHT) await Promise.race(this.#writes)
  }

  /** Makes the file durable and gives it its name. Replaces an existing file. */
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
