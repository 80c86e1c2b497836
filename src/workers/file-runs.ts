import { closeSync, openSync, readSync, writeSync } from 'node:fs'
import type { FileRun } from './tasks.ts'

/** A file that a worker could not read or write. `code` is the system's, or `short` where it ended too early. */
export class FileError extends Error {
  override readonly name = 'FileError'
  readonly path: string
  readonly code: string

  constructor(path: string, code: string, message: string) {
    super(message)
    this.path = path
    this.code = code
  }
}

/** Taken bytes begin at multiples of this. */
const ALIGNMENT = 64
/** Files that a worker keeps open. */
const KEPT = 32

/**
 * Reads runs of files into one arena that is used again for every task: a fresh buffer of some MiB costs as much in page faults as
 * the read itself. Synchronous: a worker has nothing else to do meanwhile.
 */
export class FileRuns {
  readonly #open = new Map<string, number>()
  readonly #arena: Uint8Array
  #used = 0

  /** Reads into `arena` while there is room in it, and into fresh memory where there is none. */
  constructor(arena: Uint8Array) {
    this.#arena = arena
  }

  /** How much is in use: give it to {@link release} to give up what was taken and read since. */
  mark(): number {
    return this.#used
  }

  /** Gives up all that was taken since `mark`, or all of it: its bytes may be overwritten. */
  release(mark = 0): void {
    this.#used = mark
  }

  /** The bytes of a run, valid until they are released. @throws FileError */
  read({ path, start, end }: FileRun): Uint8Array {
    const bytes = this.take(end - start)
    let at = 0
    while (at < bytes.length) {
      const read = this.#try(path, 'r', fd =>
        readSync(fd, bytes, at, bytes.length - at, start + at),
      )
      if (read === 0) {
        throw new FileError(
          path,
          'short',
          `${path}: expected ${end} bytes, it ends at ${start + at}`,
        )
      }
      at += read
    }
    return bytes
  }

  /** Writes all of `bytes` from byte `position` of an existing file on. @throws FileError */
  write(path: string, position: number, bytes: Uint8Array): void {
    let at = 0
    while (at < bytes.length) {
      const rest = bytes.length - at
      at += this.#try(path, 'r+', fd => writeSync(fd, bytes, at, rest, position + at))
    }
  }

  /** Room for `size` bytes, as {@link read} gives it; what it holds is anything. */
  take(size: number): Uint8Array {
    // Kernels work on whole vectors.
    const room = Math.ceil(size / ALIGNMENT) * ALIGNMENT
    // It is rare, and what was taken before keeps the memory that it is in.
    if (this.#used + room > this.#arena.length) return new Uint8Array(size)
    const bytes = this.#arena.subarray(this.#used, this.#used + size)
    this.#used += room
    return bytes
  }

  #try<T>(path: string, flags: 'r' | 'r+', use: (fd: number) => T): T {
    try {
      return use(this.#descriptor(path, flags))
    } catch (error) {
      const { code = 'unknown', message } = error as NodeJS.ErrnoException
      throw new FileError(path, code, message)
    }
  }

  #descriptor(path: string, flags: 'r' | 'r+'): number {
    const known = this.#open.get(path)
    if (known !== undefined) {
      this.#open.delete(path)
      this.#open.set(path, known)
      return known
    }
    const fd = openSync(path, flags)
    this.#open.set(path, fd)
    if (this.#open.size > KEPT) this.#closeOldest()
    return fd
  }

  #closeOldest(): void {
    const [path, fd] = this.#open.entries().next().value!
    this.#open.delete(path)
    closeSync(fd)
  }
}
