import { randomBytes } from 'node:crypto'
import { open, rm, stat, statfs } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { RegistryError } from '../errors.ts'
import { translateStorageError } from './disk-errors.ts'

const RESERVE = '.reserve'
const PROBE = '.reserve-probe'

/** Of the reserve. Deleting a model of 10,000 files writes 5 MB of log to a small catalog. */
const MIN_RESERVE_BYTES = 4 * 2 ** 20
const MAX_RESERVE_BYTES = 128 * 2 ** 20
/** Of the disk, the reserve is at most one part in so many. */
const DISK_SHARE = 16
/** Written at a time, and what the size of the reserve is rounded up to. */
const WRITE_BYTES = 2 ** 20
/** Less than this is as good as nothing: no model goes in. */
const MIN_FREE_BYTES = 2 ** 20
/** What SQLite says where a quota or a file system that allocates late leaves it no room: it knows no other error of the system by name. */
const SQLITE_NO_ROOM = new Set(['SQLITE_IOERR_WRITE', 'SQLITE_IOERR_FSYNC'])

/** Where what frees room finds some to be written in. */
export interface Room {
  /** Does `work`, which frees room in the end. Where it finds none, it is done once more, from its beginning, in room that was kept for it. */
  lend<T>(work: () => Promise<T>): Promise<T>
  /** Does `work`, which takes room up. Rejects with `storage-full` before where the room kept for {@link Room.lend} is not there: that comes first. */
  use<T>(work: () => Promise<T>): Promise<T>
  /** Rejects with `storage-full` where nothing can be written. */
  check(): Promise<void>
}

/** The room of a folder that nobody looks after. */
export const UNLIMITED: Room = { lend: work => work(), use: work => work(), check: async () => {} }

/**
 * The room of the disk that the catalog is on. A part of it is a file that is there to be deleted: on a disk that is full, deleting a model
 * still takes some pages of SQLite's log. The file is made again as soon as there is room for it, and before anything else takes that.
 */
export class DiskRoom implements Room {
  readonly #folder: string
  readonly #catalog: string
  readonly #freeBytes: () => Promise<number>
  /** Work in lent room, and the filling of the reserve: one after the other. */
  #turn: Promise<unknown> = Promise.resolve()
  /** The reserve could not be made as large as it should be. */
  #isShort = false
  /** A write found no room, and none has gone well since. */
  #isFull = false

  /** `catalog`: path of the database; the reserve is in its folder, and grows with it. `freeBytes`: what may still be written there. */
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
    // A quota shows in no figure: it must be tried.
    await this.#try()
    this.#isFull = false
  }

  /** Takes the room of the reserve, as much of it as there is. Never rejects: what is lacking is taken another time. */
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

  /** The log of one transaction is hardly ever longer than the catalog. */
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

/** True for a failure that more room may mend. */
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

/** Makes a file longer, in blocks of its own: of bytes that no file system stores as less than they are. */
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
