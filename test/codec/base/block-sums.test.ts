import t from 'tap'
import {
  BLOCK_BYTES,
  BlockSummer,
  badBlocks,
  coveringBlocks,
} from '../../../src/codec/base/block-sums.ts'
import { PlainMachine } from '../../../src/codec/kernels/plain.ts'
import { threadKernels } from '../../../src/workers/kernels.ts'

const { machine } = threadKernels()
const checksum = (bytes: Uint8Array) => machine.checksum(bytes)

function sumsOf(bytes: Uint8Array, piece: number) {
  const summer = new BlockSummer(checksum)
  for (let at = 0; at < bytes.length; at += piece) summer.push(bytes.subarray(at, at + piece))
  return summer.end()
}

const bytesOf = (length: number) => Uint8Array.from({ length }, (_, i) => i * 31 + (i >> 9))

t.test('pieces of any size give the same checksums', async t => {
  const plain = new PlainMachine()
  for (const length of [0, 1, BLOCK_BYTES - 1, BLOCK_BYTES, 3 * BLOCK_BYTES + 5]) {
    const bytes = bytesOf(length)
    const expected = { size: length, sums: [] as bigint[] }
    for (let at = 0; at < length; at += BLOCK_BYTES) {
      expected.sums.push(plain.checksum(bytes.subarray(at, at + BLOCK_BYTES)))
    }
    for (const piece of [1000, BLOCK_BYTES - 1, BLOCK_BYTES, 2 * BLOCK_BYTES + 1, length + 1]) {
      const { size, sums } = sumsOf(bytes, piece)
      t.strictSame({ size, sums: [...sums] }, expected, `${length} bytes by ${piece}`)
    }
  }
})

t.test('a range is covered by whole blocks, and every flipped byte of them is found', async t => {
  const bytes = bytesOf(2 * BLOCK_BYTES + 100)
  const all = sumsOf(bytes, 4096)
  const cases = [
    { start: 0, end: 1, covered: [0, BLOCK_BYTES] },
    { start: BLOCK_BYTES - 1, end: BLOCK_BYTES + 1, covered: [0, 2 * BLOCK_BYTES] },
    { start: BLOCK_BYTES, end: 2 * BLOCK_BYTES, covered: [BLOCK_BYTES, 2 * BLOCK_BYTES] },
    { start: 2 * BLOCK_BYTES + 99, end: bytes.length, covered: [2 * BLOCK_BYTES, bytes.length] },
    { start: 0, end: bytes.length, covered: [0, bytes.length] },
    { start: 7, end: 7, covered: [7, 7] },
  ]
  for (const { start, end, covered } of cases) {
    const run = coveringBlocks(all, start, end)
    t.strictSame([run.start, run.end], covered)
    const read = bytes.slice(run.start, run.end)
    t.strictSame([...badBlocks(checksum, read, run)], [])
    for (const at of [0, read.length >> 1, read.length - 1]) {
      if (read.length === 0) continue
      read[at]! ^= 4
      const block = run.start + Math.floor(at / BLOCK_BYTES) * BLOCK_BYTES
      t.strictSame([...badBlocks(checksum, read, run)], [block], `byte ${at} of ${start}..${end}`)
      read[at]! ^= 4
    }
  }
})
