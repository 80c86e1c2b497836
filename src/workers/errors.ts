/** Why a block cannot be used: its bytes are others, or too few, its blob is missing, or the disk cannot read it. */
export type BlockFault = 'checksum' | 'short' | 'missing' | 'unreadable'

/** A block whose bytes are not those that were stored. */
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

/**
 * A read met a block whose bytes are not those that were stored. `offset` is its first byte; if several were read, it may be that of an earlier
 * block.
 */
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

/** A worker could not read or write a file. `code` is the system's, or `short` if the file ended too early. */
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

/** All buffers of a pool were out for the longest time that one is waited for. */
export class BuffersOutError extends Error {
  override readonly name = 'BuffersOutError'
}
