import { type FileHandle, open } from 'node:fs/promises'

/** Files that stay open: a stream of a hot model reads hundreds of ranges a second, of few files. */
const KEPT = 64

interface Entry {
  readonly handle: Promise<FileHandle>
  users: number
  /** Set when the entry left the cache: the last user closes the file. */
  dropped: boolean
}

/** Open files by path, least recently used first out. A file is never closed under a read. */
export class FileHandles {
  readonly #entries = new Map<string, Entry>()

  /** Calls `work` with the open file. Rejects with what opening it, or `work`, rejects with. */
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

  /** Closes a file once nobody reads it; the next use opens it anew. */
  async forget(path: string): Promise<void> {
    const entry = this.#entries.get(path)
    if (!entry) return
    this.#drop(path, entry)
    if (entry.users === 0) await shut(entry)
  }

  async close(): Promise<void> {
    await Promise.all([...this.#entries.keys()].map(path => this.forget(path)))
  }

  /** The entry of a file, counted as used before any other can be pushed out for it. */
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
      if (this.#entries.size <= KEPT) break
      if (users === 0) void this.forget(oldest)
    }
    return entry
  }

  #drop(path: string, entry: Entry): void {
    entry.dropped = true
    if (this.#entries.get(path) === entry) this.#entries.delete(path)
  }
}

/** Closes the file, if it could be opened at all. It was only read: that it cannot be closed loses nothing. */
async function shut({ handle }: Entry): Promise<void> {
  await handle.then(file => file.close()).catch(() => {})
}
