import type { BadBlock, BlockFault } from './tasks.ts'

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
