import { randomBytes } from 'node:crypto'
import { type FileHandle, mkdir, open, readdir, rename, rm, stat } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import type { ByteRange } from '../../codec/base/ranges.ts'
import { RegistryError } from '../../errors.ts'
import { BLOB_KINDS, checkBlobKey, isBlobKey } from '../blob-key.ts'
import type { BlobInfo, BlobStore, Staged } from '../blob-store.ts'
import { translateReadError, translateStorageError } from '../disk-errors.ts'
import { FileHandles } from './file-handles.ts'

const STAGED = 'staged'
/** The name of a folder of blobs. Anything else is not ours. */
const FAN = /^[0-9a-f]{2}$/
/** Bytes of one write: chunks of an upload, 64 KiB from multipart, are joined to that. */
const WRITE_BYTES = 1024 * 1024
/** Most bytes of one system call. At 2 GiB Node does not reject: the process aborts. */
const CALL_BYTES = 2 ** 30

/**
 * Blobs as files of a folder, which is created if missing. A blob is written to `staged/`, synced, and renamed to its key; then the folders that
 * name it are synced, so that a committed blob survives a power cut.
 * Rejects with RegistryError `storage-failed` or `storage-full` if the folder cannot be created.
 */
export async function openFolderBlobStore(folder: string): Promise<BlobStore> {
  try {
    for (const name of [...BLOB_KINDS, STAGED]) await makeFolder(join(folder, name))
    await syncFolder(folder)
  } catch (error) {
    throw translateStorageError(error, folder)
  }
  return new FolderBlobStore(folder)
}

/** Creates a folder, with its parents, that only this user can read. Leaves an existing one as it is. Returns the first folder created, if any. */
function makeFolder(path: string): Promise<string | undefined> {
  return mkdir(path, { recursive: true, mode: 0o700 })
}

class FolderBlobStore implements BlobStore {
  readonly #folder: string
  readonly #handles = new FileHandles()
  /** Files of `staged/` that this process has neither committed nor dropped yet. */
  readonly #staged = new Set<string>()
  /** Folders of blobs whose own names this process has synced, or is syncing. */
  readonly #durable = new Map<string, Promise<void>>()

  constructor(folder: string) {
    this.#folder = folder
  }

