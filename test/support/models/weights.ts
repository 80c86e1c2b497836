import { buildLayout } from '../../../src/codec/safetensors/write-header.ts'
import { Random } from '../random.ts'

/** A BF16 model of some blocks: weights that look like weights, from a seed; near to those of `before`, where it is given. */
export function weights(seed: number, before?: Buffer): Buffer {
  const random = new Random(seed)
  const layout = buildLayout(
    ['a', 'b', 'c', 'd'].map(name => ({ name, dtype: 'BF16' as const, shape: [64, 700] })),
    null,
  )
  const file = Buffer.alloc(layout.size)
  file.set(layout.header)
  for (let at = layout.header.length; at < file.length; at += 2) {
    const old = before?.readUInt16LE(at) ?? 0x3c00 + random.below(0x180)
    file.writeUInt16LE(before ? old + random.below(9) - 4 : old, at)
  }
  return file
}
