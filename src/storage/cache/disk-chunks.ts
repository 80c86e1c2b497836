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

/** Start of the names of files that are being written. */
const TEMPORARY = '.new-'
/** Milliseconds without further writes after one has failed. */
const REFUSED_MS = 60_000

/**
 * Chunks of blobs in a folder, up to a number of bytes in all: the least recently used make room for new ones. Nothing is synced or trusted: files
 * may vanish at any time, and readers check their bytes.
 */
export class DiskChunks {
  readonly #folder: string
  readonly #mostBytes: number
  /** By name, least recently used first. */
  readonly #entries = new Map<string, Entry>()
  #bytes = 0
  #refusedUntil = 0

  private constructor(folder: string, mostBytes: number) {
    this.#folder = folder
    this.#mostBytes = mostBytes
  }

  /** Opens a folder, which is created if missing, with the chunks that an earlier process left in it. Rejects as the file system does. */
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
    // Their last use is not known: the time of writing stands for it.
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

  /** False for a while after a write has failed, and for good if a chunk is larger than the limit. */
  get isTaking(): boolean {
    return performance.now() >= this.#refusedUntil
  }

  has(name: ChunkName): boolean {
    return this.#entries.has(idOf(name))
  }

  /** As {@link has}; a chunk that is there counts as used now. */
  touch(name: ChunkName): boolean {
    const id = idOf(name)
    const entry = this.#entries.get(id)
    if (!entry) return false
    this.#entries.delete(id)
    this.#entries.set(id, entry)
    return true
  }

  /** The path of a chunk's file; null if it is not there. A file's bytes never change. */
  path(name: ChunkName): string | null {
    return this.#entries.get(idOf(name))?.path ?? null
  }

  /** Fills `into` with a chunk's bytes from `start` on. False if the chunk does not have them, or not any more. */
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

  /** Keeps a chunk, if the disk takes it. Never rejects. */
  async write(name: ChunkName, bytes: Uint8Array): Promise<void> {
    if (this.has(name)) return
    if (bytes.length > this.#mostBytes) {
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
      // For example a full disk.
      this.#refusedUntil = performance.now() + REFUSED_MS
      await rm(temporary, { force: true }).catch(() => {})
    }
  }

  /** Drops a chunk. True if it was there. */
  async drop(name: ChunkName): Promise<boolean> {
    const id = idOf(name)
    const entry = this.#entries.get(id)
    if (!entry) return false
    this.#entries.delete(id)
    this.#bytes -= entry.bytes
    await rm(entry.path, { force: true }).catch(() => {})
    return true
  }

  /** Drops all chunks of a blob. */
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
      if (this.#bytes <= this.#mostBytes) return
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
