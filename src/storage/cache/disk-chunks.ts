import { randomBytes } from 'node:crypto'
import { mkdir, open, readdir, rename, rm, stat, writeFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'

/** One chunk of one blob: `key` is the blob's, `index` counts chunks from its beginning. */
export interface ChunkName {
  readonly key: string
  readonly index: number
}

interface Entry extends ChunkName {
  readonly path: string
  readonly bytes: number
}

const TEMPORARY = '.new-'
/** How long a folder is left alone that would not take a chunk. */
const REFUSED_MS = 60_000

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
  #refusedUntil = 0

  private constructor(folder: string, mostBytes: number) {
    this.#folder = folder
    this.#most = mostBytes
  }

  /** Opens a folder with what an earlier process left in it. */
  static async open(folder: string, mostBytes: number): Promise<DiskChunks> {
    const chunks = new DiskChunks(folder, mostBytes)
    await mkdir(folder, { recursive: true, mode: 0o700 })
    const found: (Entry & { readonly written: number })[] = []
    for (const file of await readdir(folder, { recursive: true, withFileTypes: true })) {
      if (!file.isFile()) continue
      const path = join(file.parentPath, file.name)
      const name = parseName(path.slice(folder.length + 1))
      if (name) {
        const { size: bytes, mtimeMs: written } = await stat(path)
        found.push({ ...name, path, bytes, written })
      } else await rm(path, { force: true })
    }
    // When they were used last is not known any more.
    for (const { written: _, ...entry } of found.sort((a, b) => a.written - b.written)) {
      await chunks.drop(entry)
      chunks.#add(entry)
    }
    await chunks.#makeRoom()
    return chunks
  }

  get bytes(): number {
    return this.#bytes
  }

  /** False for a while after the folder would not take a chunk, and for good where the limit is less than one. */
  get isTaking(): boolean {
    return performance.now() >= this.#refusedUntil
  }

  has(name: ChunkName): boolean {
    return this.#entries.has(idOf(name))
  }

  /** As {@link has}, and what is there counts as used now. */
  touch(name: ChunkName): boolean {
    const id = idOf(name)
    const entry = this.#entries.get(id)
    if (!entry) return false
    this.#entries.delete(id)
    this.#entries.set(id, entry)
    return true
  }

  /** The file of a chunk; null if it is not there. A file has the same bytes for as long as it has its name. */
  path(name: ChunkName): string | null {
    return this.#entries.get(idOf(name))?.path ?? null
  }

  /** Fills `into` from byte `start` of a chunk on. False if it does not have those bytes (any more). */
  async read(name: ChunkName, start: number, into: Uint8Array): Promise<boolean> {
    const path = this.path(name)
    if (path === null) return false
    try {
      await using file = await open(path, 'r')
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
    if (this.has(name)) return
    if (bytes.length > this.#most) {
      this.#refusedUntil = Number.POSITIVE_INFINITY
      return
    }
    const serial = randomBytes(8).toString('hex')
    const path = join(this.#folder, `${idOf(name)}.${serial}`)
    const temporary = join(dirname(path), TEMPORARY + serial)
    try {
      await mkdir(dirname(path), { recursive: true, mode: 0o700 })
      await writeFile(temporary, bytes, { mode: 0o600 })
      await rename(temporary, path)
      this.#add({ ...name, path, bytes: bytes.length })
      await this.#makeRoom()
    } catch {
      // A disk that is full, say.
      this.#refusedUntil = performance.now() + REFUSED_MS
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
    await rm(entry.path, { force: true }).catch(() => {})
    return true
  }

  /** Forgets all chunks of a blob. */
  async dropBlob(key: string): Promise<void> {
    for (const entry of [...this.#entries.values()]) if (entry.key === key) await this.drop(entry)
    await rm(join(this.#folder, key), { recursive: true, force: true }).catch(() => {})
  }

  #add(entry: Entry): void {
    this.#bytes += entry.bytes
    this.#entries.set(idOf(entry), entry)
  }

  async #makeRoom(): Promise<void> {
    for (const oldest of this.#entries.values()) {
      if (this.#bytes <= this.#most) return
      await this.drop(oldest)
    }
  }
}

function idOf({ key, index }: ChunkName): string {
  return `${key}/${index}`
}

function parseName(path: string): ChunkName | null {
  const match = /^(.+)\/(\d{1,9})\.[0-9a-f]{16}$/.exec(path)
  return match && { key: match[1]!, index: Number(match[2]) }
}
