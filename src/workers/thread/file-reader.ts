import { closeSync, openSync, readSync, writeSync } from 'node:fs'
import { badBlocks } from '../../codec/base/block-sums.ts'
import type { ByteRange, LocalFile } from '../../codec/base/ranges.ts'
import type { BadBlock, BlockFault } from '../errors.ts'
import { BlockError, FileError } from '../errors.ts'
import type { Check } from '../tasks.ts'

/** What a worker reads with: memory for the bytes, and their checksums. */
interface ReadingMachine {
  readonly arena: Uint8Array
  checksum(bytes: Uint8Array): bigint
}

/** Bytes `[start, end)` of a blob, and what they are checked against. */
interface CheckedRange extends ByteRange {
  readonly check: Check | null
}

/** Bytes that taken memory is aligned to. */
const ALIGNMENT = 64
/** Most files that are open at once. */
const MAX_OPEN = 32

/**
 * Reads ranges of files into one arena that every task uses again: a fresh buffer of some MiB would cost as much in page faults as the read.
 * Synchronous: a worker has nothing else to do meanwhile.
 */
export class FileReader {
  readonly #open = new Map<string, number>()
  readonly #machine: ReadingMachine
  #used = 0

  /** Reads into the machine's arena while there is room, then into fresh memory. */
  constructor(machine: ReadingMachine) {
    this.#machine = machine
  }

  /** The bytes of the arena in use. Given to {@link release}, it frees what was taken and read since. */
  mark(): number {
    return this.#used
  }

  /** Closes the files. An open file would keep its bytes on the disk after its blob is deleted, and opening it again takes a microsecond. */
  close(): void {
    using open = new DisposableStack()
    for (const [path, fd] of this.#open) open.defer(() => attempt(path, () => closeSync(fd)))
    this.#open.clear()
  }

  /** Frees what was taken since `mark`, or everything: its bytes may then be overwritten. */
  release(mark = 0): void {
    this.#used = mark
  }

  /** The bytes of a range, checked, valid until they are released. @throws BlockError; FileError for a file without checksums */
  read(files: readonly LocalFile[], { start, end, check }: CheckedRange): Uint8Array {
    if (!check) return this.#read(files, start, end)
    const bytes = this.#readBlocks(files, check)
    this.verify(bytes, check)
    return bytes.subarray(start - check.start, end - check.start)
  }

  /** Compares the blocks of `bytes` with their checksums. @throws BlockError for the first that differs */
  verify(bytes: Uint8Array, check: Check): void {
    const [first] = this.badBlocksOf(bytes, check)
    if (first) throw new BlockError(first.blob, first.offset, first.why)
  }

  /** The blocks of `bytes` that do not have their checksum. */
  badBlocksOf(bytes: Uint8Array, check: Check): BadBlock[] {
    const { blob } = check
    const found = badBlocks(piece => this.#machine.checksum(piece), bytes, check)
    return Array.from(found, offset => ({ blob, offset, why: 'checksum' }))
  }

  /** The bad ones among the blocks of a check. @throws FileError for a fault of the machine */
  badBlocks(files: readonly LocalFile[], check: Check): BadBlock[] {
    try {
      return this.badBlocksOf(this.#readBlocks(files, check), check)
    } catch (error) {
      if (!(error instanceof BlockError)) throw error
      const { blob, offset, why } = error
      return [{ blob, offset, why }]
    }
  }

  /** Writes all of `bytes` to an existing file, from byte `position` on. @throws FileError */
  write(path: string, position: number, bytes: Uint8Array): void {
    let at = 0
    while (at < bytes.length) {
      const rest = bytes.length - at
      at += attempt(path, () =>
        writeSync(this.#descriptor(path, 'r+'), bytes, at, rest, position + at),
      )
    }
  }

  /** Memory for `size` bytes, with any content, valid until it is released. */
  take(size: number): Uint8Array {
    // Kernels work on whole vectors.
    const room = Math.ceil(size / ALIGNMENT) * ALIGNMENT
    const { arena } = this.#machine
    // Rare. The arena cannot grow: what was taken stays where it is.
    if (this.#used + room > arena.length) return new Uint8Array(size)
    const bytes = arena.subarray(this.#used, this.#used + size)
    this.#used += room
    return bytes
  }

  #readBlocks(files: readonly LocalFile[], { blob, start, end }: Check): Uint8Array {
    try {
      return this.#read(files, start, end)
    } catch (error) {
      const why = error instanceof FileError ? faultOf(error) : null
      if (why === null) throw error
      throw new BlockError(blob, start, why, { cause: error })
    }
  }

  #read(files: readonly LocalFile[], start: number, end: number): Uint8Array {
    const bytes = this.take(end - start)
    let at = start
    for (const [i, { path, start: from }] of files.entries()) {
      const until = Math.min(end, files[i + 1]?.start ?? end)
      while (at < until) {
        const into = at - start
        const read = attempt(path, () =>
          readSync(this.#descriptor(path, 'r'), bytes, into, until - at, at - from),
        )
        if (read === 0) {
          const came = `it ends at ${at - from}`
          throw new FileError(path, 'short', `${path}: expected ${until - from} bytes, ${came}`)
        }
        at += read
      }
    }
    return bytes
  }

  #descriptor(path: string, flags: 'r' | 'r+'): number {
    const known = this.#open.get(path)
    if (known !== undefined) return known
    if (this.#open.size === MAX_OPEN) this.close()
    const fd = openSync(path, flags)
    this.#open.set(path, fd)
    return fd
  }
}

/** The result of `work`. @throws FileError in place of what it throws */
function attempt<T>(path: string, work: () => T): T {
  try {
    return work()
  } catch (error) {
    const { code = 'unknown', message } = error as NodeJS.ErrnoException
    throw new FileError(path, code, message)
  }
}

/** What an error says about the blob; null if it is about the machine. */
function faultOf({ code }: FileError): BlockFault | null {
  if (code === 'short') return 'short'
  if (code === 'ENOENT') return 'missing'
  return code === 'EIO' ? 'unreadable' : null
}
