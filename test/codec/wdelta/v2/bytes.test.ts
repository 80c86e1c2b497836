import t from 'tap'
import { LIMITS } from '../../../../src/codec/base/limits.ts'
import { ByteReader, ByteWriter } from '../../../../src/codec/wdelta/v2/bytes.ts'

/** What does not fit the index is refused by this. */
const REFUSED = { name: 'CodecError', kind: 'delta', rule: 'index' }

/** A reader of bytes that stand at an odd place in a larger buffer. */
function readerOf(...bytes: number[]): ByteReader {
  return new ByteReader(Uint8Array.of(99, ...bytes, 99).subarray(1, 1 + bytes.length))
}

t.test('what is written is little-endian, one after the other', t => {
  const writer = new ByteWriter()
  writer.u8(1)
  writer.u16(0x0203)
  writer.u32(0x04050607)
  writer.u64(2 ** 32 + 8)
  writer.bytes(Uint8Array.of(9, 10))
  writer.text8('é')
  writer.text16('a')
  writer.column(Uint32Array.of(1, 2 ** 32 - 1))
  writer.wideColumn(BigUint64Array.of(2n ** 64n - 2n))
  t.strictSame(
    [...writer.end()],
    [
      ...[1, 3, 2, 7, 6, 5, 4],
      ...[8, 0, 0, 0, 1, 0, 0, 0, 9, 10],
      ...[2, 0xc3, 0xa9, 1, 0, 0x61],
      ...[1, 0, 0, 0, 255, 255, 255, 255],
      ...[254, 255, 255, 255, 255, 255, 255, 255],
    ],
  )
  t.end()
})

t.test('a writer grows with what is written, and begins empty', t => {
  t.equal(new ByteWriter().end().length, 0)
  const writer = new ByteWriter()
  const large = Uint8Array.from({ length: 5000 }, (_, i) => i)
  writer.u8(7)
  writer.bytes(large)
  writer.column(new Uint32Array(5000).fill(3))
  const written = writer.end()
  t.equal(written.length, 1 + 5000 + 20_000)
  t.ok(Buffer.from(written.subarray(1, 5001)).equals(large))
  t.strictSame([...written.subarray(-4)], [3, 0, 0, 0])
  t.end()
})

t.test('what was given is not what is written to later', t => {
  const writer = new ByteWriter()
  writer.u8(1)
  const before = writer.end()
  writer.u8(2)
  t.strictSame([...before], [1])
  t.strictSame([...writer.end()], [1, 2])
  t.end()
})

t.test('what was written is read back, wherever it stands', t => {
  const writer = new ByteWriter()
  writer.u16(65_535)
  writer.u64(LIMITS.dimension)
  writer.text8('ü\u{1f600}')
  writer.column(Uint32Array.of(5, 2 ** 31))
  writer.wideColumn(BigUint64Array.of(2n ** 63n))
  const reader = readerOf(...writer.end())
  t.equal(reader.u16(), 65_535)
  t.equal(reader.u64(), LIMITS.dimension)
  t.equal(reader.text(reader.u8()), 'ü\u{1f600}')
  t.strictSame(reader.column(2), Uint32Array.of(5, 2 ** 31))
  t.strictSame(reader.wideColumn(1), BigUint64Array.of(2n ** 63n))
  reader.end()
  t.end()
})

t.test('nothing is read beyond the end', t => {
  const reads: [name: string, width: number, read: (reader: ByteReader) => unknown][] = [
    ['u8', 1, reader => reader.u8()],
    ['u16', 2, reader => reader.u16()],
    ['u32', 4, reader => reader.u32()],
    ['u64', 8, reader => reader.u64()],
    ['bytes', 9, reader => reader.bytes(9)],
    ['copy', 9, reader => reader.copy(9)],
    ['text', 9, reader => reader.text(9)],
    ['column', 12, reader => reader.column(3)],
    ['wideColumn', 16, reader => reader.wideColumn(2)],
  ]
  for (const [name, width, read] of reads) {
    t.doesNotThrow(() => read(readerOf(...new Array<number>(width).fill(0))), name)
    t.throws(() => read(readerOf(...new Array<number>(width - 1).fill(0))), REFUSED, name)
  }
  t.end()
})

t.test('a count that nothing stands behind allocates nothing', t => {
  for (const count of [2 ** 29, 2 ** 32 - 1, Number.MAX_SAFE_INTEGER]) {
    t.throws(() => readerOf(1, 2, 3, 4).column(count), REFUSED)
    t.throws(() => readerOf(1, 2, 3, 4).wideColumn(count), REFUSED)
    t.throws(() => readerOf(1, 2, 3, 4).copy(count), REFUSED)
  }
  t.end()
})

t.test('what is refused says how many bytes were wanted, where, and of how many', t => {
  const reader = readerOf(1, 2, 3)
  reader.u16()
  t.throws(() => reader.u32(), { message: /expected 4 bytes at 2 of the index, it has 3/ })
  t.equal(reader.u8(), 3, 'and nothing of it was taken')
  t.end()
})

t.test('a dimension above the cap is refused', t => {
  const above = new ByteWriter()
  above.u64(LIMITS.dimension + 1)
  t.throws(() => new ByteReader(above.end()).u64(), REFUSED)
  t.throws(() => readerOf(...new Array<number>(8).fill(255)).u64(), REFUSED)
  t.end()
})

t.test('text that is not UTF-8 is refused, and what decoders like to drop is kept', t => {
  t.throws(() => readerOf(0xc3).text(1), REFUSED)
  t.throws(() => readerOf(0xed, 0xa0, 0x80).text(3), REFUSED, 'a surrogate')
  t.equal(readerOf(0xef, 0xbb, 0xbf, 0x61).text(4), '\ufeffa', 'a byte order mark')
  t.equal(readerOf().text(0), '')
  t.end()
})

t.test('bytes are a view, a copy is in memory of its own', t => {
  const index = Uint8Array.of(1, 2, 3, 4)
  const reader = new ByteReader(index)
  const [view, copy] = [reader.bytes(2), reader.copy(2)]
  t.equal(view.buffer, index.buffer)
  t.equal(copy.buffer.byteLength, 2)
  index.fill(0)
  t.strictSame(
    [[...view], [...copy]],
    [
      [0, 0],
      [3, 4],
    ],
  )
  t.end()
})

t.test('a fork reads on from there, and leaves the other where it is', t => {
  const reader = readerOf(1, 2, 3)
  reader.u8()
  const fork = reader.fork()
  t.equal(fork.u16(), 0x0302)
  fork.end()
  t.equal(reader.u8(), 2)
  t.throws(() => reader.end(), { ...REFUSED, message: /1 bytes of the index are left over/ })
  t.equal(fork.fork().bytes(0).length, 0)
  t.end()
})
