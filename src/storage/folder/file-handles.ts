import { type FileHandle, open } from 'node:fs/promises'

/** Most files kept open: a stream of a popular model reads hundreds of ranges a second from few files. */
const MAX_OPEN = 64

interface Entry {
  readonly handle: Promise<FileHandle>
  users: number
  /** True once the entry has left the cache: its last user closes the file. */
  dropped: boolean
}

/** A cache of open files by path; the least recently used is closed first. A file is never closed during a read. */
export class FileHandles {
  readonly #entries = new Map<string, Entry>()

  /** Calls `work` with the open file. Rejects as opening it does, and as `work`. */
  async use<T>(path: string, work: (handle: FileHandle) => Promise<T>): Promise<T> {
    const entry = this.#take(path)
    try {
      return await work(await entry.handle)
    } catch (error) {
      this.#drop(path, entry)
      throw error
    } finally {
      entry.users--
      if (entry.dropped && entry.users === 0) await shut(entry)
    }
  }

  /** Closes a file, after the reads under way; the next use opens it again. */
  async forget(path: string): Promise<void> {
    const entry = this.#entries.get(path)
    if (!entry) return
    this.#drop(path, entry)
    if (entry.users === 0) await shut(entry)
  }

  async close(): Promise<void> {
    await Promise.all([...this.#entries.keys()].map(path => this.forget(path)))
  }

  /** The entry of a file, counted as used before another one can be closed to make room for it. */
  #take(path: string): Entry {
    const known = this.#entries.get(path)
    if (known) {
      this.#entries.delete(path)
      this.#entries.set(path, known)
      known.users++
      return known
    }
    const entry: Entry = { handle: open(path, 'r'), users: 1, dropped: false }
    this.#entries.set(path, entry)
    for (const [oldest, { users }] of this.#entries) {
      if (this.#entries.size <= MAX_OPEN) break
      if (users === 0) void this.forget(oldest)
    }
    return entry
  }

  #drop(path: string, entry: Entry): void {
    entry.dropped = true
    if (this.#entries.get(path) === entry) this.#entries.delete(path)
  }
}

/** Closes the file, if it could be opened at all. A failure is ignored: the file was only read. */
async function shut({ handle }: Entry): Promise<void> {
  await handle.then(file => file.close()).catch(() => {})
}
