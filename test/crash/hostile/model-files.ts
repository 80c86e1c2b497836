import type { Draws, Makers } from './draws.ts'
import { headerOf, safetensors, withLength } from './known-model.ts'

/** Makers of safetensors files that are hostile, and of some that are sound. */
export function modelFiles(draw: Draws): Makers {
  const { random } = draw
  return {
    'files, sound': () => draw.files(safetensors(draw.tuned())),
    'files, a header': () => {
      const data = draw.tuned().map(({ bytes }) => bytes)
      return draw.files(Buffer.concat([withLength(Buffer.from(draw.header(), 'latin1')), ...data]))
    },
    'files, a header and its length': () => {
      const header = headerOf(draw.base.tensors)
      const length = BigInt.asUintN(
        64,
        random.pick([draw.number(), BigInt(header.length + 1 - random.below(3))]),
      )
      return draw.files(Buffer.concat([withLength(header, length), random.bytes(5000)]))
    },
    'files, many tensors': () => manyTensors(draw),
    'files, cut or turned': () => {
      const file = safetensors(draw.tuned())
      const cut = random.chance(50) ? file.subarray(0, random.below(file.length)) : file
      return draw.files(draw.flipped(cut))
    },
    'files, an index beside them': () => {
      const [first, ...rest] = draw.base.tensors
      const map = Object.fromEntries(
        draw.base.tensors.map(({ name }, i) => [name, i === 0 ? 'a.safetensors' : 'b.safetensors']),
      )
      const json = draw.json(JSON.stringify({ metadata: { total_size: 1 }, weight_map: map }))
      return draw.form([
        { name: 'a.safetensors', bytes: safetensors([first!]) },
        { name: 'b.safetensors', bytes: safetensors(random.chance(20) ? [first!] : rest) },
        { name: 'model.safetensors.index.json', bytes: Buffer.from(json, 'latin1') },
      ])
    },
  }
}

function manyTensors(draw: Draws) {
  const { random } = draw
  const count = 1 + random.below(30_000)
  const width = random.below(2)
  const names = Array.from({ length: count }, (_, i) => i.toString(36))
  if (random.chance(30)) names.push(names[0]!)
  const tensors = names.map(name => ({
    name,
    dtype: 'U8' as const,
    shape: [width],
    bytes: new Uint8Array(width),
  }))
  return draw.files(safetensors(tensors), { tensors: count })
}
