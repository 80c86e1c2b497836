import t from 'tap'
import { PlainMachine } from '../../../src/codec/kernels/plain.ts'
import { threadKernels } from '../../../src/workers/kernels.ts'
import { maker, unaligned } from './samples.ts'

const { machine: simd } = threadKernels()
const plain = new PlainMachine()

t.test('XXH64 of texts, as the xxHash library gives it', async t => {
  const cases: [string, bigint][] = [
    ['', 0xef46db3751d8e999n],
    ['a', 0xd24ec4f1a98c6e5bn],
    ['abc', 0x44bc2cf5ad770999n],
    ['Nobody inspects the spammish repetition', 0xfbcea83c8a378bf1n],
  ]
  for (const [text, expected] of cases) {
    const bytes = new TextEncoder().encode(text)
    t.equal(simd.checksum(bytes), expected, text)
    t.equal(plain.checksum(bytes), expected, `${text}, plain`)
  }
  // More than the kernels' memory takes at a time.
  const long = Uint8Array.from({ length: 10_240_000 }, (_, i) => i)
  t.equal(simd.checksum(long), 0x3fd21fc24ad40c0dn)
})

t.test('the kernel agrees with its plain twin, wherever the bytes are', async t => {
  const bytes = maker(5).bytes(1200)
  for (let length = 0; length < 200; length++) {
    const piece = bytes.subarray(length * 3, length * 4)
    const expected = plain.checksum(piece)
    const there = simd.arena.subarray(length % 7, (length % 7) + length)
    there.set(piece)
    if (simd.checksum(there) !== expected) t.fail(`${length} bytes of the arena`)
    if (simd.checksum(piece) !== expected) t.fail(`${length} bytes from elsewhere`)
    if (plain.checksum(unaligned(piece, 3)) !== expected) t.fail(`${length} bytes, unaligned`)
  }
  t.pass()
})
