import { randomBytes } from 'node:crypto'
import { mkdir, open, readdir, rename, rm, stat, writeFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'

/** One chunk of one blob: `key` is the blob's, `index` counts chunks from its beginning. */
export interface ChunkName {
  readonly key: string
  readonly index: number
}

interface Entry extends ChunkName {
  readonly bytes: number
}

const TEMPORARY = '.new-'

/**
 * Chunks of blobs in a folder, up to so many bytes in all: what was used longest ago makes room. Nothing in it is synced or trusted: it
 * may vanish at any time, and its bytes are checked by who reads them.
 */
export class DiskChunks {
  readonly #folder: string
  readonly #most: number
  /** In the order of their last use. */
  readonly #entries = new Map<string, Entry>()
  #bytes = 0

  private constructor(folder: string, mostBytes: number) {
    this.#folder = folder
    this.#most = mostBytes
  }

  /** Opens a folder with what an earlier process left in it. */
  static async open(folder: string, mostBytes: number): Promise<DiskChunks> {
    const chunks = new DiskChunks(folder, mostBytes)
    await mkdir(folder, { recursive: true })
    const found: (Entry & { readonly written: number })[] = []
    for (const file of await readdir(folder, { recursive: true, withFileTypes: true })) {
      if (!file.isFile()) continue
      const path = join(file.parentPath, file.name)
      const name = parseName(path.slice(folder.length + 1))
      if (name) {
        const { size: bytes, mtimeMs: written } = await stat(path)
        found.push({ ...name, bytes, written })
      } else await rm(path, { force: true })
    }
    // When they were used last is not known any more.
    for (const { key, index, bytes } of found.sort((a, b) => a.written - b.written)) {
      chunks.#add({ key, index, bytes })
    }
    await chunks.#makeRoom()
    return chunks
  }

  get bytes(): number {
    return this.#bytes
  }

  has(name: ChunkName): boolean {
    return this.#entries.has(idOf(name))
  }

  /** Fills `into` from byte `start` of a chunk on. False if it does not have those bytes (any more). */
  async read(name: ChunkName, start: number, into: Uint8Array): Promise<boolean> {
    const id = idOf(name)
    const entry = this.#entries.get(id)
    if (!entry) return false
    this.#entries.delete(id)
    this.#entries.set(id, entry)
    try {
      await using file = await open(this.#path(id), 'r')
      for (let at = 0; at < into.length; ) {
        const { bytesRead } = await file.read(into, at, into.length - at, start + at)
        if (bytesRead === 0) throw new Error('the chunk ends too early')
        at += bytesRead
      }
      return true
    } catch {
      await this.drop(name)
      return false
    }
  }

  /** Keeps a chunk, if there is room for it on the disk. */
  async write(name: ChunkName, bytes: Uint8Array): Promise<void> {
    const id = idOf(name)
    if (this.#entries.has(id) || bytes.length > this.#most) return
    const path = this.#path(id)
    const temporary = join(dirname(path), TEMPORARY + randomBytes(8).toString('hex'))
    try {
      await mkdir(dirname(path), { recursive: true })
      await writeFile(temporary, bytes)
      await rename(temporary, path)
      this.#add({ ...name, bytes: bytes.length })
      await this.#makeRoom()
    } catch {
      // A disk that is full, say: then it is not kept.
      await rm(temporary, { force: true }).catch(() => {})
    }
  }

  /** Forgets a chunk. True if it was there. */
  async drop(name: ChunkName): Promise<boolean> {
    const id = idOf(name)
    const entry = this.#entries.get(id)
    if (!entry) return false
    this.#entries.delete(id)
    this.#bytes -= entry.bytes
    await rm(this.#path(id), { force: true }).catch(() => {})
    return true
  }

  /** Forgets all chunks of a blob. */
  async dropBlob(key: string): Promise<void> {
    for (const entry of [...this.#entries.values()]) if (entry.key === key) await this.drop(entry)
    await rm(this.#path(key), { recursive: true, force: true }).catch(() => {})
  }

  #add(entry: Entry): void {
    const id = idOf(entry)
    this.#bytes += entry.bytes - (this.#entries.get(id)?.bytes ?? 0)
    this.#entries.set(id, entry)
  }

  async #makeRoom(): Promise<void> {
    for (const oldest of this.#entries.values()) {
      if (this.#bytes <= this.#most) return
      await this.drop(oldest)
    }
  }

  #path(id: string): string {
    return join(this.#folder, id)
  }
}

function idOf({ key, index }: ChunkName): string {
  return `${key}/${index}`
}

function parseName(path: string): ChunkName | null {
  const match = /^(.+)\/(\d{1,9})$/.exec(path)
  return match && { key: match[1]!, index: Number(match[2]) }
}
