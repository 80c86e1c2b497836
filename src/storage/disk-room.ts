import { randomBytes } from 'node:crypto'
import { open, rm, stat, statfs } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { RegistryError } from '../errors.ts'
import { translateStorageError } from './disk-errors.ts'

const RESERVE = '.reserve'
const PROBE = '.reserve-probe'

/** Least and most bytes of the reserve. Deleting a model of 10,000 files writes 5 MB of log to a small catalog. */
const MIN_RESERVE_BYTES = 4 * 2 ** 20
const MAX_RESERVE_BYTES = 128 * 2 ** 20
/** The reserve takes at most one part in this many of the disk. */
const DISK_SHARE = 16
/** Bytes of one write; the size of the reserve is a multiple of it. */
const WRITE_BYTES = 2 ** 20
/** Free bytes below which the disk counts as full: no model fits. */
const MIN_FREE_BYTES = 2 ** 20
/** Codes of SQLite for a write that a quota, or a file system that allocates late, refused: SQLITE_FULL covers ENOSPC alone. */
const SQLITE_NO_ROOM = new Set(['SQLITE_IOERR_WRITE', 'SQLITE_IOERR_FSYNC'])

/** Room on the disk of the catalog, part of it kept back for work that frees more. */
export interface Room {
  /** Runs `work`, which will free room. If it finds the disk full, it is run again from the start, in the room that was kept back for it. */
  lend<T>(work: () => Promise<T>): Promise<T>
  /** Runs `work`, which takes up room. Rejects `storage-full` without running it while the room for {@link Room.lend} is not set aside. */
  use<T>(work: () => Promise<T>): Promise<T>
  /** Rejects `storage-full` if nothing can be written. */
  check(): Promise<void>
}

/** Room that is not watched: nothing is kept back, and nothing refused. */
export const UNLIMITED: Room = { lend: work => work(), use: work => work(), check: async () => {} }

/**
 * The room of the disk that the catalog is on. The part kept back is a file, the reserve, which is deleted when room is needed: on a full disk,
 * deleting a model still takes some pages of SQLite's log. The reserve is written again as soon as it fits, before anything else takes that room.
 */
export class DiskRoom implements Room {
  readonly #folder: string
  readonly #catalog: string
  readonly #freeBytes: () => Promise<number>
  /** Work in lent room and filling the reserve take turns; this is the last of them. */
  #turn: Promise<unknown> = Promise.resolve()
  /** The reserve is smaller than it should be, because the disk was full. */
  #isShort = false
  /** The last write found no room. */
  #isFull = false

  /** `catalog`: path of the database; the reserve is in its folder, and grows with it. `freeBytes`: free bytes there. */
  constructor(catalog: string, freeBytes = () => freeBytesOf(dirname(catalog))) {
    this.#folder = dirname(catalog)
    this.#catalog = catalog
    this.#freeBytes = freeBytes
  }

  async lend<T>(work: () => Promise<T>): Promise<T> {
    try {
      return await work()
    } catch (error) {
      if (!foundNoRoom(error)) throw error
      return await this.#inTurn(async () => {
        try {
          await rm(join(this.#folder, RESERVE), { force: true })
          return await work()
        } finally {
          await this.#fill()
        }
      })
    }
  }

  async use<T>(work: () => Promise<T>): Promise<T> {
    await this.#keepReserve()
    try {
      const result = await work()
      this.#isFull = false
      return result
    } catch (error) {
      if (foundNoRoom(error)) this.#isFull = true
      throw error
    }
  }

  async check(): Promise<void> {
    if ((await this.#freeBytes()) < MIN_FREE_BYTES) {
      throw new RegistryError('storage-full', `less than ${MIN_FREE_BYTES} bytes are left`)
    }
    await this.#keepReserve()
    if (!this.#isFull) return
    // The free bytes say nothing about a quota: only a write does.
    await this.#try()
    this.#isFull = false
  }

  /** Fills the reserve as far as there is room. Never rejects: the rest is filled another time. */
  async fill(): Promise<void> {
    await this.#inTurn(() => this.#fill())
  }

  async #keepReserve(): Promise<void> {
    await this.fill()
    if (!this.#isShort) return
    throw new RegistryError('storage-full', 'the room that deletions need is not there')
  }

  #inTurn<T>(work: () => Promise<T>): Promise<T> {
    const turn = this.#turn.then(work)
    this.#turn = turn.catch(() => {})
    return turn
  }

  async #fill(): Promise<void> {
    const path = join(this.#folder, RESERVE)
    try {
      const [held, target] = [await sizeOf(path), await this.#target()]
      if (held < target) await append(path, target - held)
      this.#isShort = false
    } catch (error) {
      this.#isShort = foundNoRoom(translateStorageError(error, path))
    }
  }

  /** Bytes that the reserve should have: the log of one transaction is hardly ever longer than the catalog. */
  async #target(): Promise<number> {
    const { blocks, bsize } = await statfs(this.#folder)
    const wanted = MIN_RESERVE_BYTES + (await sizeOf(this.#catalog))
    const most = Math.min(MAX_RESERVE_BYTES, Math.floor((blocks * bsize) / DISK_SHARE))
    return Math.min(Math.ceil(wanted / WRITE_BYTES) * WRITE_BYTES, most)
  }

  async #try(): Promise<void> {
    const path = join(this.#folder, PROBE)
    try {
      await append(path, MIN_FREE_BYTES)
    } catch (error) {
      throw translateStorageError(error, path)
    } finally {
      await rm(path, { force: true })
    }
  }
}

/** Whether a failure may be due to a full disk. */
function foundNoRoom(error: unknown): boolean {
  const { code, cause } = error as { code?: string; cause?: { code?: string } }
  return code === 'storage-full' || SQLITE_NO_ROOM.has(cause?.code ?? '')
}

async function freeBytesOf(folder: string): Promise<number> {
  const { bavail, bsize } = await statfs(folder)
  return bavail * bsize
}

async function sizeOf(path: string): Promise<number> {
  return (await stat(path).catch(() => null))?.size ?? 0
}

/** Extends a file by random bytes, which no file system can compress or share. */
async function append(path: string, bytes: number): Promise<void> {
  const piece = randomBytes(Math.min(bytes, WRITE_BYTES))
  const file = await open(path, 'a', 0o600)
  try {
    for (let left = bytes; left > 0; ) {
      left -= (await file.write(piece, 0, Math.min(left, piece.length))).bytesWritten
    }
    await file.datasync()
  } finally {
    await file.close()
  }
}
