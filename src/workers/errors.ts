/** Why a block cannot be used: other bytes, too few of them, no blob at all, or a disk that cannot read it. */
export type BlockFault = 'checksum' | 'short' | 'missing' | 'unreadable'

/** A block that is not what was stored: see `BlockError`. */
export interface BadBlock {
  readonly blob: string
  readonly offset: number
  readonly why: BlockFault
}

const WHAT: Readonly<Record<BlockFault, string>> = {
  checksum: 'has another checksum than when it was stored',
  short: 'is not there: the blob ends too early',
  missing: 'is not there: the blob is missing',
  unreadable: 'cannot be read',
}

/** A block of a blob that is not what was stored. `offset` is its first byte, as far as it is known. */
export class BlockError extends Error implements BadBlock {
  override readonly name = 'BlockError'
  readonly blob: string
  readonly offset: number
  readonly why: BlockFault

  constructor(blob: string, offset: number, why: BlockFault, options?: ErrorOptions) {
    super(`blob ${blob}, block at byte ${offset}: it ${WHAT[why]}`, options)
    this.blob = blob
    this.offset = offset
    this.why = why
  }
}

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

/** All buffers of a pool were out for as long as one may be waited for. */
export class BuffersOutError extends Error {
  override readonly name = 'BuffersOutError'
}