  async stage(key: string, body: AsyncIterable<Uint8Array>, signal?: AbortSignal): Promise<Staged> {
    const source = join(this.#folder, STAGED, randomBytes(16).toString('hex'))
    const chunks = body[Symbol.asyncIterator]()
    this.#staged.add(source)
    try {
      const target = this.#path(key)
      const size = await this.#write(source, chunks, signal)
      return {
        size,
        commit: () => this.#commit(source, target),
        abort: () => this.#drop(source),
      }
    } catch (error) {
      await this.#drop(source)
      // The body must be closed whichever side failed. That closing fails too adds nothing.
      await chunks.return?.().catch(() => {})
      throw error
    }
  }

  async read(
    key: string,
    { start, end }: ByteRange,
    signal?: AbortSignal,
    into?: Uint8Array<ArrayBuffer>,
  ): Promise<Uint8Array<ArrayBuffer>> {
    const path = this.#path(key)
    if (!Number.isSafeInteger(start) || !Number.isSafeInteger(end) || start < 0 || end < start) {
      throw new RegistryError('storage-failed', `blob ${key} has no bytes ${start}..${end}`)
    }
    try {
      const bytes = into?.subarray(0, end - start) ?? new Uint8Array(end - start)
      await this.#handles.use(path, async handle => {
        let at = 0
        while (at < bytes.length) {
          signal?.throwIfAborted()
          const length = Math.min(bytes.length - at, CALL_BYTES)
          const { bytesRead } = await handle.read(bytes, at, length, start + at)
          if (bytesRead === 0) {
            const message = `blob ${key}: expected bytes up to ${end}, it ends at ${start + at}`
            throw new RegistryError('blob-short', message)
          }
          at += bytesRead
        }
      })
      return bytes
    } catch (error) {
      signal?.throwIfAborted()
      throw translateReadError(error, key)
    }
  }

  locate(key: string): string {
    return this.#path(key)
  }

  async size(key: string): Promise<number> {
    const path = this.#path(key)
    try {
      return (await stat(path)).size
    } catch (error) {
      throw translateReadError(error, key)
    }
  }

  async *list(
    prefix: string,
    isWanted: (key: string) => boolean = () => true,
  ): AsyncGenerator<BlobInfo> {
    for (const kind of BLOB_KINDS) {
      if (!kind.startsWith(prefix.slice(0, kind.length))) continue
      for (const fan of await this.#names(kind)) {
        const folder = `${kind}/${fan}`
        if (!FAN.test(fan) || !folder.startsWith(prefix.slice(0, folder.length))) continue
        for (const name of await this.#names(folder)) {
          const key = `${folder}/${name}`
          if (!isBlobKey(key) || !key.startsWith(prefix) || !isWanted(key)) continue
          const info = await this.#info(key)
          if (info) yield info
        }
      }
    }
  }

  async delete(keys: readonly string[]): Promise<void> {
    for (const key of keys) {
      const path = this.#path(key)
      await stored(key, () => rm(path, { force: true }))
      // After the deletion: a read in between would open the file again and keep it open.
      await this.#handles.forget(path)
    }
  }

  async sweepStaged(before: Date, dryRun: boolean): Promise<BlobInfo[]> {
    const swept: BlobInfo[] = []
    for (const name of await this.#names(STAGED)) {
      const info = await this.#info(`${STAGED}/${name}`)
      if (!info || info.modified >= before) continue
      const path = join(this.#folder, info.key)
      if (this.#staged.has(path)) continue
      if (dryRun || (await discard(path))) swept.push(info)
    }
    return swept
  }

  trim(): void {}

  async close(): Promise<void> {
    await this.#handles.close()
  }

  async #write(
    path: string,
    chunks: AsyncIterator<Uint8Array>,
    signal: AbortSignal | undefined,
  ): Promise<number> {
    const file = await stored(path, () => open(path, 'wx', 0o600))
    try {
      let size = 0
      for await (const piece of joined(chunks, signal)) {
        await stored(path, () => writeAll(file, piece))
        size += piece.length
      }
      await stored(path, () => file.datasync())
      return size
    } finally {
      await stored(path, () => file.close())
    }
  }

  async #commit(source: string, target: string): Promise<void> {
    await stored(target, async () => {
      const folder = dirname(target)
      const made = await makeFolder(folder)
      await this.#syncName(folder, made !== undefined)
      await rename(source, target)
      this.#staged.delete(source)
      await syncFolder(folder)
    })
  }

  async #drop(source: string): Promise<void> {
    await discard(source)
    this.#staged.delete(source)
  }

  /** Makes the name of a folder durable, once per process also if it existed: whoever created it may not have synced it, as before a crash. */
  #syncName(folder: string, isNew: boolean): Promise<void> {
    const known = isNew ? undefined : this.#durable.get(folder)
    if (known) return known
    const synced = syncFolder(dirname(folder))
    this.#durable.set(folder, synced)
    synced.catch(() => this.#durable.delete(folder))
    return synced
  }

  async #names(folder: string): Promise<string[]> {
    try {
      return await readdir(join(this.#folder, folder))
    } catch (error) {
      throw translateStorageError(error, folder)
    }
  }

  /** Null for a file that was deleted since it was listed. */
  async #info(key: string): Promise<BlobInfo | null> {
    try {
      const { size, mtime } = await stat(join(this.#folder, key))
      return { key, size, modified: mtime }
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'ENOENT') return null
      throw translateStorageError(error, key)
    }
  }

  #path(key: string): string {
    checkBlobKey(key)
    return join(this.#folder, key)
  }
}

/** Runs one step on the file system and translates its errors. Errors of an upload's body do not come through here. */
async function stored<T>(what: string, step: () => Promise<T>): Promise<T> {
  try {
    return await step()
  } catch (error) {
    throw translateStorageError(error, what)
  }
}

async function writeAll(file: FileHandle, piece: Uint8Array): Promise<void> {
  let at = 0
  while (at < piece.length) {
    at += (await file.write(piece, at, Math.min(piece.length - at, CALL_BYTES))).bytesWritten
  }
}

/** Joins small chunks to pieces of up to WRITE_BYTES; a larger chunk passes as it is. */
async function* joined(
  chunks: AsyncIterator<Uint8Array>,
  signal: AbortSignal | undefined,
): AsyncGenerator<Uint8Array> {
  const buffer = new Uint8Array(WRITE_BYTES)
  let held = 0
  for (;;) {
    signal?.throwIfAborted()
    const { value: chunk, done } = await chunks.next()
    if (done) break
    if (held + chunk.length > WRITE_BYTES) {
      if (held > 0) yield buffer.subarray(0, held)
      held = 0
    }
    if (chunk.length >= WRITE_BYTES) {
      yield chunk
      continue
    }
    buffer.set(chunk, held)
    held += chunk.length
  }
  if (held > 0) yield buffer.subarray(0, held)
}

/** Makes the names in a folder durable. */
async function syncFolder(folder: string): Promise<void> {
  const handle = await open(folder, 'r')
  try {
    await handle.sync()
  } finally {
    await handle.close()
  }
}

/** Removes a staged file, or leaves it to the sweep. True if it is gone. */
async function discard(path: string): Promise<boolean> {
  return rm(path, { force: true }).then(
    () => true,
    () => false,
  )
}
